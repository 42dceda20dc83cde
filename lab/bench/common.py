"""What the bench's scripts share. Each measurement goes to standard output as a line of JSON; `cargo xtask bench` reads them."""

import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time
import uuid

import libvirt

# libvirt-python prints each error before it raises it.
libvirt.registerErrorHandler(lambda *_: None, None)


def tell(what, who, samples, unit="ms", size=None):
    """Hands samples over; `size` where the same was measured in several, which are compared then."""
    print(json.dumps({"what": what, "who": who, "unit": unit, "size": size, "samples": samples}), flush=True)


def say(text):
    """Tells a person how far it is."""
    print(text, file=sys.stderr, flush=True)


def timed(function, *arguments):
    """Milliseconds that a call takes, and what it returns."""
    start = time.perf_counter_ns()
    result = function(*arguments)
    return (time.perf_counter_ns() - start) / 1e6, result


def end(pid, number=signal.SIGTERM):
    """Ends a process and waits until it is gone, be it a child or not."""
    watch = os.pidfd_open(pid)
    os.kill(pid, number)
    select.select([watch], [], [])
    os.close(watch)


def lab_daemon():
    """The process of the daemon that the lab started."""
    return json.loads(subprocess.run(["virtnic", "status", "--json"], capture_output=True, check=True).stdout)["pid"]


def vf_address(pf, number):
    """The PCI address of a VF."""
    return pathlib.Path(f"/sys/class/net/{pf}/device/virtfn{number}").resolve().name


def start_virtnicd(root="/", *options):
    """Starts virtnicd and waits until it is ready; returns the process and the URI by which it is reached."""
    pathlib.Path(root).mkdir(parents=True, exist_ok=True)
    notify = f"/tmp/notify-{uuid.uuid4()}"
    log = open(f"/tmp/virtnicd-{os.getpid()}.log", "ab")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(notify)
        ready.settimeout(60)
        daemon = subprocess.Popen(
            ["virtnicd", "--root", root, *options],
            env={**os.environ, "NOTIFY_SOCKET": notify},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        while b"READY=1" not in ready.recv(4096).split(b"\n"):
            pass
    path = pathlib.Path(root, "run/virtnic/virtnic-sock")
    return daemon, f"qemu:///system?socket={path}"


def start_libvirtd():
    """Starts libvirtd, which detaches when it is ready; returns its pid and its URI."""
    for directory in ("/run/libvirt", "/var/log/libvirt"):
        os.makedirs(directory, exist_ok=True)
    # Its helper keeps consoles' logs, and is wanted by the QEMU driver.
    for command in (["virtlogd", "-d"], ["libvirtd", "-d"]):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return int(pathlib.Path("/run/libvirtd.pid").read_text()), "qemu:///system"


def port_xml(number):
    """A port of an interface that needs no particular device."""
    return f"""
<networkport>
  <uuid>{uuid.uuid4()}</uuid>
  <owner><name>bench{number}</name><uuid>{uuid.uuid4()}</uuid></owner>
  <mac address='52:54:00:{number // 65536 % 256:02x}:{number // 256 % 256:02x}:{number % 256:02x}'/>
</networkport>"""


def make_veths(names):
    """Makes a veth pair for each name, without which libvirtd has nothing to lend."""
    batch = "".join(f"link add {name} type veth peer name {name}p\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)


def listed(devices):
    """Devices that a network lists by name."""
    return "".join(f"<interface dev='{device}'/>" for device in devices)


def hostdev_network(name, pfs):
    """A network that lends the VFs of these PFs."""
    lent = "".join(f"<pf dev='{pf}'/>" for pf in pfs)
    return f"<network><name>{name}</name><forward mode='hostdev' managed='yes'>{lent}</forward></network>"


def direct_network(name, mode, members):
    """A network whose guests get macvtaps."""
    return f"<network><name>{name}</name><forward mode='{mode}'>{members}</forward></network>"


class Ports:
    """Ports made and deleted, one at a time, on one daemon's network."""

    def __init__(self, who, uri, network):
        self.who = who
        self.connection = libvirt.open(uri)
        self.network = self.connection.networkCreateXML(network)
        self.times = {"no-op call": [], "port create": [], "port delete": []}

    def round(self, times):
        for number in range(times):
            document = port_xml(number)
            self.times["no-op call"].append(timed(self.network.isActive)[0])
            spent, port = timed(self.network.portCreateXML, document, 0)
            self.times["port create"].append(spent)
            self.times["port delete"].append(timed(port.delete, 0)[0])

    def done(self):
        self.network.destroy()
        self.connection.close()


def compare_ports(sides, count):
    """Measures the sides in turns, so that whatever else the machine does hits all alike."""
    turns = 20
    for side in sides:
        # The first calls pay for what is done once.
        side.round(5)
        for times in side.times.values():
            times.clear()
    for _ in range(turns):
        for side in sides:
            side.round(max(1, count // turns))
    for side in sides:
        side.done()
        for what, times in side.times.items():
            tell(what, side.who, times)
