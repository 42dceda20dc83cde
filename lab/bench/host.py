"""The bench in the emulated host: ports, and guests with a VF. Both daemons run, each on sockets of its own.

Usage: host.py PORTS GUESTS
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

import libvirt
from common import Ports, compare_ports, end, lab_daemon, say, start_libvirtd, start_virtnicd, tell, timed

PF = os.environ["LAB_PF0"]
VF = pathlib.Path(f"/sys/class/net/{PF}/device/virtfn0").resolve()
MAC = "52:54:00:aa:bb:01"
NETWORK = f"<network><name>bench</name><forward mode='hostdev' managed='yes'><pf dev='{PF}'/></forward></network>"
GUEST = f"""
<domain type='qemu'>
  <name>bench</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{os.environ['LAB_GUEST_KERNEL']}</kernel>
    <initrd>{os.environ['LAB_GUEST_INITRD']}</initrd>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <interface type='network'><mac address='{MAC}'/><source network='bench'/></interface>
    <memballoon model='none'/>
  </devices>
</domain>"""


def qemu_pid():
    """The one QEMU that runs here."""
    return int(subprocess.run(["pgrep", "--exact", "qemu-system-x86"], capture_output=True, check=True).stdout)


class Daemon:
    """A daemon that starts the guest, by virsh."""

    def __init__(self, who, uri):
        self.who, self.uri = who, uri
        self.connection = libvirt.open(uri)
        self.network = self.connection.networkCreateXML(NETWORK)
        self.times = []

    def create(self):
        subprocess.run(
            ["virsh", "-q", "-c", self.uri, "create", "--paused", "/tmp/bench.xml"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def take_away(self):
        self.connection.lookupByName("bench").destroy()

    def done(self):
        self.network.destroy()
        self.connection.close()


class Bare:
    """The bare script, with the QEMU command line that virtnicd used."""

    who = "bare script"

    def __init__(self, command):
        self.socket = "/tmp/bench-qmp"
        monitor = re.compile(r"^socket,id=charmonitor,.*")
        own = f"socket,id=charmonitor,path={self.socket}"
        self.command = [monitor.sub(own, word) for word in command]
        if self.command == command:
            sys.exit(f"virtnicd's QEMU has no monitor that could be replaced: {command}")
        self.times = []

    def create(self):
        script = ["bash", "/checkout/lab/bench/bare.sh", PF, "0", MAC, self.socket, *self.command]
        self.qemu = int(subprocess.run(script, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout)

    def take_away(self):
        end(self.qemu, signal.SIGKILL)
        for path, text in (
            (VF / "driver_override", "\n"),
            (VF / "driver/unbind", VF.name),
            (pathlib.Path("/sys/bus/pci/drivers_probe"), VF.name),
        ):
            path.write_text(text)

    def done(self):
        pass


def main(ports, guests):
    end(lab_daemon())
    _, uri = start_virtnicd()
    _, libvirt_uri = start_libvirtd()
    say(f"ports: {ports} on each daemon")
    compare_ports([Ports("virtnicd", uri, NETWORK), Ports("libvirtd", libvirt_uri, NETWORK)], ports)

    say(f"guests with a VF, started paused: {guests} in each way")
    pathlib.Path("/tmp/bench.xml").write_text(GUEST)
    sides = [Daemon("virtnicd", uri), Daemon("libvirtd", libvirt_uri)]
    # The first start pays for looking at QEMU.
    for side in sides:
        side.create()
        if side.who == "virtnicd":
            command = pathlib.Path(f"/proc/{qemu_pid()}/cmdline").read_text().split("\0")[:-1]
        side.take_away()
    sides.append(Bare(command))
    for _ in range(guests):
        for side in sides:
            side.times.append(timed(side.create)[0])
            side.take_away()
    for side in sides:
        side.done()
        tell("guest with a VF", side.who, side.times)


main(*map(int, sys.argv[1:]))
