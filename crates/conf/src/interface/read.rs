//! Reading `<interface>`.

use super::driver::Drivers;
use super::{
    ActualDevice, GivenMac, Interface, InterfaceSource, NicBackend, NicBackendKind, Teaming,
    is_virtio_model,
};
use crate::domain::Origin;
use crate::domain::info::pci_address;
use crate::domain::shapes::{INTERFACE, INTERFACE_ELSEWHERE, INTERFACE_HOSTDEV};
use crate::kept::Kept;
use crate::xml::{Base, Element, FromXml, VIRTNIC_NAMESPACE, parse_unsigned};
use crate::{
    Bandwidth, DeviceInfo, DirectMode, Error, ErrorKind, Faults, HostDriver, HostSource, Hybrid,
    HybridPart, MacAddress, Plug, VfSettings, VirtualPort, VirtualPortRules,
};

/// Kinds that libvirt knows and this crate only carries through.
const OTHER_KINDS: [&str; 9] = [
    "vhostuser",
    "server",
    "client",
    "mcast",
    "udp",
    "internal",
    "vdpa",
    "vds",
    "null",
];

/// Names that a host makes up for taps; they say nothing about the next start.
const MADE_UP_TARGETS: [&str; 3] = ["vnet", "macvtap", "macvlan"];

