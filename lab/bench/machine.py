"""The bench on the build machine itself, in a Debian root with namespaces of its own: ports, and memory.

Usage: machine.py PORTS MEMORY-PORTS
"""

import os
import pathlib
import sys

import libvirt
from common import (
    Ports,
    compare_ports,
    direct_network,
    hostdev_network,
    listed,
    make_veths,
    port_xml,
    say,
    start_libvirtd,
    start_virtnicd,
    tell,
    timed,
)

POOL = 64
MANY_PFS, MANY = 32, 2048


def tell_memory(when, who, pid):
    """Resident memory, now and at most so far."""
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    for field, what in (("VmRSS", "resident"), ("VmHWM", "peak")):
        tell(f"memory {when}, {what}", who, [int(fields[field].split()[0]) / 1024], "MB")


def fill(uri, network, ports):
    """Makes many ports and keeps them; returns the connection, which keeps the daemon at work, and how long each took."""
    connection = libvirt.open(uri)
    network = connection.networkCreateXML(network)
    return connection, [timed(network.portCreateXML, port_xml(number), 0)[0] for number in range(ports)]


def main(count, kept):
    os.makedirs("/run/lock", exist_ok=True)
    many = [f"w{number}" for number in range(MANY)]
    pool = [f"v{number}" for number in range(POOL)]
    say(f"making {len(pool) + len(many)} veth pairs for libvirtd")
    make_veths(pool + many)

    say("memory at rest")
    resting, uri = start_virtnicd("/tmp/resting")
    libvirtd, libvirt_uri = start_libvirtd()
    for who, uri, pid in (("virtnicd", uri, resting.pid), ("libvirtd", libvirt_uri, libvirtd)):
        # Whoever has answered once has started all that it starts.
        libvirt.open(uri).close()
        tell_memory("at rest", who, pid)
    resting.terminate()

    say(f"ports: {count} on each daemon")
    small, uri = start_virtnicd("/tmp/small", "--simulate", f"pfs=1,vfs={POOL}")
    sides = [
        Ports("virtnicd", uri, hostdev_network("pool", ["sim0"])),
        Ports("libvirtd", libvirt_uri, direct_network("pool", "passthrough", listed(pool))),
    ]
    compare_ports(sides, count)
    small.terminate()

    say(f"memory with {MANY} devices and {kept} ports")
    large, uri = start_virtnicd("/tmp/large", "--simulate", f"pfs={MANY_PFS},vfs={MANY}")
    network = hostdev_network("many", [f"sim{number}" for number in range(MANY_PFS)])
    for who, uri, network, pid in (
        ("virtnicd", uri, network, large.pid),
        ("libvirtd", libvirt_uri, direct_network("many", "passthrough", listed(many)), libvirtd),
    ):
        connection, times = fill(uri, network, kept)
        tell(f"port create, {MANY} devices", who, times)
        tell_memory(f"with {MANY} devices", who, pid)
        connection.close()
    large.terminate()


main(*map(int, sys.argv[1:]))
