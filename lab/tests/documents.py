"""Documents made up from a seed: networks and guests, most valid, some with one thing wrong.

Every choice is between values that the format allows and, once in a while, one that it does not. How many of those a
document got is counted, since two programs may well find two faults in different order.
"""

import random
from xml.sax.saxutils import quoteattr

YES_NO = (["yes", "no"], ["YES", ""])
UUID = "81ff0d90-c91e-6742-64da-4a736edb9a9b"


class Documents:
    """An endless row of documents; the same for the same seed."""

    def __init__(self, seed, wrong=0.01):
        self.random = random.Random(seed)
        self.wrong = wrong
        self.faults = 0

    # The pieces that all are made of.

    def chance(self, probability):
        return self.random.random() < probability

    def one_of(self, *values):
        return self.random.choice(values)

    def fault(self, probability=None):
        """Whether something is to be wrong here."""
        found = self.chance(self.wrong if probability is None else probability)
        self.faults += found
        return found

    def value(self, good, bad=()):
        if bad and self.fault():
            return self.random.choice(bad)
        return self.random.choice(good)

    def attribute(self, name, good, bad=(), probability=1.0):
        if not self.chance(probability):
            return ""
        return f" {name}={quoteattr(str(self.value(good, bad)))}"

    def needed(self, name, good, bad=()):
        """An attribute that must be there."""
        return "" if self.fault(self.wrong / 2) else self.attribute(name, good, bad)

    def some(self, make, *counts):
        return "".join(make() for _ in range(self.random.choice(counts)))

    def maybe(self, probability, make):
        return make() if self.chance(probability) else ""

    # What networks and guests share.

    def vlan(self):
        tags = self.random.choice([1, 1, 1, 2])
        trunk = self.attribute("trunk", ["yes"], ["no", "x"], 0.2 if tags == 1 else 0.9)
        native = self.chance(0.3 if trunk else 0)
        text = f"<vlan{trunk}>"
        for number in range(0 if self.fault(self.wrong / 2) else tags):
            text += "<tag" + self.needed("id", [[1, 4095], [42, "7"]][number], [4096, -1, "", "x"])
            if native and number == 0:
                text += self.attribute("nativeMode", ["tagged", "untagged"], ["x"])
            text += "/>"
        return text + "</vlan>"

    def rate(self, name, floor):
        text = "<" + name + self.needed("average", [1, 1000, 18014398509481984], [18014398509481985, "x", ""])
        text += self.attribute("peak", [1, 2000], ["x"], 0.4) + self.attribute("burst", [1, 4194303], [4194304], 0.4)
        if floor:
            text += self.attribute("floor", [5, 700], ["x"], 0.2)
        return text + "/>"

    def bandwidth(self, floor=False):
        text = self.maybe(0.8, lambda: self.rate("inbound", floor))
        return "<bandwidth>" + text + (self.rate("outbound", False) if self.chance(0.6) or not text else "") + "</bandwidth>"

    def virtual_port(self, complete):
        kind = self.value(["802.1Qbg", "802.1Qbh", "openvswitch", "midonet"], ["802.1qbg", "none"])
        identity = self.attribute("interfaceid", ["09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"], ["x"])
        words = {
            "802.1Qbg": self.needed("managerid", [1, 255, "0x1f"], [256, "x"])
            + self.needed("typeid", [1, "0xffffff"], ["0x1000000"])
            + self.needed("typeidversion", [0, 2], [256])
            + self.attribute("instanceid", [UUID], ["x"], 1.0 if complete else 0.4),
            "802.1Qbh": self.needed("profileid", ["a", "a&b", "x" * 39], ["x" * 40]),
            "openvswitch": (identity if complete else self.maybe(0.4, lambda: identity))
            + self.attribute("profileid", ["a"], (), 0.4),
            "midonet": identity,
        }.get(kind, "")
        if self.fault(self.wrong / 2):
            words += " instanceid='x'" if "instanceid" not in words else " extra='1'"
        return f"<virtualport type={quoteattr(kind)}>" + (f"<parameters{words}/>" if words else "") + "</virtualport>"

    def pci_numbers(self):
        return (
            self.attribute("domain", [0, "0x0000", "0x0001"], ["0x10000"], 0.7)
            + self.attribute("bus", [3, "0x03", "0xff"], ["0x100", "x"])
            + self.attribute("slot", ["0x10", 16, "0x1f"], ["0x20"])
            + self.attribute("function", [0, "0x1", 7], [8])
        )

    def identity(self, names):
        text = "" if self.fault() else "<name>" + self.value(names, ["a/b", ""]) + "</name>"
        text += self.maybe(
            0.9, lambda: "<uuid>" + self.value([UUID, UUID.upper(), UUID.replace("-", "")], ["x", UUID + "0"]) + "</uuid>"
        )
        text += self.maybe(0.2, lambda: "<title>" + self.value(["t", "a&lt;b"], ["two\nlines"]) + "</title>")
        return text + self.maybe(0.2, lambda: "<description>" + self.value(["d", "two\nlines"]) + "</description>")

    # Networks.

    def network(self):
        """Its text, and how many things are wrong with it as far as is known here."""
        self.faults = 0
        forward, mode = self.forward() if self.chance(0.85) else ("", None)
        if mode is None and forward:
            mode = "nat"
        own = mode in (None, "none", "nat", "route", "open")
        plain = own or self.fault(self.wrong / 2)
        parts = [self.identity(["net", "net-2", "a&amp;b"]), forward]
        if plain or mode == "bridge" and "<interface" not in forward and " dev=" not in forward:
            parts.append(self.bridge(own))
        parts.append(self.maybe(0.1, lambda: "<mtu" + self.needed("size", [68, 1500, 9000], ["x"]) + "/>"))
        if plain:
            mac = self.attribute("address", ["52:54:00:17:3f:47", "52:54:0:17:3F:7"], ["01:00:00:00:00:00", "x"])
            parts.append(f"<mac{mac}/>")
        if plain and self.chance(0.2):
            text = "<domain" + self.needed("name", ["example.com", "a&b"])
            parts.append(text + self.attribute("localOnly", *YES_NO, 0.4) + self.attribute("register", *YES_NO, 0.2) + "/>")
        if plain and mode != "open":
            parts.append(self.maybe(0.3, self.dns))
        switched = mode in ("hostdev", "passthrough") or "openvswitch" in forward
        if switched or self.fault(self.wrong / 2):
            parts.append(self.maybe(0.3, self.vlan))
        if plain:
            parts.append(self.maybe(0.2, self.bandwidth))
        parts.append(self.maybe(0.1, lambda: "<port" + self.attribute("isolated", *YES_NO) + "/>"))
        if plain:
            parts.append(self.addresses(mode))
        if not own:
            parts.append(self.maybe(0.25, lambda: self.virtual_port(False)))
        names = self.random.sample(["a", "b", "c", "a&amp;b"], 4)
        default = True
        for name in names[: self.one_of(0, 0, 0, 1, 2)]:
            parts.append(self.port_group(name, default, own, switched))
            default = self.fault(self.wrong / 2)
        parts.append(self.maybe(0.1, lambda: "<metadata><a:x xmlns:a='urn:a'>t</a:x></metadata>"))
        if self.chance(0.3):
            self.random.shuffle(parts)
        root = self.attribute("ipv6", *YES_NO, 0.1) + self.attribute("trustGuestRxFilters", *YES_NO, 0.1)
        root += self.attribute("connections", [3], (), 0.05)
        return f"<network{root}>" + "".join(parts) + "</network>", self.faults

    def forward(self):
        modes = ["none", "nat", "nat", "route", "open", "bridge", "private", "vepa", "passthrough", "hostdev", "hostdev"]
        mode = None if self.chance(0.1) else self.value(modes, ["x", ""])
        natted = mode in (None, "nat")
        pool = mode in ("bridge", "private", "vepa", "passthrough", "hostdev")
        text = "<forward" + (f" mode={quoteattr(mode)}" if mode is not None else "")
        kind = self.one_of("interfaces", "pf", "nothing") if mode != "hostdev" else self.one_of("addresses", "pf")
        if kind == "nothing" and mode in ("private", "vepa", "passthrough"):
            kind = "interfaces"
        named = natted or mode == "route" or kind == "interfaces"
        if named:
            text += self.attribute("dev", ["eth0"], ["eth9"], 0.2)
        text += self.attribute("managed", *YES_NO, 0.6 if mode == "hostdev" else 0.03) + ">"
        if mode == "hostdev" and self.chance(0.3):
            text += "<driver" + self.attribute("name", ["vfio"], ["x"])
            text += self.attribute("model", ["mlx5_vfio_pci", "a&b"], (), 0.3) + "/>"
        if self.chance(0.3) if natted else self.fault(self.wrong / 2):
            text += self.translation()
        if pool and kind == "interfaces":
            names = ["eth0", "eth1", "eth2"][: self.one_of(1, 2, 3)]
            text += "".join("<interface" + self.needed("dev", [name], ["eth0"]) + "/>" for name in names)
        if pool and kind == "addresses":
            text += self.some(lambda: "<address" + self.needed("type", ["pci"], ["usb", "x"]) + self.pci_numbers() + "/>", 1)
        if pool and kind == "pf" or self.fault(self.wrong / 2):
            text += "<pf" + self.needed("dev", ["eth0"]) + "/>"
        return text + "</forward>", mode

    def translation(self):
        text = "<nat" + self.attribute("ipv6", *YES_NO, 0.2) + ">"
        if self.chance(0.5):
            text += "<address" + self.needed("start", ["1.2.3.4"], ["x", "2001:db8::1"])
            text += self.attribute("end", ["1.2.3.9", "1.2.3.4"], ["1.2.3.1", "x"]) + "/>"
        if self.chance(0.5):
            text += "<port" + self.attribute("start", [1, 500], [65536, "x"])
            text += self.attribute("end", [1000, 65535], [0, 65536]) + "/>"
        return text + "</nat>"

    def bridge(self, own):
        text = "<bridge" + self.attribute("name", ["virbr7", "br0"], (), 0.8 if own else 1.0)
        if own:
            text += self.attribute("zone", ["dmz"], (), 0.1) + self.attribute("stp", ["on", "off"], ["x"], 0.3)
            text += self.attribute("delay", [0, 1, 7], ["x"], 0.3)
            text += self.attribute("macTableManager", ["kernel", "libvirt"], ["x"], 0.1)
        return text + "/>"

    def dns(self):
        text = "<dns" + self.attribute("enable", ["yes"], ["no", "x"], 0.2)
        text += self.attribute("forwardPlainNames", *YES_NO, 0.3) + ">"
        text += self.maybe(
            0.3,
            lambda: "<forwarder"
            + self.attribute("domain", ["example.com"], (), 0.5)
            + self.attribute("addr", ["8.8.8.8", "2001:db8::8"], ["x"])
            + "/>",
        )
        text += self.maybe(
            0.3, lambda: "<txt" + self.needed("name", ["ex"], ["e x", ""]) + self.needed("value", ["v", "a'b"]) + "/>"
        )
        if self.chance(0.3):
            text += "<srv" + self.needed("service", ["name"], ["n" * 20, ""]) + self.needed("protocol", ["tcp", "udp"], [""])
            text += self.attribute("domain", ["d"], (), 0.5)
            if self.chance(0.7):
                text += " target='t'"
                for name in ("port", "priority", "weight"):
                    text += self.attribute(name, [1, 65535], [65536, "x"], 0.4)
            text += "/>"
        if self.chance(0.3):
            names = self.some(lambda: "<hostname>" + self.value(["a", "b"], [""]) + "</hostname>", 1, 1, 2)
            text += "<host" + self.needed("ip", ["1.2.3.4", "2001:db8::9"], ["x"]) + ">" + names + "</host>"
        return text + "</dns>"

    def addresses(self, mode):
        text, known = "", self.random.sample(["192.168.122", "10.0.0", "172.16.5", "2001:db8:"], self.one_of(1, 1, 2))
        dhcp = {"4": mode != "open", "6": mode != "open"}
        for prefix in known:
            family = "6" if ":" in prefix else "4"
            text += self.ip(prefix, dhcp[family])
            dhcp[family] = dhcp[family] and "<dhcp>" not in text
        first = next((prefix for prefix in known if ":" not in prefix), None)
        if first and self.chance(0.2):
            text += "<route" + self.needed("address", ["10.9.0.0"], ["10.9.0.1", "x"])
            text += self.attribute("prefix", [16, 24], [33]) + self.needed("gateway", [first + ".10"], ["9.9.9.9", "x"])
            text += self.attribute("metric", [1, 5], [0, "x"], 0.3) + "/>"
        return text

    def ip(self, prefix, dhcp):
        six = ":" in prefix
        dot = ":" if six else "."
        text = "<ip" + (self.needed("family", ["ipv6"], ["x"]) if six else self.attribute("family", ["ipv4"], ["x"], 0.3))
        text += self.needed("address", [f"{prefix}{dot}1"], ["x", "224.0.0.1"])
        if six or self.chance(0.5):
            text += self.attribute("prefix", [64] if six else [24], [129, "x"])
        else:
            text += self.attribute("netmask", ["255.255.255.0"], ["255.0.255.0", "x"])
        text += self.attribute("localPtr", *YES_NO, 0.1) + ">"
        if not six:
            text += self.maybe(0.2, lambda: "<tftp" + self.needed("root", ["/srv", "/a&b"]) + "/>")
        if dhcp and self.chance(0.6):
            text += self.dhcp(prefix + dot, six)
        return text + "</ip>"

    def lease(self):
        text = "<lease" + self.needed("expiry", [0, 120, 3600], [1, "x"])
        return text + self.attribute("unit", ["seconds", "minutes", "hours"], ["days"], 0.6) + "/>"

    def dhcp(self, net, six):
        text = "<dhcp>"
        if self.chance(0.7):
            text += "<range" + self.needed("start", [net + "2"], ["9.9.9.9", "x"])
            text += self.needed("end", [net + "9"], [net + "1", "x"]) + ">" + self.maybe(0.3, self.lease) + "</range>"
        for number in range(self.one_of(0, 0, 1, 2)):
            if six:
                key = self.attribute("id", ["0:1:2"], ["xyz"], 0.5) or self.attribute("name", ["a", "b.c"])
            else:
                key = self.attribute("mac", [f"52:54:00:00:00:0{number}"], ["01:00:5e:00:00:01", "x"])
                key += self.attribute("name", ["a", "a.b"], ["9x", "a b"], 0.6)
            address = self.needed("ip", [f"{net}{5 + number}"], ["9.9.9.9", "x"])
            text += f"<host{key}{address}>" + self.maybe(0.2, self.lease) + "</host>"
        if not six and self.chance(0.2):
            text += "<bootp" + self.needed("file", ["pxe", "a&b"])
            text += self.attribute("server", ["1.2.3.4", "host.example"], (), 0.5) + "/>"
        return text + "</dhcp>"

    def port_group(self, name, default, own, switched):
        text = f"<portgroup name='{name}'" + (self.attribute("default", *YES_NO, 0.4) if default else "")
        text += self.attribute("trustGuestRxFilters", *YES_NO, 0.2) + ">"
        if switched:
            text += self.maybe(0.3, self.vlan)
        if not own:
            text += self.maybe(0.3, lambda: self.virtual_port(False))
        else:
            text += self.maybe(0.2, self.bandwidth)
        return text + "</portgroup>"

    # Guests.

    def domain(self):
        """Its text, and how many things are wrong with it as far as is known here."""
        self.faults = 0
        machine = self.value(["q35", "q35", "pc", "pc-q35-9.2"], ["x"])
        virtual_type = self.value(["qemu"], ["xen", "x"])
        parts = [self.identity(["guest", "guest-2", "a&amp;b"]), self.memory(), self.cpus()]
        parts.append(self.operating_system(machine))
        if self.chance(0.6):
            names = self.random.sample(["acpi", "apic", "pae"], self.one_of(1, 2, 3))
            vmport = self.maybe(0.3, lambda: "<vmport" + self.attribute("state", ["on", "off"], ["x"]) + "/>")
            parts.append("<features>" + "".join(f"<{name}/>" for name in names) + vmport + "</features>")
        parts.append(self.maybe(0.4, self.clock))
        parts.append(self.maybe(0.2, self.power))
        for name in ("on_poweroff", "on_reboot", "on_crash"):
            kinds = ["destroy", "restart"] if name != "on_crash" else ["destroy", "restart", "preserve"]
            action = lambda: self.value(kinds, ["x", "preserve"])
            parts.append(self.maybe(0.1, lambda: f"<{name}>{action()}</{name}>"))
        parts.append(self.devices(machine))
        parts.append(self.maybe(0.1, lambda: "<metadata><a:x xmlns:a='urn:a'>t</a:x></metadata>"))
        # Not to be had together.
        self.faults += "<os>" in "".join(parts) and "<boot dev" in "".join(parts) and "<boot order" in "".join(parts)
        if self.chance(0.3):
            self.random.shuffle(parts)
        return f"<domain type='{virtual_type}'>" + "".join(parts) + "</domain>", self.faults

    def clock(self):
        timers = ""
        for name in self.random.sample(["rtc", "pit", "hpet", "kvmclock"], self.one_of(0, 1, 2, 3)):
            policies = {"rtc": ["delay", "catchup"], "pit": ["delay", "catchup", "discard"], "hpet": ["delay"]}.get(name)
            timer = "<timer" + self.needed("name", [name], ["x"])
            timer += self.attribute("present", ["no"] if name == "hpet" else ["yes"], ["x"], 0.5)
            timers += timer + (self.attribute("tickpolicy", policies, ["x"], 0.6) if policies else "") + "/>"
        return "<clock" + self.attribute("offset", ["utc", "localtime"], ["x"]) + f">{timers}</clock>"

    def power(self):
        names = self.random.sample(["suspend-to-mem", "suspend-to-disk"], self.one_of(1, 2))
        return "<pm>" + "".join(f"<{name}" + self.attribute("enabled", *YES_NO) + "/>" for name in names) + "</pm>"

    def memory(self):
        text = "<memory" + self.attribute("unit", ["KiB", "k", "M"], ["x"], 0.5) + ">"
        text += self.value(["262144", "1048576"], ["0", "x", ""]) + "</memory>"
        return text + self.maybe(0.3, lambda: "<currentMemory>" + self.value(["131072"], ["x"]) + "</currentMemory>")

    def cpus(self):
        text = "<vcpu" + self.attribute("placement", ["static"], ["x"], 0.4) + self.attribute("current", [1], [0, 9, "x"], 0.2)
        text += ">" + self.value(["1", "2", "4"], ["0", "x"]) + "</vcpu>"
        if self.chance(0.2):
            text += "<cpu mode='custom' match='exact'><model fallback='allow'>qemu64</model></cpu>"
        return text

    def operating_system(self, machine):
        text = "<os><type" + self.attribute("arch", ["x86_64"], ["x"], 0.9) + f" machine='{machine}'>"
        text += self.value(["hvm"], ["x"]) + "</type>"
        if self.chance(0.2):
            text += "<kernel>/boot/a&amp;b</kernel><initrd>/boot/i</initrd><cmdline>console=ttyS0</cmdline>"
        text += self.maybe(0.4, lambda: "<boot" + self.needed("dev", ["hd", "network", "cdrom"], ["x"]) + "/>")
        return text + "</os>"

    def devices(self, machine):
        express = "q35" in machine
        parts = [self.maybe(0.5, lambda: "<emulator>/usr/bin/qemu-system-x86_64</emulator>")]
        buses = ["virtio", "scsi", "sata" if express else "ide", "usb"]
        for letter in "abc"[: self.one_of(0, 0, 1, 1, 2)]:
            parts.append(self.disk(letter, buses))
        if self.chance(0.4):
            model = self.value(["none"] if self.chance(0.4) else ["qemu-xhci", "nec-xhci"], ["x"])
            if model == "none" and "bus='usb'" in "".join(parts):
                model = "qemu-xhci"
            parts.append(f"<controller type='usb' index='0' model='{model}'/>")
        usb = "model='none'" not in "".join(parts)
        wide = express or "xhci" in "".join(parts)
        if self.chance(0.2) and express:
            parts.append("<controller type='pci' index='0' model='pcie-root'/>")
            ports = self.one_of(1, 2, 3)
            for index in range(1, ports + 1):
                bad = self.value([index], [index + 300, 0])
                parts.append(f"<controller type='pci' index='{bad}' model='pcie-root-port'/>")
        elif self.chance(0.1) and not express:
            parts.append("<controller type='pci' index='1' model='pci-bridge'/>")
        parts.append(self.maybe(0.2, lambda: "<controller type='virtio-serial'/>"))
        for number in range(self.one_of(0, 1, 1, 1, 2, 3)):
            parts.append(self.interface(number))
        for number in range(self.one_of(0, 0, 0, 1, 2)):
            parts.append(self.host_device(number, usb and (wide or "bus='usb'" not in "".join(parts))))
        parts.append(self.maybe(0.3, lambda: "<serial type='" + self.value(["pty", "null"], ["x"]) + "'/>"))
        parts.append(self.maybe(0.3, lambda: "<console type='pty'/>"))
        for number in range(self.one_of(0, 0, 1, 2)):
            parts.append(self.channel(number))
        if usb and "bus='usb'" not in "".join(parts):
            parts.append(self.maybe(0.2, lambda: "<input type='" + self.value(["tablet", "keyboard"], ["x"]) + "' bus='usb'/>"))
        parts.append(self.maybe(0.1, lambda: "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"))
        parts.append(self.maybe(0.3, lambda: "<memballoon model='" + self.value(["none", "virtio"], ["x"]) + "'/>"))
        if self.chance(0.3):
            self.random.shuffle(parts)
        return "<devices>" + "".join(parts) + "</devices>"

    def channel(self, number):
        source = self.maybe(0.4, lambda: "<source mode='bind'" + self.attribute("path", [f"/run/c{number}"], (), 0.6) + "/>")
        target = "<target" + self.needed("type", ["virtio"], ["x"]) + self.attribute("name", [f"org.example.{number}"], (), 0.9)
        return f"<channel type='unix'>{source}{target}/></channel>"

    def disk(self, letter, buses):
        bus = self.value(buses, ["x"])
        name = {"virtio": "vd", "ide": "hd"}.get(bus, "sd") + letter
        device = "cdrom" if bus in ("ide", "sata") and self.chance(0.4) else "disk"
        source = "<source file='/a'/>" if device == "disk" or self.chance(0.5) else ""
        driver = "<driver name='qemu' type='raw'" + self.attribute("cache", ["none", "writeback"], ["x"], 0.3) + "/>"
        target = "<target" + self.needed("dev", [name]) + f" bus='{bus}'/>"
        return f"<disk type='file' device='{device}'>{driver}{source}{target}{self.address()}</disk>"

    def address(self):
        """Where a guest sees a device; mostly left to the daemon."""
        return ""

    def interface(self, number):
        kinds = ["network", "network", "direct", "hostdev", "hostdev", "bridge", "ethernet", "user", "null"]
        kind = self.value(kinds, ["x", "usb"])
        text = f"<interface type='{kind}'" + (self.attribute("managed", *YES_NO, 0.6) if kind == "hostdev" else "")
        text += self.attribute("trustGuestRxFilters", *YES_NO, 0.1) + ">"
        parts = []
        parts.append("<mac" + self.attribute("address", [f"52:54:00:6d:90:0{number}"], ["x", "ff:ff:ff:ff:ff:ff"]) + "/>")
        if kind == "network":
            group = self.attribute("portgroup", ["g", "a&b"], (), 0.3)
            parts.append("<source" + self.needed("network", ["default", "pool"]) + group + "/>")
        elif kind == "direct":
            mode = self.attribute("mode", ["vepa", "bridge", "private", "passthrough"], ["x"], 0.9)
            parts.append("<source" + self.needed("dev", ["eth0"]) + mode + "/>")
        elif kind == "bridge":
            parts.append("<source" + self.needed("bridge", ["br0"]) + "/>")
        elif kind == "hostdev":
            kind_of = self.needed("type", ["pci"], ["x"])
            numbers = f" domain='0' bus='{3 + number}' slot='{self.one_of('0x10', 7)}' function='{number}'"
            parts.append(f"<source><address{kind_of}{numbers}/></source>")
        virtio = kind != "hostdev" and self.chance(0.6)
        if virtio or kind != "hostdev" and self.chance(0.6):
            models = ["virtio"] if virtio else ["e1000", "e1000e", "rtl8139"]
            parts.append("<model" + self.attribute("type", models, ["a b"]) + "/>")
        if virtio and self.chance(0.3):
            driver = "<driver" + self.attribute("name", ["vhost", "qemu"], ["x"], 0.6)
            driver += self.attribute("queues", [1, 4], ["x"], 0.3) + self.attribute("rx_queue_size", [512], [500], 0.2)
            parts.append(driver + self.attribute("txmode", ["iothread", "timer"], ["x"], 0.2) + "/>")
        elif kind == "hostdev":
            parts.append(self.maybe(0.3, lambda: "<driver" + self.attribute("name", ["vfio"], ["x"]) + "/>"))
        if kind in ("network", "direct", "hostdev"):
            parts.append(self.maybe(0.2, self.vlan) if kind != "direct" else "")
            parts.append(self.maybe(0.2, lambda: self.virtual_port(kind != "network")))
        if kind in ("network", "direct", "bridge", "ethernet"):
            parts.append(self.maybe(0.15, lambda: self.bandwidth(kind == "network")))
        if kind in ("network", "bridge"):
            parts.append(self.maybe(0.1, lambda: "<mtu" + self.needed("size", [1500, 9000], ["x"]) + "/>"))
            parts.append(self.maybe(0.1, lambda: "<filterref filter='clean-traffic'/>"))
            parts.append(self.maybe(0.1, lambda: "<coalesce><rx><frames max='7'/></rx></coalesce>"))
        if kind != "hostdev":
            parts.append(self.maybe(0.2, lambda: "<link" + self.attribute("state", ["up", "down"], ["x"]) + "/>"))
            parts.append(self.maybe(0.2, lambda: "<target" + self.attribute("dev", ["tap7", "vnet3"]) + "/>"))
        if virtio and self.chance(0.1):
            parts.append(f"<alias name='ua-net{number}'/><teaming" + self.needed("type", ["persistent"], ["x"]) + "/>")
        elif kind == "hostdev" and self.chance(0.1):
            parts.append("<teaming type='transient'" + self.needed("persistent", ["ua-other"]) + "/>")
        parts.append(self.maybe(0.1, lambda: "<rom" + self.attribute("bar", ["on", "off"], ["x"]) + "/>"))
        parts.append(self.address())
        if self.chance(0.2):
            self.random.shuffle(parts)
        return text + "".join(parts) + "</interface>"

    def host_device(self, number, usb):
        if usb and self.chance(0.3):
            vendor = "<vendor" + self.needed("id", ["0x1234"], ["x"]) + "/>"
            product = "<product" + self.needed("id", [f"0xbee{number}"], ["0x10000"]) + "/>"
            source = "<source" + self.attribute("startupPolicy", ["optional"], ["x"], 0.3) + f">{vendor}{product}</source>"
            if self.chance(0.4):
                source = f"<source><address bus='3' device='{4 + number}'/></source>"
            return f"<hostdev mode='subsystem' type='usb'>{source}</hostdev>"
        numbers = f"domain='0' bus='{0x20 + number}' slot='{self.one_of('0x10', 7)}' function='0'"
        text = "<hostdev" + self.attribute("mode", ["subsystem"], ["x"]) + self.needed("type", ["pci"], ["x"])
        text += self.attribute("managed", *YES_NO, 0.6) + ">"
        text += self.maybe(0.3, lambda: "<driver" + self.attribute("name", ["vfio"], ["x"]) + "/>")
        text += f"<source><address {numbers}/></source>"
        text += self.maybe(0.1, lambda: "<boot" + self.needed("order", [number + 1], [0, "x"]) + "/>")
        text += self.maybe(0.1, lambda: "<rom" + self.attribute("bar", ["on", "off"], ["x"]) + "/>")
        return text + self.address() + "</hostdev>"