impl Interface {
    pub(crate) fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let source = InterfaceSource::read(element);
        // What depends on the kind is not looked at where that is not known.
        let known = source.is_ok();
        let source = faults.or(source, || InterfaceSource::Null);
        let hostdev = matches!(source, InterfaceSource::Hostdev { .. });
        let child = |name: &str| element.child(name);
        let path = |name: &str, attribute: &str| {
            let value = child(name).and_then(|child| child.attribute_string(attribute));
            value.filter(|value| !value.is_empty())
        };
        let model = path("model", "type").map(|model| known_model(element, model));
        let model = faults.or_default(model.transpose());
        let virtio = model.as_deref().is_some_and(is_virtio_model) && !hostdev && known;
        let drivers = Drivers::read(element, &source, virtio, known && model.is_none());
        let drivers = faults.or_default(drivers);
        let backend = child("backend").map(|backend| NicBackend::read(backend, virtio));
        let mut unused = Kept::of(element, source.shape());
        if !source.may_be_filtered() {
            unused.remove("filterref");
        }
        let target = faults.or_default(Target::read(element, origin));
        let generated = faults.or_default(read_generated(element));
        let mac = faults.or_default(read_mac(element));
        let teaming =
            child("teaming").and_then(|teaming| faults.or_default(Teaming::read(teaming)));
        let mut interface = Self {
            mac: mac.unwrap_or_else(MacAddress::random),
            given_mac: GivenMac(mac.is_some()),
            vlan: faults.or_default(element.parse_child("vlan")),
            virtual_port: match known {
                true => faults.or_default(source.virtual_port(element)),
                false => None,
            },
            bandwidth: match known {
                true => faults.or_default(source.bandwidth(element)),
                false => None,
            },
            isolated: child("port").and_then(|port| faults.or_default(port.yes_no("isolated"))),
            trust_guest_rx_filters: faults.or_default(element.yes_no("trustGuestRxFilters")),
            target: target.dev,
            target_managed: target.managed,
            mac_generated: generated,
            mac_check: child("mac").and_then(|mac| faults.or_default(mac.yes_no("check"))),
            script: path("script", "path"),
            downscript: path("downscript", "path"),
            backend_domain: path("backenddomain", "name"),
            model,
            driver: drivers.nic,
            vf_driver: drivers.vf,
            backend: faults.or_default(backend.transpose()).flatten(),
            send_buffer: faults.or_default(read_send_buffer(element)),
            coalesce_rx_frames: faults.or_default(read_coalesce(element)),
            link_up: child("link").and_then(|link| faults.or_default(read_link(link))),
            mtu: child("mtu")
                .and_then(|mtu| faults.or_default(mtu.number::<u32>("size")))
                .filter(|&size| size > 0),
            vf: faults
                .or_default(VfSettings::of(element))
                .filter(|vf| *vf != VfSettings::default()),
            direct_mode: faults.or_default(read_direct_mode(element)),
            hybrid: faults.or_default(Hybrid::read(element, teaming.as_ref())),
            teaming,
            info: faults.or_default(DeviceInfo::read(element, origin)),
            actual: None,
            host_address: None,
            source,
            unused,
        };
        if origin == Origin::Status {
            interface.actual = faults.or_default(ActualDevice::read(element));
            if interface.names_host_device() {
                let source = child("source").and_then(|source| source.child("address"));
                let address = source.map(pci_address).transpose();
                interface.host_address = faults.or_default(address);
            }
        }
        faults.finish()?;
        interface.check(element)?;
        Ok(interface)
    }

    /// What the document contradicts itself in.
    fn check(&self, element: Element<'_>) -> Result<(), Error> {
        let kind = self.source.kind();
        let passt = self.backend.as_ref().and_then(|backend| backend.kind);
        let unsupported =
            |message: String| Err(element.error(ErrorKind::ConfigUnsupported, message));
        if self.target_managed == Some(false) && kind != "ethernet" {
            return unsupported(format!(
                "<target managed='no'> is for interfaces of type 'ethernet', not '{kind}'"
            ));
        }
        if self.target_managed == Some(false)
            && let Some(template) = self
                .target
                .as_ref()
                .filter(|_| self.target_name().is_none())
        {
            return unsupported(format!(
                "<target managed='no'> needs the name of a tap that is there; '{template}' is a \
                 template"
            ));
        }
        // The guest has a pair's MTU from the standby's device.
        if self.mtu.is_some()
            && matches!(kind, "direct" | "hostdev")
            && !self.is_part(HybridPart::Standby)
        {
            return unsupported(format!(
                "setting MTU on interface type '{kind}' is not supported"
            ));
        }
        if self.coalesce_rx_frames.is_some() && !matches!(kind, "network" | "bridge") {
            return unsupported(format!(
                "coalesce settings on interface type '{kind}' are not supported"
            ));
        }
        if passt == Some(NicBackendKind::Passt) && !matches!(kind, "user" | "vhostuser") {
            return unsupported(format!(
                "<backend type='passt'> is for interfaces of type 'user' and 'vhostuser', not \
                 '{kind}'"
            ));
        }
        if self.isolated == Some(true)
            && !(matches!(kind, "network" | "bridge") && self.virtual_port.is_none())
        {
            return unsupported(format!(
                "isolated port settings are not supported for interfaces of type '{kind}' or with \
                 a virtualport"
            ));
        }
        self.check_hybrid(element)?;
        match &self.teaming {
            Some(Teaming::Persistent) if !self.is_virtio() => unsupported(
                "the standby of a failover pair (teaming type='persistent') needs model 'virtio'"
                    .to_owned(),
            ),
            Some(Teaming::Transient { .. })
                if !matches!(kind, "hostdev" | "network" | "hostdev-hybrid") =>
            {
                unsupported(format!(
                    "the primary of a failover pair (teaming type='transient') must be a host \
                     device, not an interface of type '{kind}'"
                ))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
struct Target {
    dev: Option<String>,
    managed: Option<bool>,
}

impl Target {
    fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        let Some(target) = element.child("target") else {
            let (dev, managed) = (None, None);
            return Ok(Self { dev, managed });
        };
        let managed = target.yes_no("managed")?;
        let kept = |dev: &String| {
            let made_up = MADE_UP_TARGETS.iter().any(|prefix| dev.starts_with(prefix));
            !dev.is_empty() && (origin == Origin::Status || managed == Some(false) || !made_up)
        };
        Ok(Self {
            dev: target.attribute_string("dev").filter(kept),
            managed,
        })
    }
}

fn read_generated(element: Element<'_>) -> Result<Option<bool>, Error> {
    let Some(mac) = element.child("mac") else {
        return Ok(None);
    };
    match mac.attribute("type") {
        None => Ok(None),
        Some("generated") => Ok(Some(true)),
        Some("static") => Ok(Some(false)),
        Some(_) => Err(mac.invalid(ErrorKind::Xml, "type", "generated or static")),
    }
}

/// None: one is made up.
fn read_mac(element: Element<'_>) -> Result<Option<MacAddress>, Error> {
    let mac = match element.child("mac") {
        Some(mac) => {
            let address = mac.parsed::<MacAddress>(ErrorKind::Xml, "address")?;
            if address.is_some_and(MacAddress::is_multicast) {
                return Err(mac.invalid(
                    ErrorKind::Xml,
                    "address",
                    "a unicast address; this one is multicast",
                ));
            }
            address
        }
        None => None,
    };
    Ok(mac.filter(|mac| !mac.is_zero()))
}

fn read_link(link: Element<'_>) -> Result<Option<bool>, Error> {
    match link.attribute("state") {
        None => Ok(None),
        Some("up") => Ok(Some(true)),
        Some("down") => Ok(Some(false)),
        Some(_) => Err(link.invalid(ErrorKind::ConfigUnsupported, "state", "up or down")),
    }
}

fn read_send_buffer(element: Element<'_>) -> Result<Option<u64>, Error> {
    let sndbuf = element.child("tune").and_then(|tune| tune.child("sndbuf"));
    let Some(sndbuf) = sndbuf else {
        return Ok(None);
    };
    let number = parse_unsigned(sndbuf.text().trim(), Base::Ten);
    number
        .map(Some)
        .ok_or_else(|| sndbuf.error(ErrorKind::Xml, "<sndbuf> must be a number of bytes"))
}

/// `<virtnic:direct mode=…>`: what a guest chooses of its network's modes.
fn read_direct_mode(element: Element<'_>) -> Result<Option<DirectMode>, Error> {
    let Some(direct) = element.children_in(VIRTNIC_NAMESPACE, "direct").next() else {
        return Ok(None);
    };
    if let Some((name, _)) = direct.attributes().find(|(name, _)| *name != "mode") {
        let message = format!("<virtnic:direct> has no attribute '{name}' here; expected mode");
        return Err(direct.attribute_error(ErrorKind::Xml, name, message));
    }
    match direct.keyword("mode")? {
        Some(mode) => Ok(Some(mode)),
        None => Err(direct.missing(ErrorKind::Xml, "mode")),
    }
}

/// `<virtnic:port>` says whose host device it is that is shown, as a whole and of nothing else.
fn check_port(element: Element<'_>) -> Result<(), Error> {
    let Some(port) = element.children_in(VIRTNIC_NAMESPACE, "port").next() else {
        return Ok(());
    };
    if element.attribute("type") != Some("hostdev") {
        let message = "<virtnic:port> is for interfaces of type 'hostdev' that a network lent";
        return Err(port.error(ErrorKind::Xml, message));
    }
    let known = ["network", "portgroup", "portid"];
    let mut faults = Faults::default();
    let unknown = port.attributes();
    faults.each(
        unknown.filter(|(name, _)| !known.contains(name)),
        |(name, _)| {
            let expected = known.join(", ");
            let message = format!("<virtnic:port> has no attribute '{name}'; expected {expected}");
            Err(port.attribute_error(ErrorKind::Xml, name, message))
        },
    );
    for name in ["network", "portid"] {
        if port.attribute(name).is_none_or(str::is_empty) {
            faults.push(port.missing(ErrorKind::Xml, name));
        }
    }
    faults.finish()
}

fn read_coalesce(element: Element<'_>) -> Result<Option<u32>, Error> {
    let rx = element
        .child("coalesce")
        .and_then(|coalesce| coalesce.child("rx"));
    let Some(frames) = rx.and_then(|rx| rx.child("frames")) else {
        return Ok(None);
    };
    let Some(max) = frames.attribute("max") else {
        return Ok(None);
    };
    let expected = "a number from 0 to 4294967295";
    let max = parse_unsigned(max, Base::Ten)
        .ok_or_else(|| frames.invalid(ErrorKind::XmlDetail, "max", expected))?;
    let max =
        u32::try_from(max).map_err(|_| frames.invalid(ErrorKind::Overflow, "max", expected))?;
    Ok((max > 0).then_some(max))
}

/// libvirt's spelling of a model that it knows; any other word stays.
fn known_model(element: Element<'_>, model: String) -> Result<String, Error> {
    let known = [
        "netfront",
        "rtl8139",
        "virtio",
        "e1000",
        "e1000e",
        "igb",
        "virtio-transitional",
        "virtio-non-transitional",
        "usb-net",
        "spapr-vlan",
        "lan9118",
        "scm91c111",
        "vlance",
        "vmxnet",
        "vmxnet2",
        "vmxnet3",
        "Am79C970A",
        "Am79C973",
        "82540EM",
        "82545EM",
        "82543GC",
    ];
    if let Some(known) = known
        .iter()
        .find(|known| known.eq_ignore_ascii_case(&model))
    {
        return Ok((*known).to_owned());
    }
    if model
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
    {
        return Ok(model);
    }
    let element = element.child("model").unwrap_or(element);
    Err(element.invalid(
        ErrorKind::InvalidArgument,
        "type",
        "letters, digits, '_' and '-'",
    ))
}

impl InterfaceSource {
    fn read(element: Element<'_>) -> Result<Self, Error> {
        check_port(element)?;
        if let Some(network) = Self::read_resolved(element) {
            return Ok(network);
        }
        let kind = element.attribute("type").unwrap_or("user");
        let source = element.child("source");
        let required = |name: &str| {
            let value = source.and_then(|source| source.attribute(name));
            let value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
                let message = format!("an interface of type '{kind}' needs <source {name}='…'>");
                element.error(ErrorKind::Xml, message)
            })?;
            Ok::<_, Error>(value.to_owned())
        };
        Ok(match kind {
            "network" => Self::Network {
                network: required("network")?,
                port_group: source.and_then(|source| source.attribute_string("portgroup")),
            },
            "direct" => Self::Direct {
                dev: required("dev")?,
                mode: match source {
                    Some(source) => source.keyword("mode")?.unwrap_or_default(),
                    None => crate::DirectMode::default(),
                },
            },
            "bridge" => Self::Bridge {
                bridge: required("bridge")?,
            },
            "hostdev" => {
                let source = element.child("source").ok_or_else(|| {
                    let message = "an interface of type 'hostdev' needs a <source>";
                    element.error(ErrorKind::ConfigUnsupported, message)
                })?;
                let driver = element.child("driver").map(HostDriver::from_xml);
                Self::Hostdev {
                    managed: element.yes_no("managed")?.unwrap_or(false),
                    driver: driver.transpose()?.filter(|d| *d != HostDriver::default()),
                    source: match HostSource::read_in_interface(source)? {
                        HostSource::NetDevice(pf) if Hybrid::element_of(element).is_some() => {
                            HostSource::VfOf(pf)
                        }
                        source => source,
                    },
                }
            }
            "hostdev-hybrid" => {
                if element.yes_no("managed")? == Some(false) {
                    return Err(element.attribute_error(
                        ErrorKind::ConfigUnsupported,
                        "managed",
                        "managed='no' can't be had here: which VF it will be is not known, so that \
                         nobody else can bind it",
                    ));
                }
                Self::HostdevHybrid {
                    dev: required("dev")?,
                }
            }
            "ethernet" if source.is_none() => Self::Ethernet,
            "user" if source.is_none() => Self::User,
            "null" if source.is_none() => Self::Null,
            _ if OTHER_KINDS.contains(&kind) || matches!(kind, "ethernet" | "user") => {
                Self::Other {
                    kind: kind.to_owned(),
                    source: source.map(Element::raw),
                }
            }
            _ => {
                let expected = format!(
                    "network, direct, bridge, hostdev, hostdev-hybrid, ethernet, user, {}",
                    OTHER_KINDS.join(", ")
                );
                return Err(element.invalid(ErrorKind::Xml, "type", expected));
            }
        })
    }

    /// The network of an interface that is shown as it was resolved: the live form of a guest, read
    /// as a definition, asks for a port again and not for the device that it happened to get.
    fn read_resolved(element: Element<'_>) -> Option<Self> {
        let origin = match element.attribute("type")? {
            "hostdev" => element.children_in(VIRTNIC_NAMESPACE, "port").next()?,
            "bridge" | "direct" => element.child("source")?,
            _ => return None,
        };
        // Only what runs has a port.
        origin.attribute("portid")?;
        let network = origin
            .attribute("network")
            .filter(|name| !name.is_empty())?;
        Some(Self::Network {
            network: network.to_owned(),
            port_group: origin.attribute_string("portgroup"),
        })
    }

    pub(super) fn shape(&self) -> &'static crate::kept::Shape {
        match self {
            Self::Other { .. } => &INTERFACE_ELSEWHERE,
            Self::Hostdev { .. } => &INTERFACE_HOSTDEV,
            _ => &INTERFACE,
        }
    }

    /// Others forget `<filterref>`, as libvirt's do; a pair refuses it.
    fn may_be_filtered(&self) -> bool {
        matches!(
            self.kind(),
            "network" | "bridge" | "ethernet" | "hostdev-hybrid"
        )
    }

    fn virtual_port(&self, element: Element<'_>) -> Result<Option<VirtualPort>, Error> {
        let Some(child) = element.child("virtualport") else {
            return Ok(None);
        };
        let rules = match self.kind() {
            "network" => VirtualPortRules::Open,
            "bridge" | "direct" | "hostdev" | "hostdev-hybrid" => VirtualPortRules::Complete,
            kind => {
                return Err(child.error(
                    ErrorKind::ConfigUnsupported,
                    format!("<virtualport> element unsupported for <interface type='{kind}'>"),
                ));
            }
        };
        let mut port = VirtualPort::parse(child, rules)?;
        port.generate_missing();
        Ok((port != VirtualPort::default()).then_some(port))
    }

    fn bandwidth(&self, element: Element<'_>) -> Result<Option<Bandwidth>, Error> {
        let Some(child) = element.child("bandwidth") else {
            return Ok(None);
        };
        Bandwidth::parse(child, self.kind() == "network")
    }
}

