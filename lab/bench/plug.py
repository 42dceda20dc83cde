"""The bench of plugging, in the emulated host: a VF and a macvtap into and out of a running guest, beside libvirtd and beside
the kernel's and QEMU's bare steps.

Each has a guest of its own; they take turns. A guest is waited for, so that what its driver does to a new device is not
measured with it; what it does to let one go is.

Usage: plug.py ROUNDS
"""

import array
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import libvirt
from common import end, lab_daemon, say, start_libvirtd, start_virtnicd, tell, timed, vf_address
from guest import Console, guest_xml, until

PF = os.environ["LAB_PF0"]
PORTS = "".join(f"<controller type='pci' index='{index}' model='pcie-root-port'/>" for index in range(1, 7))
DRIVERS = {"VF": "igbvf", "macvtap": "virtio_net"}
LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE


class Daemon:
    """A daemon, by libvirt-python."""

    def __init__(self, who, uri, number):
        self.who, self.name = who, f"plug{number}"
        self.connection = libvirt.open(uri)
        self.guest = self.connection.createXML(guest_xml(self.name, extra=PORTS))
        vf = vf_address(PF, number)
        place = f"domain='0x{vf[:4]}' bus='0x{vf[5:7]}' slot='0x{vf[8:10]}' function='0x{vf[11]}'"
        self.documents = {
            "VF": f"""
<interface type='hostdev' managed='yes'>
  <mac address='52:54:00:aa:ee:0{number}'/>
  <source><address type='pci' {place}/></source>
</interface>""",
            "macvtap": f"""
<interface type='direct'>
  <mac address='52:54:00:aa:ef:0{number}'/>
  <source dev='{PF}' mode='bridge'/>
  <model type='virtio'/>
</interface>""",
        }

    def attach(self, what):
        self.guest.attachDeviceFlags(self.documents[what], LIVE)

    def detach(self, what):
        self.guest.detachDeviceFlags(self.documents[what], LIVE)

    def done(self):
        self.guest.destroy()


class Monitor:
    """QEMU's monitor."""

    def __init__(self, path, command):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            self.socket, _ = listener.accept()
        self.lines = self.socket.makefile()
        self.lines.readline()
        self.run("qmp_capabilities")

    def run(self, name, files=(), **arguments):
        """Runs a command; files go with it."""
        text = json.dumps({"execute": name, "arguments": arguments}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        self.socket.sendmsg([text], rights)
        while "return" not in (answer := json.loads(self.lines.readline())):
            if "error" in answer:
                sys.exit(f"{name}: {answer}")

    def deleted(self, device):
        """Waits until QEMU has let a device go."""
        while (event := json.loads(self.lines.readline())).get("event") != "DEVICE_DELETED" or (
            event["data"].get("device") != device
        ):
            pass


class Bare:
    """The kernel's steps and QEMU's, one after the other; the guest is virtnicd's, command line and all."""

    who, name = "bare script", "plug3"

    def __init__(self, command):
        own, console = "/tmp/plug-qmp", str(Console(self.name).path)
        words = [re.sub(r"^(socket,id=charmonitor),.*", rf"\1,path={own}", word) for word in command]
        # virtnicd opens the console's file for it.
        words = [word.replace("/dev/fdset/0", console) for word in words]
        if "-add-fd" in words:
            at = words.index("-add-fd")
            del words[at : at + 2]
        if not any(own in word for word in words) or not any(console in word for word in words):
            sys.exit(f"virtnicd's QEMU has no monitor or no console that could be replaced: {command}")
        self.monitor = Monitor(own, words)
        self.monitor.run("cont")
        self.vf = pathlib.Path("/sys/bus/pci/devices", vf_address(PF, 3))

    def ip(self, *words):
        subprocess.run(["ip", "link", *words], check=True)

    def bind(self, override):
        (self.vf / "driver_override").write_text(override)
        (self.vf / "driver/unbind").write_text(self.vf.name)
        pathlib.Path("/sys/bus/pci/drivers_probe").write_text(self.vf.name)

    def attach(self, what):
        if what == "VF":
            self.ip("set", PF, "vf", "3", "mac", "52:54:00:aa:ee:03", "vlan", "0")
            self.bind("vfio-pci\n")
            self.monitor.run("device_add", driver="vfio-pci", id="vf", host=self.vf.name, bus="pci.5")
            return
        mac = "52:54:00:aa:ef:03"
        self.ip("add", "link", PF, "name", "bare0", "address", mac, "type", "macvtap", "mode", "bridge")
        self.ip("set", "bare0", "up")
        tap = os.open(f"/dev/tap{pathlib.Path('/sys/class/net/bare0/ifindex').read_text().strip()}", os.O_RDWR)
        vhost = os.open("/dev/vhost-net", os.O_RDWR)
        for name, file in (("tap", tap), ("vhost", vhost)):
            self.monitor.run("getfd", [file], fdname=name)
            os.close(file)
        self.monitor.run("netdev_add", type="tap", id="net", fd="tap", vhost=True, vhostfd="vhost")
        self.monitor.run("device_add", driver="virtio-net-pci", id="nic", netdev="net", mac=mac, bus="pci.6")

    def detach(self, what):
        device = "vf" if what == "VF" else "nic"
        self.monitor.run("device_del", id=device)
        self.monitor.deleted(device)
        if what == "VF":
            self.ip("set", PF, "vf", "3", "mac", "00:00:00:00:00:00")
            self.bind("\n")
        else:
            self.monitor.run("netdev_del", id="net")
            self.ip("delete", "bare0")

    def done(self):
        self.monitor.qemu.kill()
        self.monitor.qemu.wait()


def turn(side, what):
    """One in and out; how long each took."""
    console, driver = Console(side.name), DRIVERS[what]
    before = console.seen(driver, "up")
    attached, _ = timed(side.attach, what)
    until(f"{side.who}: a {what} in the guest", lambda: console.seen(driver, "up") > before)
    before = console.seen(driver, "gone")
    detached, _ = timed(side.detach, what)
    until(f"{side.who}: no {what} in the guest", lambda: console.seen(driver, "gone") > before)
    return attached, detached


def main(rounds):
    end(lab_daemon())
    _, uri = start_virtnicd()
    _, libvirt_uri = start_libvirtd()
    sides = [Daemon("virtnicd", uri, 1)]
    pid = int(subprocess.run(["pgrep", "-f", "guest=plug1"], capture_output=True, check=True).stdout.split()[0])
    command = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    sides += [Daemon("libvirtd", libvirt_uri, 2), Bare(command)]
    for side in sides:
        until(f"{side.who}'s guest", Console(side.name).is_ready)
    say(f"devices into and out of a running guest: {rounds} times in each way")
    for what in DRIVERS:
        times = {side.who: ([], []) for side in sides}
        for number in range(rounds + 1):
            for side in sides:
                attached, detached = turn(side, what)
                # The first pays for what is done once.
                if number:
                    times[side.who][0].append(attached)
                    times[side.who][1].append(detached)
        for who, (attached, detached) in times.items():
            tell(f"{what} attached", who, attached)
            tell(f"{what} detached", who, detached)
    for side in sides:
        side.done()


main(*map(int, sys.argv[1:]))
