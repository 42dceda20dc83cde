#!/usr/bin/python3
# lab: pfs=1 timeout=240 group=documents
"""virtnicd and libvirtd get the same documents, made up from a seed, and must say the same.

Both define each network and guest and give it back (`--inactive`), or refuse it with the same error code. What differs
for a reason stands in differential.txt. DIFF_SEED and DIFF_COUNT (of each kind) choose the documents.
"""

import collections
import difflib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import libvirt

from documents import Documents
from lab import SKIP

# The same documents each time, so that a difference that appears is new code's doing; DIFF_SEED=now looks for others.
SEED = os.environ.get("DIFF_SEED") or "260385"
SEED = int(time.time()) % 1_000_000 if SEED == "now" else int(SEED)
COUNT = int(os.environ.get("DIFF_COUNT") or 300)
SHOWN = int(os.environ.get("DIFF_SHOWN") or 1)
OURS = "qemu:///system"
PEER = pathlib.Path("/run/peer")
KNOWN = pathlib.Path(__file__).with_name("differential.txt")
NETWORKS = [
    "<network><name>default</name><forward mode='nat'/><bridge name='virbr99'/>"
    "<ip address='192.168.99.1' prefix='24'/></network>",
    "<network><name>pool</name><forward mode='hostdev' managed='yes'><pf dev='eth0'/></forward></network>",
]


def start_peer():
    """Starts libvirtd beside virtnicd, on sockets of its own."""
    PEER.mkdir(exist_ok=True)
    for directory in ("/run/libvirt", "/var/log/libvirt"):
        pathlib.Path(directory).mkdir(exist_ok=True)
    config = PEER / "libvirtd.conf"
    config.write_text(f'unix_sock_dir = "{PEER}"\nauth_unix_rw = "none"\n')
    for old in pathlib.Path("/etc/libvirt/qemu").glob("**/*.xml"):
        old.unlink()
    subprocess.run(["virtlogd", "-d"], check=False)
    subprocess.run(["libvirtd", "-d", "-f", config, "-p", PEER / "pid"], check=True)
    return f"qemu+unix:///system?socket={PEER}/libvirt-sock"


def refused(error):
    return error.get_error_code(), error.get_error_message()


def ask_network(connection, text):
    try:
        network = connection.networkDefineXML(text)
    except libvirt.libvirtError as error:
        return refused(error)
    xml = network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
    network.undefine()
    return 0, xml


def ask_domain(connection, text):
    try:
        domain = connection.defineXML(text)
    except libvirt.libvirtError as error:
        return refused(error)
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    domain.undefine()
    return 0, xml


def made_up(asked, xml):
    """Without what differs by chance, or by libvirt's leaving a name with an & as it is."""
    given = asked.lower().replace("-", "")
    xml = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", lambda m: m[0] if m[0].replace("-", "") in given else "UUID", xml)
    return re.sub(r"52:54:00(:[0-9a-f]{2}){3}", lambda m: m[0] if m[0] in given else "MAC", xml).replace("&amp;", "&").strip().splitlines()


def kind(text):
    """A message or line without its names."""
    return re.sub(r"\s*\(?(/[^ ]*, )?line \d+, column \d+\)?", "", re.sub(r"'[^']*'", "''", text.strip()))


def differences(asked, faults, theirs, ours):
    """In which ways they differ, a line for each; none if they don't."""
    if theirs[0] or ours[0]:
        if theirs[0] == ours[0] or theirs[0] and ours[0] and faults > 1:
            return []
        words = [f"{code} {kind(text)}" if code else "accepts it" for code, text in (theirs, ours)]
        return [f"libvirtd: {words[0]} | virtnicd: {words[1]}"]
    theirs, ours = made_up(asked, theirs[1]), made_up(asked, ours[1])
    found = []
    for what, a, b, c, d in difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        if what != "equal":
            words = [" ".join(kind(line) for line in lines[:12]) or "nothing" for lines in (theirs[a:b], ours[c:d])]
            found.append(f"libvirtd: {words[0]} | virtnicd: {words[1]}")
    return found


def known():
    """Patterns of differences, each followed by indented lines with its reason."""
    lines = KNOWN.read_text().splitlines()
    return [re.compile(line) for line in lines if line and not line.startswith((" ", "#"))]


def main():
    print(f"DIFF_SEED={SEED} DIFF_COUNT={COUNT}", flush=True)
    libvirt.registerErrorHandler(lambda *_: None, None)
    ours = libvirt.open(OURS)
    deadline = time.monotonic() + 60
    uri = start_peer()
    while True:
        try:
            peer = libvirt.open(uri)
            break
        except libvirt.libvirtError:
            if time.monotonic() > deadline:
                raise
    networks = [connection.networkDefineXML(xml) for connection in (peer, ours) for xml in NETWORKS]
    try:
        found = compare(peer, ours)
    finally:
        for network in networks:
            network.undefine()
        os.kill(int((PEER / "pid").read_text()), signal.SIGTERM)
    for differs, cases in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"{len(cases)} x {differs}")
        for asked, theirs, own in cases[:SHOWN]:
            print(f"  asked: {asked}\n  libvirtd: {theirs[0]} {theirs[1]}\n  virtnicd: {own[0]} {own[1]}")
    sys.exit(1 if found else 0)


def compare(peer, ours):
    """The differences that are not listed, each with the documents and both answers."""
    documents = Documents(SEED)
    patterns = known()
    found = collections.defaultdict(list)
    for name, make, ask in (("network", documents.network, ask_network), ("domain", documents.domain, ask_domain)):
        started, accepted, listed = time.monotonic(), 0, 0
        for _ in range(COUNT):
            asked, faults = make()
            answers = ask(peer, asked), ask(ours, asked)
            accepted += answers[0][0] == 0
            unlisted = []
            for differs in differences(asked, faults, *answers):
                differs = f"{name}: {differs}"
                if any(pattern.search(differs) for pattern in patterns):
                    listed += 1
                else:
                    unlisted.append(differs)
            # What differs first is the likely cause of the rest.
            if unlisted:
                found[unlisted[0]].append((asked, *answers))
        took = time.monotonic() - started
        print(f"{name}: {COUNT} documents in {took:.0f} s, {accepted} accepted by libvirtd, {listed} differences as listed", flush=True)
    return found


if os.environ.get("LAB_DAEMON", "virtnicd") != "virtnicd":
    print("compares virtnicd with libvirtd: needs virtnicd")
    sys.exit(SKIP)
main()
