"""The bench of pools, on the build machine itself in a Debian root with namespaces of its own: how long an allocation
takes in small and in large pools, and how many there are in a second with many clients at once.

Usage: pools.py ROUNDS SIZES NIC-SIZES   (sizes: numbers of devices, comma-separated)
"""

import multiprocessing
import os
import sys
import time

import libvirt
from common import (
    Ports,
    direct_network,
    hostdev_network,
    listed,
    make_veths,
    port_xml,
    say,
    start_libvirtd,
    start_virtnicd,
    tell,
)

MOST_PFS = 128
# At once, and the devices that they share.
CLIENTS, DEVICES = 8, 64
# Made in one go by all clients together: with fewer, it is the clients' own beginning that is measured.
PORTS = 3200
TURNS = 20


class Pool(Ports):
    """Ports made and deleted on a network of so many devices."""

    def __init__(self, who, uri, network, what, size, kept=0):
        super().__init__(who, uri, network)
        self.what, self.size = what, size
        # With MACs of their own, each of which a PF has once.
        self.kept = [self.network.portCreateXML(port_xml(65536 + number), 0) for number in range(kept)]

    def tell(self):
        """Hands over how long each port took, from its making to its end."""
        pairs = [create + delete for create, delete in zip(self.times["port create"], self.times["port delete"])]
        tell(f"port: {self.what}", self.who, pairs, size=self.size)

    def done(self):
        for port in self.kept:
            port.delete(0)
        super().done()


def compare(sides, rounds):
    """Measures the sides in turns, so that whatever else the machine does hits all alike."""
    for side in sides:
        # The first calls pay for what is done once.
        side.round(5)
        for times in side.times.values():
            times.clear()
    for _ in range(TURNS):
        for side in sides:
            side.round(max(1, rounds // TURNS))
    for side in sides:
        side.tell()
        side.done()


class Host:
    """A simulated host with so many VFs, and virtnicd on it."""

    def __init__(self, vfs):
        self.vfs = vfs
        # As many PFs as there can be, with 8 VFs each at least.
        self.pfs = min(MOST_PFS, max(2, vfs // 8))
        say(f"a simulated host with {self.vfs} VFs on {self.pfs} PFs")
        self.daemon, self.uri = start_virtnicd(f"/tmp/pools-{vfs}", "--simulate", f"pfs={self.pfs},vfs={vfs}")

    def pf_names(self):
        return [f"sim{pf}" for pf in range(self.pfs)]

    def vf_names(self):
        """The VFs' network devices, one PF after the other."""
        share, rest = divmod(self.vfs, self.pfs)
        return [f"sim{pf}v{number}" for pf in range(self.pfs) for number in range(share + (pf < rest))]

    def hostdev(self):
        return hostdev_network("pool", self.pf_names())

    def bridge(self):
        return direct_network("pool", "bridge", "".join(f"<pf dev='{pf}'/>" for pf in self.pf_names()))

    def bridge_listed(self):
        return direct_network("pool", "bridge", listed(self.vf_names()))


def simulated(hosts, rounds):
    """The same pools in all sizes."""
    for what, network, part_kept in (
        ("hostdev", Host.hostdev, 0),
        ("hostdev, half of them lent", Host.hostdev, 0.5),
        ("bridge over a PF's VFs", Host.bridge, 0),
        ("bridge over a PF's VFs, guests on half", Host.bridge, 0.5),
        ("bridge over listed VFs", Host.bridge_listed, 0),
    ):
        say(f"ports: {what}")
        sides = [Pool("virtnicd", host.uri, network(host), what, host.vfs, int(host.vfs * part_kept)) for host in hosts]
        compare(sides, rounds)


def beside_libvirtd(sides, rounds, sizes):
    """Pools of real NICs, which both daemons have."""
    for mode, what in (("bridge", "bridge over NICs"), ("passthrough", "passthrough of NICs")):
        for size in sizes:
            say(f"ports: {what}, {size}")
            network = direct_network("pool", mode, listed(f"v{number}" for number in range(size)))
            compare([Pool(who, uri, network, what, size) for who, uri in sides], rounds)


def client(number, uri, rounds, barrier, ends):
    """One of several clients, in a process of its own: that many ports, made and deleted, once all are there."""
    network = libvirt.open(uri).networkLookupByName("pool")
    documents = [port_xml(number * 4096 + one) for one in range(rounds)]
    barrier.wait()
    for document in documents:
        network.portCreateXML(document, 0).delete(0)
    ends.put(time.monotonic())


def per_second(uri, clients, rounds):
    """Ports made and deleted in a second by that many clients together."""
    # A process that has used libvirt can't be forked.
    processes = multiprocessing.get_context("spawn")
    barrier, ends = processes.Barrier(clients + 1), processes.Queue()
    running = [processes.Process(target=client, args=(number, uri, rounds, barrier, ends)) for number in range(clients)]
    for one in running:
        one.start()
    barrier.wait()
    begin = time.monotonic()
    end = max(ends.get() for _ in running)
    for one in running:
        one.join()
    return clients * rounds / (end - begin)


def at_once(what, sides):
    """Clients at once beside one alone, for each of (who, uri, network)."""
    say(f"{CLIENTS} clients at once: {what}")
    pools = [(who, uri, Ports(who, uri, network)) for who, uri, network in sides]
    rates = {(who, clients): [] for who, _, _ in sides for clients in (1, CLIENTS)}
    for _ in range(4):
        for who, uri, _ in pools:
            for clients in (1, CLIENTS):
                rates[who, clients].append(per_second(uri, clients, PORTS // clients))
    for (who, clients), seen in rates.items():
        tell(f"clients: {what}", who, seen, unit="ports/s", size=clients)
    for _, _, pool in pools:
        pool.done()


def main(rounds, sizes, nic_sizes):
    os.makedirs("/run/lock", exist_ok=True)
    hosts = [Host(size) for size in sizes]
    simulated(hosts, rounds)
    for host in hosts:
        host.daemon.terminate()

    most = max(DEVICES, *nic_sizes)
    say(f"making {most} veth pairs")
    make_veths([f"v{number}" for number in range(most)])
    _, uri = start_virtnicd("/tmp/pools")
    _, libvirt_uri = start_libvirtd()
    sides = [("virtnicd", uri), ("libvirtd", libvirt_uri)]
    beside_libvirtd(sides, rounds, nic_sizes)
    host = Host(DEVICES)
    at_once("hostdev", [("virtnicd", host.uri, host.hostdev())])
    network = direct_network("pool", "passthrough", listed(f"v{number}" for number in range(DEVICES)))
    at_once("passthrough of NICs", [(who, uri, network) for who, uri in sides])


def numbers(text):
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main(int(sys.argv[1]), numbers(sys.argv[2]), numbers(sys.argv[3]))
