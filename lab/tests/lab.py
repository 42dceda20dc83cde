"""What lab tests share: virsh, networks on the PFs, and small guests with a console to read.

Everything goes through unmodified clients, so that a test also runs on the peer (`cargo xtask test --with-libvirt`).
Nothing here sleeps: each wait is for a line, a file or an end, with a limit.
"""

import os
import pathlib
import re
import select
import subprocess
import sys
import time
import tty

URI = "qemu:///system"
DAEMON = os.environ.get("LAB_DAEMON", "virtnicd")
PF0 = os.environ.get("LAB_PF0", "eth0")
TYPE = os.environ.get("LAB_GUEST_TYPE", "qemu")
# A guest is emulated in an emulated host: its boot takes half a minute, and more on a busy machine.
PATIENCE = 150
SKIP = 77


def run(*command, ok=True, stdin=None):
    """Runs a command; returns its standard output. With ok=False, returns (status, output and errors) instead."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    print("$", *command, flush=True)
    text = done.stdout + done.stderr
    if text.strip():
        print(text.rstrip(), flush=True)
    if not ok:
        return done.returncode, text
    if done.returncode:
        fail(f"{' '.join(command)}: status {done.returncode}")
    return done.stdout


def virsh(*words, **options):
    """Runs virsh on the system connection, as `run` does."""
    return run("virsh", "-q", "-c", URI, *words, **options)


def fail(text):
    """Ends the test: what it tests is not so."""
    print("FAILED:", text, flush=True)
    sys.exit(1)


def skip(text):
    """Ends the test: it can't be carried out here."""
    print(text, flush=True)
    sys.exit(SKIP)


def check(truth, text):
    """Goes on only if it is so."""
    if not truth:
        fail(text)
    print("ok:", text, flush=True)


def equal(found, wanted, text):
    """Goes on only if both are the same."""
    check(found == wanted, f"{text}: {found!r}" if found == wanted else f"{text}: {found!r}, not {wanted!r}")


def write(path, text):
    """Writes a document; returns its path."""
    pathlib.Path(path).write_text(text)
    return str(path)


def network_xml(name, *pfs, vlan=None, extra=""):
    """A network that lends the VFs of these PFs."""
    lent = "".join(f"<pf dev='{pf}'/>" for pf in pfs or (PF0,))
    tag = f"<vlan><tag id='{vlan}'/></vlan>" if vlan else ""
    return f"<network><name>{name}</name><forward mode='hostdev' managed='yes'>{lent}</forward>{tag}{extra}</network>"


def define_network(name, *pfs, **options):
    """Defines and starts a network."""
    virsh("net-define", write(f"/tmp/{name}.xml", network_xml(name, *pfs, **options)))
    virsh("net-start", name)


class Vf:
    """A VF of the host, as sysfs and `ip` know it."""

    def __init__(self, pf, number):
        self.pf, self.number = pf, number
        self.device = pathlib.Path(f"/sys/class/net/{pf}/device/virtfn{number}").resolve()
        self.address = self.device.name

    def driver(self):
        """Its driver's name, or None."""
        link = self.device / "driver"
        return link.resolve().name if link.exists() else None

    def override(self):
        """Its driver_override."""
        return (self.device / "driver_override").read_text().strip()

    def attributes(self):
        """What the PF says of it, as `ip link show` prints it."""
        shown = subprocess.run(["ip", "link", "show", "dev", self.pf], capture_output=True, text=True, check=True).stdout
        return re.search(rf"vf {self.number} +(.*)", shown).group(1).strip()

    def state(self):
        """All that must be the same before and after it was lent."""
        return self.driver(), self.override(), self.attributes()


def vfs(pf=PF0):
    """All VFs of a PF."""
    return [Vf(pf, number) for number in range(len(list(pathlib.Path(f"/sys/class/net/{pf}/device").glob("virtfn*"))))]


class Guest:
    """A small guest, and its console."""

    def __init__(self, name, interfaces, addresses=None, machine="q35", memory=128, extra="", cmdline="", kind=TYPE):
        """`interfaces` is XML; `addresses` maps a MAC to "10.0.0.2/24"."""
        self.name = name
        words = [f"ip.{mac}={address}" for mac, address in (addresses or {}).items()]
        self.xml = f"""
<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>{os.environ['LAB_GUEST_KERNEL']}</kernel>
    <initrd>{os.environ['LAB_GUEST_INITRD']}</initrd>
    <cmdline>{' '.join([*words, cmdline]).strip()}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='pty'><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    {interfaces}
    {extra}
  </devices>
</domain>"""
        self.console = None
        self.text = ""

    def define(self):
        virsh("define", write(f"/tmp/{self.name}.xml", self.xml))
        return self

    def start(self):
        """Starts it and opens its console."""
        virsh("start", self.name)
        return self.attach()

    def attach(self):
        """Opens the console of the running guest."""
        path = virsh("ttyconsole", self.name).strip()
        self.console = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.console)
        return self

    def wait(self, pattern, patience=PATIENCE):
        """Waits for a line that matches; returns the match. What was printed before it is not looked at again."""
        deadline = time.monotonic() + patience
        while True:
            for line in iter(lambda: self._line(), None):
                print(f"{self.name}| {line}", flush=True)
                if match := re.search(pattern, line):
                    return match
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.console], [], [], left)[0]:
                fail(f"{self.name} did not print {pattern!r} within {patience} s")
            try:
                self.text += os.read(self.console, 4096).decode(errors="replace")
            except OSError as error:
                fail(f"{self.name}'s console is gone while waiting for {pattern!r}: {error}")

    def _line(self):
        line, end, rest = self.text.partition("\n")
        if not end:
            return None
        self.text = rest
        return line.strip("\r")

    def send(self, line):
        """Types a line."""
        os.write(self.console, f"{line}\n".encode())

    def wait_off(self, patience=60):
        """Waits until its console is closed: QEMU has ended."""
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0 and select.select([self.console], [], [], left)[0]:
            try:
                if not os.read(self.console, 4096):
                    return
            except OSError:
                return
        fail(f"{self.name} is not off within {patience} s")
