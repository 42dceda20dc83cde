"""The bench of node devices: listing them all, and the document of each. With 2,048 simulated VFs on the build machine, in a
Debian root; and in the emulated host, beside libvirtd, by device, since the two don't tell of the same ones.

Usage: devices.py simulated | lab
"""

import sys

import libvirt
from common import end, lab_daemon, say, start_libvirtd, start_virtnicd, tell, timed

MANY_PFS, MANY = 32, 2048
ROUNDS = 5


def measure(who, uri, by_device):
    """Lists and dumps all of them, some times over."""
    connection = libvirt.open(uri)
    listed, dumped = [], []
    for number in range(ROUNDS + 1):
        spent, devices = timed(connection.listAllDevices)
        # The first pays for what is done once.
        if number:
            listed.append(spent)
            dumped.append(timed(lambda: [device.XMLDesc() for device in devices])[0])
    size = len(devices)
    say(f"{who}: {size} node devices")
    if by_device:
        listed, dumped = ([1000 * one / size for one in times] for times in (listed, dumped))
        tell("node devices listed, of each", who, listed, "µs")
        tell("node devices' documents, of each", who, dumped, "µs")
    else:
        tell(f"node devices listed, {MANY} VFs", who, listed)
        tell(f"node devices' documents, {MANY} VFs", who, dumped)
    connection.close()


def main(where):
    if where == "lab":
        end(lab_daemon())
        for who, start in (("virtnicd", start_virtnicd), ("libvirtd", start_libvirtd)):
            _, uri = start()
            measure(who, uri, True)
        return
    daemon, uri = start_virtnicd("/tmp/devices", "--simulate", f"pfs={MANY_PFS},vfs={MANY}")
    measure("virtnicd", uri, False)
    daemon.terminate()


main(*sys.argv[1:])
