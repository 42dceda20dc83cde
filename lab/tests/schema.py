#!/usr/bin/python3
# lab: pfs=1 timeout=240 group=documents
"""What virtnicd writes is valid by libvirt's own schemas, virtnic's additions apart.

Every document of the corpus goes through the daemon, and everything else that it writes of this host is taken too.
What is not valid for a reason stands in schema.txt.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

import libvirt

SCHEMAS = pathlib.Path("/usr/share/libvirt/schemas")
CORPUS = pathlib.Path(__file__).resolve().parents[2] / "crates/conf/tests/corpus"
OURS = "{urn:virtnic:1}"
KNOWN = pathlib.Path(__file__).with_name("schema.txt")
GUEST = f"""
<domain type='{os.environ.get("LAB_GUEST_TYPE", "qemu")}'><name>schema</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><interface type='network'><mac address='52:54:00:00:00:09'/><source network='schema'/></interface>
<console type='pty'/></devices></domain>
"""
PORT = """
<networkport><uuid>5a5a5a5a-0000-4000-8000-000000000001</uuid><owner><name>schema</name>
<uuid>5a5a5a5a-0000-4000-8000-000000000002</uuid></owner><mac address='52:54:00:00:00:0a'/></networkport>
"""


def plain(text):
    """Without what is virtnic's own."""
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.startswith(OURS)]:
            parent.remove(child)
        for name in [name for name in parent.attrib if name.startswith(OURS)]:
            del parent.attrib[name]
    return ElementTree.tostring(root, encoding="unicode")


class Written:
    """What the daemon wrote: (schema, name) to document."""

    def __init__(self, connection):
        self.connection = connection
        self.documents = {}
        self.refused = []

    def corpus(self, kind, schema, define, inactive):
        for path in sorted(CORPUS.glob("**/*.in.xml")):
            text = path.read_text(errors="replace")
            if path.with_name(path.name.replace(".in.xml", ".err")).exists() or "hostdev-hybrid" in text:
                continue
            if not re.search(rf"^\s*(<\?xml.*?>|<!--.*?-->|\s)*<{kind}[\s>]", text, re.S):
                continue
            name = f"{path.parent.name}/{path.name}"
            try:
                thing = define(text)
            except libvirt.libvirtError as error:
                self.refused.append(f"{name}: {error}")
                continue
            self.documents[schema, name] = thing.XMLDesc(inactive)
            self.documents[schema, name + " (again)"] = define(thing.XMLDesc(inactive)).XMLDesc(0)
            thing.undefine()

    def host(self):
        self.documents["capability.rng", "capabilities"] = self.connection.getCapabilities()
        for device in self.connection.listAllDevices():
            self.documents["nodedev.rng", device.name()] = device.XMLDesc()

    def live(self, pf):
        xml = f"<network><name>schema</name><forward mode='hostdev' managed='yes'><pf dev='{pf}'/></forward></network>"
        network = self.connection.networkCreateXML(xml)
        port = network.portCreateXML(PORT)
        self.documents["networkport.rng", "a live port"] = port.XMLDesc()
        port.delete()
        guest = self.connection.createXML(GUEST, libvirt.VIR_DOMAIN_START_PAUSED)
        self.documents["network.rng", "a live network"] = network.XMLDesc()
        forms = (0, libvirt.VIR_DOMAIN_XML_INACTIVE, libvirt.VIR_DOMAIN_XML_MIGRATABLE)
        for flags in forms:
            self.documents["domain.rng", f"a live guest, flags {flags}"] = guest.XMLDesc(flags)
        for port in network.listAllPorts():
            self.documents["networkport.rng", "the port of a guest"] = port.XMLDesc()
        guest.destroy()
        network.destroy()

    def invalid(self):
        """The names of the documents that are not valid, with the first thing wrong."""
        found = {}
        with tempfile.TemporaryDirectory() as directory:
            by_schema = {}
            for number, ((schema, name), text) in enumerate(self.documents.items()):
                path = pathlib.Path(directory, f"{number}.xml")
                path.write_text(plain(text))
                by_schema.setdefault(schema, {})[str(path)] = name
            for schema, paths in by_schema.items():
                command = ["xmllint", "--noout", "--relaxng", SCHEMAS / schema, *paths]
                said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
                for path, name in paths.items():
                    if f"{path} validates" not in said:
                        lines = [line for line in said.splitlines() if line.startswith(path + ":")]
                        found[name] = "; ".join(line.split("error :")[-1].strip() for line in lines) or "no verdict"
                print(f"{schema}: {len(paths)} documents", flush=True)
        return found


def main():
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("qemu:///system")
    written = Written(connection)
    inactive = libvirt.VIR_NETWORK_XML_INACTIVE
    written.corpus("network", "network.rng", connection.networkDefineXML, inactive)
    written.corpus("domain", "domain.rng", connection.defineXML, libvirt.VIR_DOMAIN_XML_INACTIVE)
    written.host()
    if "LAB_PF0" in os.environ:
        written.live(os.environ["LAB_PF0"])
    for refused in written.refused:
        print("not taken:", refused)
    known = {line.split(":")[0] for line in KNOWN.read_text().splitlines() if line and line[0] not in "# "}
    invalid = written.invalid()
    unlisted = {name: why for name, why in invalid.items() if name.removesuffix(" (again)") not in known}
    for name, why in unlisted.items():
        print(f"INVALID {name}: {why}")
    sys.exit(1 if unlisted or not written.documents else 0)


main()
