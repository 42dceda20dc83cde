//! Network devices: reading them, and setting what each has.
//!
//! Numbers are those of the kernel's `linux/if_link.h`.

use std::io;

use conf::{DirectMode, MacAddress};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use super::attributes::{AttributeWriter, Attributes, malformed, text, u32_at, u64_at};
use super::connection::{Connections, Raw};
use super::link::{HEADER, Link, get_link};
use super::vlan;
use crate::{Counters, LinkState, LinkType, MacvlanSpec};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
pub(super) const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
pub(super) const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;

pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;

const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 1 << 8;
const IFF_ALLMULTI: u32 = 1 << 9;

const IFNAMSIZ: usize = 16;
const ALTIFNAMSIZ: usize = 128;
/// Alternative names that are kept of a device.
const MOST_NAMES: usize = 64;
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// A network device as netlink tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alternative_names: Vec<String>,
    pub(crate) mac: MacAddress,
    pub(crate) link_type: LinkType,
    pub(crate) state: LinkState,
    pub(crate) promiscuous: bool,
    pub(crate) all_multicast: bool,
    pub(crate) lower: Option<u32>,
    pub(crate) master: Option<u32>,
    pub(crate) alias: Option<String>,
    /// Bus and name of the device that it belongs to; older kernels don't tell.
    pub(crate) parent: Option<(String, String)>,
    pub(crate) kind: Option<Kind>,
    /// How it stands in its bridge, where it is in one.
    pub(crate) port: Option<PortFlags>,
}

/// What is special in a kind of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With the mode, if it is one that is known.
    Macvtap(Option<DirectMode>),
    Macvlan(Option<DirectMode>),
    Bridge {
        filters_vlans: bool,
    },
    /// A tap, or a tun.
    Tun {
        is_tap: bool,
        many_queues: bool,
    },
    /// Of 802.1Q, with its number; of 802.1ad, or untold, without.
    Vlan(Option<u16>),
    Other(String),
}

/// Flags of a bridge port. `None`: not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PortFlags {
    pub(crate) isolated: Option<bool>,
    pub(crate) learning: Option<bool>,
    pub(crate) unicast_flood: Option<bool>,
}

impl Kind {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Macvtap(_) => "macvtap",
            Self::Macvlan(_) => "macvlan",
            Self::Bridge { .. } => "bridge",
            Self::Tun { .. } => "tun",
            Self::Vlan(_) => "vlan",
            Self::Other(kind) => kind,
        }
    }

    fn read(info: Attributes<'_>) -> io::Result<Option<Self>> {
        let Some(kind) = info.find(IFLA_INFO_KIND)? else {
            return Ok(None);
        };
        let data = info.nested(IFLA_INFO_DATA)?;
        let number = |kind| -> io::Result<Option<u32>> {
            let value = data.map(|data| data.find(kind)).transpose()?.flatten();
            value.map(|value| u32_at(value, 0)).transpose()
        };
        let byte = |kind| -> io::Result<Option<u8>> {
            let value = data.map(|data| data.find(kind)).transpose()?.flatten();
            Ok(value.and_then(|value| value.first().copied()))
        };
        let mode = || number(IFLA_MACVLAN_MODE).map(|mode| mode.and_then(mode_of));
        Ok(Some(match text(kind).as_str() {
            "macvtap" => Self::Macvtap(mode()?),
            "macvlan" => Self::Macvlan(mode()?),
            "bridge" => Self::Bridge {
                filters_vlans: byte(IFLA_BR_VLAN_FILTERING)? == Some(1),
            },
            "tun" => Self::Tun {
                is_tap: byte(IFLA_TUN_TYPE)? == Some(2),
                many_queues: byte(IFLA_TUN_MULTI_QUEUE)? == Some(1),
            },
            "vlan" => Self::Vlan(data.map(vlan::read).transpose()?.flatten()),
            other => Self::Other(other.to_owned()),
        }))
    }
}

