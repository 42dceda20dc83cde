"""The bench of pairs, in the emulated host: what a station loses while the VF of a pair goes and comes, beside libvirtd.

Both daemons run, each on sockets of its own and with a guest of its own on the same card; they take turns.

Usage: hybrid.py SWITCHES
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

from common import end, lab_daemon, say, start_libvirtd, start_virtnicd, tell, vf_address
from guest import Console, guest_xml, until

PF = os.environ["LAB_PF0"]
STATION = ["ip", "netns", "exec", os.environ["LAB_STATION"]]
EVERY = 0.05  # seconds from one ping to the next
SETTLED = 20  # answers after a switch, which then is over


class Pings:
    """A station that pings an address all the time."""

    def __init__(self, address):
        # A line each, at once; into a file, so that nobody has to read it meanwhile.
        self.path = pathlib.Path(f"/tmp/pings-{address}")
        with open(self.path, "wb") as file:
            words = ["stdbuf", "-oL", "ping", "-i", str(EVERY), address]
            self.process = subprocess.Popen([*STATION, *words], stdout=file)

    def answered(self):
        return [int(number) for number in re.findall(r"bytes from .*icmp_seq=(\d+)", self.path.read_text())]

    def goes_on(self):
        """Waits until so many more were answered."""
        before = len(self.answered())
        until("answers to the station", lambda: len(self.answered()) >= before + SETTLED)

    def lost(self):
        """Ends it. What had no answer between the first and the last that had."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        answered = set(self.answered())
        return max(answered) - min(answered) + 1 - len(answered)


class Side:
    """A daemon with a guest that has a pair."""

    def __init__(self, who, uri, number):
        self.who, self.uri, self.name = who, uri, f"hybrid{number}"
        self.mac, self.address = f"52:54:00:aa:dd:0{number}", f"10.8.0.{number}"
        self.console = Console(self.name)
        self.lost = {"unplugged": [], "plugged": []}
        path = f"/tmp/{self.name}.xml"
        pathlib.Path(path).write_text(guest_xml(self.name, self.interfaces(), {self.mac: self.address}))
        self.virsh("create", path)

    def virsh(self, *words):
        subprocess.run(["virsh", "-q", "-c", self.uri, *words], check=True, stdin=subprocess.DEVNULL)

    def switch(self, what, act, state):
        pings = Pings(self.address)
        pings.goes_on()
        before = self.console.seen("igbvf", state)
        act()
        until(f"{self.who}: the VF is {what}", lambda: self.console.seen("igbvf", state) > before)
        pings.goes_on()
        lost = pings.lost()
        say(f"  {self.who}: {what}, {lost} lost")
        self.lost[what].append(lost)

    def turn(self):
        self.switch("unplugged", self.unplug, "gone")
        self.switch("plugged", self.plug, "up")

    def done(self):
        for what, lost in self.lost.items():
            tell(f"pings lost, VF {what}", self.who, lost, "pings")
        self.virsh("destroy", self.name)


class Ours(Side):
    """One element."""

    def interfaces(self):
        return f"<interface type='hostdev-hybrid'><mac address='{self.mac}'/><source dev='{PF}'/></interface>"

    def unplug(self):
        subprocess.run(["virtnic", "demote", self.name], check=True, stdout=subprocess.DEVNULL)

    def plug(self):
        subprocess.run(["virtnic", "promote", self.name], check=True, stdout=subprocess.DEVNULL)


class Theirs(Side):
    """Two elements, with <teaming>."""

    def interfaces(self):
        vf = vf_address(PF, 6)
        self.vf = f"""
<interface type='hostdev' managed='yes'>
  <mac address='{self.mac}'/>
  <source><address type='pci' domain='0x{vf[:4]}' bus='0x{vf[5:7]}' slot='0x{vf[8:10]}' function='0x{vf[11]}'/></source>
  <teaming type='transient' persistent='ua-standby'/>
  <alias name='ua-vf'/>
</interface>"""
        return f"""
<interface type='direct'>
  <mac address='{self.mac}'/>
  <source dev='{PF}' mode='bridge'/>
  <model type='virtio'/>
  <teaming type='persistent'/>
  <alias name='ua-standby'/>
</interface>{self.vf}"""

    def unplug(self):
        self.virsh("detach-device-alias", self.name, "ua-vf", "--live")

    def plug(self):
        path = f"/tmp/{self.name}-vf.xml"
        pathlib.Path(path).write_text(self.vf)
        self.virsh("attach-device", self.name, path, "--live")


def main(switches):
    subprocess.run(["ip", "-n", STATION[-1], "address", "add", "10.8.0.254/24", "dev", "wire0"], check=True)
    end(lab_daemon())
    _, uri = start_virtnicd()
    _, libvirt_uri = start_libvirtd()
    sides = [Ours("virtnicd", uri, 1), Theirs("libvirtd", libvirt_uri, 2)]
    for side in sides:
        until(f"{side.who}'s guest has both", lambda: side.console.seen("igbvf", "up"))
    say(f"a VF unplugged and plugged: {switches} times on each daemon")
    for _ in range(switches):
        for side in sides:
            side.turn()
    for side in sides:
        side.done()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
