"""The bench of a writer beside hostile readers: how long its list takes, and how much memory the daemon has.

Usage: readers.py READERS CALLS
"""

import multiprocessing
import pathlib
import select
import socket
import struct
import sys
import time

import libvirt
from common import hostdev_network, say, start_virtnicd, tell, timed

MAIN, OWN = 0x20008086, 0x20766E63
OPEN, LIST_NETWORKS, REGISTER, PLAN = 1, 283, 313, 3
READ_ONLY = 1


def text(value):
    """A string of XDR."""
    data = value.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def frame(program, procedure, payload=b"", claimed=None):
    """A call; `claimed` bytes long, if it is not all there."""
    header = struct.pack(">IIiiIi", program, 1, procedure, 0, 1, 0)
    length = claimed or 4 + len(header) + len(payload)
    return struct.pack(">I", length) + header + payload


class Attacker:
    """Sends the same again and again, as fast as it is taken; is back as soon as it is cut off."""

    def __init__(self, path, first, then, reads):
        self.path, self.first, self.then, self.reads = path, first, then, reads
        self.connect()

    def connect(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.path)
        self.socket.setblocking(False)
        self.left = memoryview(self.first)

    def go_on(self):
        try:
            if self.reads and not self.socket.recv(1 << 16):
                raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            return self.again()
        try:
            self.left = self.left[self.socket.send(self.left) :] if self.left else memoryview(self.then)
        except BlockingIOError:
            pass
        except OSError:
            self.again()

    def again(self):
        self.socket.close()
        self.connect()

    def idle(self):
        """All is sent that it has to send."""
        return not self.left and not self.then


def attack(root, count, ready):
    """Half frames with and without a connection, registrations and lists that are never read, slow calls, and lists without end."""
    sock = pathlib.Path(root, "run/virtnic/virtnic-sock")
    read_only = f"{sock}-ro"
    opened = frame(MAIN, OPEN, struct.pack(">II", 0, READ_ONLY))
    disks = "".join(f"<disk type='file'><source file='/d{n}'/><target dev='vd{n}'/></disk>" for n in range(1000))
    document = (
        "<domain type='qemu'><name>large</name><memory>1024</memory><os><type>hvm</type></os>"
        f"<devices>{disks}</devices></domain>"
    )
    plan = frame(OWN, PLAN, struct.pack(">I", 1) + text(document))
    half = frame(OWN, PLAN, bytes(200 * 1024), claimed=255 * 1024)
    listing = frame(MAIN, LIST_NETWORKS, struct.pack(">II", 1, 0))
    register = frame(MAIN, REGISTER, struct.pack(">II", 0, 0))
    kinds = [
        (read_only, opened + half, b"", False),
        (str(sock), half, b"", False),
        (read_only, opened + register * 4096, listing, False),
        (read_only, opened, plan, False),
        (read_only, opened, listing, True),
    ]
    crowd = [Attacker(*kinds[number % len(kinds)]) for number in range(count)]
    ready.set()
    while True:
        for attacker in crowd:
            attacker.go_on()
        # Those that are waited for wake it; the others are looked after now and then.
        waiting = [one.socket for one in crowd if not one.idle()]
        select.select([], waiting, [], 0.01)


def memory(pid):
    """The most memory that the process ever had, MB."""
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def listing_times(writer, calls):
    """How long each of so many lists took, a millisecond apart: long enough to see the readers at all that they do."""
    times = []
    for _ in range(calls):
        times.append(timed(writer.listAllNetworks)[0])
        time.sleep(0.001)
    return times


def main(readers, calls):
    root = "/tmp/readers"
    daemon, uri = start_virtnicd(root, "--simulate", "pfs=2,vfs=400")
    writer = libvirt.open(uri)
    for number in range(16):
        writer.networkDefineXML(hostdev_network(f"n{number}", ["sim0"]))
    say("a writer's list at rest")
    listing_times(writer, 100)
    tell("a writer's list at rest", "virtnicd", listing_times(writer, calls))
    tell("memory before readers came, peak", "virtnicd", [memory(daemon.pid)], "MB")

    say(f"a writer's list beside {readers} hostile readers")
    ready = multiprocessing.Event()
    attackers = multiprocessing.Process(target=attack, args=(root, readers, ready), daemon=True)
    attackers.start()
    ready.wait()
    # As long as it takes until all of them have filled what they can.
    time.sleep(2)
    tell("a writer's list beside hostile readers", "virtnicd", listing_times(writer, calls))
    tell("memory beside hostile readers, peak", "virtnicd", [memory(daemon.pid)], "MB")
    attackers.kill()
    writer.close()
    daemon.terminate()


main(int(sys.argv[1]), int(sys.argv[2]))