impl Device {
    /// From the payload of an RTM_NEWLINK.
    fn read(payload: &[u8]) -> io::Result<Self> {
        let link = Link::read(payload)?;
        let flags = u32_at(payload, 8)?;
        let mut device = Self {
            index: link.index,
            name: link.name,
            alternative_names: Vec::new(),
            mac: MacAddress::ZERO,
            link_type: match payload.get(2..4).and_then(|kind| kind.try_into().ok()) {
                None => return Err(malformed()),
                Some(kind) => link_type(u16::from_ne_bytes(kind)),
            },
            state: link.state,
            promiscuous: flags & IFF_PROMISC != 0,
            all_multicast: flags & IFF_ALLMULTI != 0,
            lower: None,
            master: link.master,
            alias: None,
            parent: None,
            kind: None,
            port: None,
        };
        let (mut bus, mut parent, mut elsewhere) = (None, None, false);
        for attribute in Attributes::after(HEADER, payload)?.iter() {
            match attribute? {
                (IFLA_ADDRESS, value) => {
                    // Tunnels have shorter ones, InfiniBand longer ones.
                    if let Ok(bytes) = value.try_into() {
                        device.mac = MacAddress::new(bytes);
                    }
                }
                (IFLA_LINK, value) => device.lower = Some(u32_at(value, 0)?),
                (IFLA_LINK_NETNSID, _) => elsewhere = true,
                (IFLA_IFALIAS, value) => device.alias = Some(text(value)),
                (IFLA_PARENT_DEV_NAME, value) => parent = Some(text(value)),
                (IFLA_PARENT_DEV_BUS_NAME, value) => bus = Some(text(value)),
                (IFLA_PROP_LIST, value) => device.alternative_names = names(value)?,
                (IFLA_LINKINFO, value) => {
                    let info = Attributes::from(value);
                    device.kind = Kind::read(info)?;
                    let slave = info.find(IFLA_INFO_SLAVE_KIND)?.map(text);
                    if slave.as_deref() == Some("bridge")
                        && let Some(data) = info.nested(IFLA_INFO_SLAVE_DATA)?
                    {
                        device.port = Some(PortFlags::read(data)?);
                    }
                }
                _ => {}
            }
        }
        device.parent = bus.zip(parent);
        // Some devices name themselves there; others one in another namespace.
        let own = device.index;
        device.lower = device.lower.filter(|lower| !elsewhere && *lower != own);
        Ok(device)
    }
}

impl PortFlags {
    pub(super) const LEARNING: u16 = 8;
    pub(super) const UNICAST_FLOOD: u16 = 9;
    pub(super) const ISOLATED: u16 = 33;

    fn read(data: Attributes<'_>) -> io::Result<Self> {
        let flag = |kind| -> io::Result<Option<bool>> {
            let value = data.find(kind)?;
            Ok(value.and_then(|value| value.first().map(|flag| *flag != 0)))
        };
        Ok(Self {
            isolated: flag(Self::ISOLATED)?,
            learning: flag(Self::LEARNING)?,
            unicast_flood: flag(Self::UNICAST_FLOOD)?,
        })
    }
}