impl Teaming {
    /// `None`, as libvirt has it, if nothing is said.
    pub(crate) fn read(element: Element<'_>) -> Result<Option<Self>, Error> {
        let persistent = element.attribute("persistent");
        match (element.attribute("type"), persistent) {
            (None, None) => Ok(None),
            (Some("persistent"), None) => Ok(Some(Self::Persistent)),
            (Some("persistent"), Some(_)) => Err(element.error(
                ErrorKind::ConfigUnsupported,
                "teaming persistent attribute not allowed if teaming type is 'persistent'",
            )),
            (Some("transient"), Some(persistent)) => Ok(Some(Self::Transient {
                persistent: persistent.to_owned(),
            })),
            (Some("transient"), None) => Err(element.error(
                ErrorKind::ConfigUnsupported,
                "teaming persistent attribute must be set if teaming type is 'transient'",
            )),
            (Some(_), _) => Err(element.invalid(
                ErrorKind::ConfigUnsupported,
                "type",
                "persistent or transient",
            )),
            (None, Some(_)) => Err(element.missing(ErrorKind::ConfigUnsupported, "type")),
        }
    }
}

impl ActualDevice {
    /// Reads `<actual>` of our own status, and the port's id beside it.
    fn read(interface: Element<'_>) -> Result<Option<Self>, Error> {
        let Some(element) = interface.child("actual") else {
            return Ok(None);
        };
        let outer = interface.child("source");
        let port = match outer {
            Some(source) => source.uuid(ErrorKind::Xml, "portid")?,
            None => None,
        };
        let port = port.ok_or_else(|| interface.missing(ErrorKind::Internal, "portid"))?;
        let source = element.require_child("source")?;
        let text = |name: &str| source.require(name).map(str::to_owned);
        let driver = element.child("driver").map(HostDriver::from_xml);
        let plug = match element.require("type")? {
            "network" => Plug::Network {
                bridge: text("bridge")?,
                mac_table_manager: source.keyword("macTableManager")?,
            },
            "bridge" => Plug::Bridge {
                bridge: text("bridge")?,
                mac_table_manager: source.keyword("macTableManager")?,
            },
            "direct" => Plug::Direct {
                dev: text("dev")?,
                mode: source.keyword("mode")?.unwrap_or_default(),
            },
            "hostdev" => match HostSource::read_in_interface(source)? {
                HostSource::Pci(address) => Plug::HostdevPci {
                    managed: element.yes_no("managed")?.unwrap_or(false),
                    driver: driver.transpose()?,
                    address,
                },
                _ => {
                    let message = "a resolved host device needs a PCI address";
                    return Err(source.error(ErrorKind::Internal, message));
                }
            },
            _ => {
                let expected = "network, bridge, direct or hostdev";
                return Err(element.invalid(ErrorKind::Internal, "type", expected));
            }
        };
        let bandwidth = element.child("bandwidth");
        let bandwidth = bandwidth.map(|bandwidth| Bandwidth::parse(bandwidth, true));
        Ok(Some(Self {
            port,
            plug,
            vlan: element.parse_child("vlan")?,
            virtual_port: element.parse_child("virtualport")?,
            bandwidth: bandwidth.transpose()?.flatten(),
            isolated: match element.child("port") {
                Some(port) => port.yes_no("isolated")?,
                None => None,
            },
            trust_guest_rx_filters: element.yes_no("trustGuestRxFilters")?,
        }))
    }
}
