"""A small guest whose console is a file, for the benches that do something to one that runs."""

import os
import pathlib
import re
import sys
import time

PATIENCE = 240  # seconds for anything that a guest does
DIRECTORY = pathlib.Path("/tmp/guests")


def until(what, is_so):
    """Waits until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {PATIENCE} s")
        time.sleep(0.05)


def guest_xml(name, interfaces="", addresses=None, extra=""):
    """A guest's document; `addresses` maps a MAC to 10.0.0.2."""
    # QEMU may run without root's rights.
    DIRECTORY.mkdir(exist_ok=True)
    DIRECTORY.chmod(0o777)
    words = [f"ip.{mac}={address}/24" for mac, address in (addresses or {}).items()]
    return f"""
<domain type='{os.environ["LAB_GUEST_TYPE"]}'>
  <name>{name}</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{os.environ['LAB_GUEST_KERNEL']}</kernel>
    <initrd>{os.environ['LAB_GUEST_INITRD']}</initrd>
    <cmdline>{' '.join(words) or 'quiet'}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {extra}
    {interfaces}
    <serial type='file'><source path='{DIRECTORY / name}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>"""


class Console:
    """What such a guest said."""

    def __init__(self, name):
        self.path = DIRECTORY / name

    def text(self):
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def is_ready(self):
        return "READY" in self.text()

    def seen(self, driver, state):
        """How often it said that of a card."""
        # What is gone has no driver any more.
        driver = r"\S+" if state == "gone" else driver
        return len(re.findall(rf"NET \S+ \S+ {driver} {state}", self.text()))