impl Connections {
    /// All network devices of this namespace.
    pub(crate) fn devices(&self) -> io::Result<Vec<Device>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let mut found = self.dump(&RouteNetlinkMessage::GetLink(message), |_, payload| {
            Device::read(payload).map(Some)
        })?;
        found.sort_by_key(|device| device.index);
        Ok(found)
    }

    /// A device, by index.
    pub(crate) fn device(&self, ifindex: u32) -> io::Result<Device> {
        let mut found = None;
        let mask = vec![LinkExtentMask::SkipStats];
        self.get(get_link(ifindex, mask), |_, payload| {
            found = Some(Device::read(payload)?);
            Ok(())
        })?;
        found.ok_or_else(malformed)
    }

    /// A device, by its name or an alternative one; `None`: there is none.
    pub(crate) fn device_named(&self, name: &str) -> io::Result<Option<Device>> {
        let attribute = match name.len() {
            _ if name.contains('\0') => return Ok(None),
            0 => return Ok(None),
            length if length < IFNAMSIZ => IFLA_IFNAME,
            length if length < ALTIFNAMSIZ => IFLA_ALT_IFNAME,
            _ => return Ok(None),
        };
        let mut request = to_link(0);
        request
            .value(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
            .text(attribute, name);
        let mut found = None;
        let asked = self.exchange(raw(RTM_GETLINK, 0, &request), |_, payload| {
            found = Some(Device::read(payload)?);
            Ok(())
        });
        match asked {
            Err(error) if crate::errno(&error) == Some(ENODEV) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// What went through a device.
    pub(crate) fn counters(&self, ifindex: u32) -> io::Result<Counters> {
        let mut found = None;
        self.get(get_link(ifindex, Vec::new()), |_, payload| {
            let statistics = Attributes::after(HEADER, payload)?.find(IFLA_STATS64)?;
            found = statistics.map(read_counters).transpose()?;
            Ok(())
        })?;
        found.ok_or_else(malformed)
    }

    /// Switches a device on or off.
    pub(crate) fn set_up(&self, ifindex: u32, up: bool) -> io::Result<()> {
        self.set_flags(ifindex, if up { IFF_UP } else { 0 }, IFF_UP)
    }

    /// Lets a device take in everything, or every multicast.
    pub(crate) fn set_open(
        &self,
        ifindex: u32,
        promiscuous: bool,
        all_multicast: bool,
    ) -> io::Result<()> {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let flags = flag(promiscuous, IFF_PROMISC) | flag(all_multicast, IFF_ALLMULTI);
        self.set_flags(ifindex, flags, IFF_PROMISC | IFF_ALLMULTI)
    }

    fn set_flags(&self, ifindex: u32, flags: u32, which: u32) -> io::Result<()> {
        let request = link_message(0, ifindex, flags, which);
        self.exchange(raw(RTM_SETLINK, 0, &request), ignore)
    }

    /// Bytes.
    pub(crate) fn set_mtu(&self, ifindex: u32, mtu: u32) -> io::Result<()> {
        self.set(ifindex, |link| link.value(IFLA_MTU, mtu.to_ne_bytes()))
    }

    /// Puts a device into a bridge, or (0) out of it.
    pub(crate) fn set_master(&self, ifindex: u32, master: u32) -> io::Result<()> {
        self.set(ifindex, |link| {
            link.value(IFLA_MASTER, master.to_ne_bytes())
        })
    }

    pub(crate) fn set_alias(&self, ifindex: u32, alias: &str) -> io::Result<()> {
        self.set(ifindex, |link| link.value(IFLA_IFALIAS, alias))
    }

    fn set(
        &self,
        ifindex: u32,
        write: impl FnOnce(&mut AttributeWriter) -> &mut AttributeWriter,
    ) -> io::Result<()> {
        let mut request = to_link(ifindex);
        write(&mut request);
        self.exchange(raw(RTM_SETLINK, 0, &request), ignore)
    }

    /// Makes a macvtap or macvlan, without its tag.
    pub(crate) fn make_macvlan(&self, spec: &MacvlanSpec) -> io::Result<()> {
        let kind = if spec.tap { "macvtap" } else { "macvlan" };
        let mut request = to_link(0);
        request
            .text(IFLA_IFNAME, spec.name.as_str())
            .value(IFLA_LINK, spec.lower.to_ne_bytes())
            .value(IFLA_ADDRESS, spec.mac.bytes());
        if let Some(mtu) = spec.mtu {
            request.value(IFLA_MTU, mtu.to_ne_bytes());
        }
        request.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, kind)
                .nest(IFLA_INFO_DATA, |data| {
                    data.value(IFLA_MACVLAN_MODE, mode_number(spec.mode).to_ne_bytes());
                });
        });
        self.exchange(
            raw(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &request),
            ignore,
        )
    }

    /// Changes the mode of a macvtap.
    pub(crate) fn set_macvlan_mode(&self, ifindex: u32, mode: DirectMode) -> io::Result<()> {
        let mut request = to_link(ifindex);
        request.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "macvtap")
                .nest(IFLA_INFO_DATA, |data| {
                    data.value(IFLA_MACVLAN_MODE, mode_number(mode).to_ne_bytes());
                });
        });
        // Of the two messages that set something, only this one looks at what is particular to a kind.
        self.exchange(raw(RTM_NEWLINK, 0, &request), ignore)
    }

    /// Removes a device; gone already is fine.
    pub(crate) fn delete(&self, ifindex: u32) -> io::Result<()> {
        match self.exchange(raw(RTM_DELLINK, 0, &to_link(ifindex)), ignore) {
            Err(error) if crate::errno(&error) == Some(ENODEV) => Ok(()),
            deleted => deleted,
        }
    }
}

fn link_type(number: u16) -> LinkType {
    match number {
        ARPHRD_ETHER => LinkType::Ethernet,
        ARPHRD_LOOPBACK => LinkType::Loopback,
        _ => LinkType::Other,
    }
}

/// A message about a link, by index.
pub(super) fn to_link(ifindex: u32) -> AttributeWriter {
    link_message(0, ifindex, 0, 0)
}

/// `struct ifinfomsg`.
pub(super) fn link_message(family: u8, ifindex: u32, flags: u32, which: u32) -> AttributeWriter {
    let mut header = vec![family, 0, 0, 0];
    for number in [ifindex, flags, which] {
        header.extend(number.to_ne_bytes());
    }
    AttributeWriter::after(header)
}

pub(super) fn raw(kind: u16, flags: u16, message: &AttributeWriter) -> Raw<'_> {
    Raw {
        kind,
        flags,
        payload: message.bytes(),
    }
}

pub(super) fn ignore(_: u16, _: &[u8]) -> io::Result<()> {
    Ok(())
}

fn mode_number(mode: DirectMode) -> u32 {
    match mode {
        DirectMode::Private => 1,
        DirectMode::Vepa => 2,
        DirectMode::Bridge => 4,
        DirectMode::Passthrough => 8,
    }
}

fn mode_of(number: u32) -> Option<DirectMode> {
    let all = [
        DirectMode::Private,
        DirectMode::Vepa,
        DirectMode::Bridge,
        DirectMode::Passthrough,
    ];
    all.into_iter().find(|mode| mode_number(*mode) == number)
}

fn names(list: &[u8]) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for attribute in Attributes::from(list).iter() {
        if let (IFLA_ALT_IFNAME, name) = attribute?
            && names.len() < MOST_NAMES
            && name.len() <= ALTIFNAMSIZ
        {
            names.push(text(name));
        }
    }
    Ok(names)
}

/// `struct rtnl_link_stats64`.
fn read_counters(statistics: &[u8]) -> io::Result<Counters> {
    let number = |place: usize| u64_at(statistics, place * 8);
    Ok(Counters {
        rx_packets: number(0)?,
        tx_packets: number(1)?,
        rx_bytes: number(2)?,
        tx_bytes: number(3)?,
        rx_errors: Some(number(4)?),
        tx_errors: Some(number(5)?),
        rx_dropped: number(6)?,
        tx_dropped: number(7)?,
        rx_multicast: Some(number(8)?),
        rx_broadcast: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn macvtap() -> AttributeWriter {
        let mut message = link_message(0, 9, IFF_UP | IFF_ALLMULTI, 0);
        message
            .text(IFLA_IFNAME, "macvtap0")
            .value(IFLA_ADDRESS, [0x52, 0x54, 0, 0, 0, 1])
            .value(IFLA_MTU, 1500_u32.to_ne_bytes())
            .value(IFLA_LINK, 3_u32.to_ne_bytes())
            .value(IFLA_IFALIAS, "virtnic:x")
            .nest(IFLA_PROP_LIST, |list| {
                list.text(IFLA_ALT_IFNAME, "a-rather-long-name");
            })
            .nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "macvtap")
                    .nest(IFLA_INFO_DATA, |data| {
                        data.value(IFLA_MACVLAN_MODE, 2_u32.to_ne_bytes());
                    })
                    .text(IFLA_INFO_SLAVE_KIND, "bridge")
                    .nest(IFLA_INFO_SLAVE_DATA, |port| {
                        port.value(PortFlags::ISOLATED, [1])
                            .value(PortFlags::LEARNING, [0]);
                    });
            });
        message
    }

    #[test]
    fn a_device_is_read_with_all_that_matters() {
        let device = Device::read(macvtap().bytes()).unwrap();
        assert_eq!((device.index, device.name.as_str()), (9, "macvtap0"));
        assert_eq!(device.alternative_names, ["a-rather-long-name"]);
        assert_eq!(device.mac.to_string(), "52:54:00:00:00:01");
        assert_eq!(device.alias.as_deref(), Some("virtnic:x"));
        assert_eq!(device.kind, Some(Kind::Macvtap(Some(DirectMode::Vepa))));
        assert!(device.all_multicast && !device.promiscuous && device.state.up);
        assert_eq!(device.lower, Some(3));
        let flags = PortFlags {
            isolated: Some(true),
            learning: Some(false),
            unicast_flood: None,
        };
        assert_eq!(device.port, Some(flags));
    }

    #[test]
    fn what_is_below_in_another_namespace_is_not_below() {
        let mut message = macvtap();
        message.value(IFLA_LINK_NETNSID, 1_u32.to_ne_bytes());
        assert_eq!(Device::read(message.bytes()).unwrap().lower, None);
    }

    #[test]
    fn a_long_address_is_no_mac() {
        let mut message = link_message(0, 2, 0, 0);
        message.value(IFLA_ADDRESS, [1; 20]);
        let device = Device::read(message.bytes()).unwrap();
        assert_eq!(device.mac, MacAddress::ZERO);
    }

    #[test]
    fn a_cut_off_device_is_an_error_or_a_part_and_never_a_panic() {
        let message = macvtap();
        let whole = Device::read(message.bytes()).unwrap();
        for length in 0..message.bytes().len() {
            let cut = Device::read(&message.bytes()[..length]);
            assert_ne!(cut.ok().as_ref(), Some(&whole), "{length}");
        }
    }

    #[test]
    fn endless_names_are_not_kept() {
        let mut list = AttributeWriter::default();
        for _ in 0..1000 {
            list.text(IFLA_ALT_IFNAME, "x");
        }
        assert_eq!(names(list.bytes()).unwrap().len(), MOST_NAMES);
    }
}
