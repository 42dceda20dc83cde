//! `<interface>` of the host: what `virsh iface-dumpxml` shows. Only written, never read: the host's
//! interfaces are not virtnic's to define.

use crate::xml::{ToXml, Writer, keywords};
use crate::{MacAddress, NetLink};

/// A network interface of the host.
///
/// <https://libvirt.org/format.html>, and `interface.rng` among libvirt's schemas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// The netdev, as the kernel names it.
    pub name: String,
    /// Its MAC; written for [`HostInterfaceKind::Ethernet`] only, as the schema has it.
    pub mac: Option<MacAddress>,
    /// Bytes; written for the outermost interface only.
    pub mtu: Option<u32>,
    /// Its link; not written for a bridge, which has none of its own.
    pub link: NetLink,
    /// What it is, and what it is made of.
    pub kind: HostInterfaceKind,
}

/// `interface/@type`. Whatever is not one of the others, a tap or a macvlan too, is `ethernet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostInterfaceKind {
    /// A NIC, or anything that looks like one.
    Ethernet,
    /// A Linux bridge.
    Bridge {
        /// Whether the spanning tree protocol runs; none: not told.
        stp: Option<bool>,
        /// Forward delay in hundredths of a second, as the kernel counts it; written in seconds.
        forward_delay: Option<u32>,
        /// The interfaces that are plugged into it.
        ports: Vec<HostInterface>,
    },
    /// Several interfaces that act as one.
    Bond {
        /// How it shares the load.
        mode: Option<BondMode>,
        /// How it notices that a link is gone.
        mii: Option<MiiMonitor>,
        /// The interfaces that it is made of.
        members: Vec<HostInterface>,
    },
    /// A VLAN over another interface.
    Vlan {
        /// The VLAN's identifier, 0–4095.
        tag: u16,
        /// The name of the interface below.
        below: String,
    },
}

/// `bond/@mode`, in the kernel's order (`IFLA_BOND_MODE`, from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the kernel's")]
pub enum BondMode {
    BalanceRr,
    ActiveBackup,
    BalanceXor,
    Broadcast,
    Lacp,
    BalanceTlb,
    BalanceAlb,
}

keywords!(BondMode {
    BalanceRr = "balance-rr",
    ActiveBackup = "active-backup",
    BalanceXor = "balance-xor",
    Broadcast = "broadcast",
    Lacp = "802.3ad",
    BalanceTlb = "balance-tlb",
    BalanceAlb = "balance-alb",
});

/// `<miimon>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MiiMonitor {
    /// How often the links are looked at, milliseconds; at least 1.
    pub frequency: u32,
    /// How long a link must be up to count, milliseconds.
    pub up_delay: Option<u32>,
    /// How long a link must be down to count, milliseconds.
    pub down_delay: Option<u32>,
}

impl HostInterface {
    /// libvirt's document for it.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut writer = Writer::new();
        self.write_xml(&mut writer);
        writer.finish()
    }

    fn write(&self, w: &mut Writer, outermost: bool) {
        w.element_with_end("interface", |w| {
            w.attribute("type", self.kind.word());
            w.attribute("name", &self.name);
            if let Some(mtu) = self.mtu.filter(|_| outermost) {
                w.element("mtu", |w| w.attribute("size", mtu));
            }
            if !matches!(self.kind, HostInterfaceKind::Bridge { .. }) {
                w.element_unless_empty("link", |w| {
                    // A link that is down has no speed.
                    w.optional_attribute("speed", self.link.speed.filter(|&speed| speed > 0));
                    w.optional_keyword("state", self.link.state);
                });
            }
            self.write_kind(w);
        });
    }

    fn write_kind(&self, w: &mut Writer) {
        match &self.kind {
            HostInterfaceKind::Ethernet => {
                if let Some(mac) = self.mac {
                    w.element("mac", |w| w.attribute("address", mac));
                }
            }
            HostInterfaceKind::Bridge {
                stp,
                forward_delay,
                ports,
            } => w.element_with_end("bridge", |w| {
                w.optional_on_off("stp", *stp);
                w.optional_attribute("delay", forward_delay.map(seconds));
                write_all(ports, w);
            }),
            HostInterfaceKind::Bond { mode, mii, members } => w.element_with_end("bond", |w| {
                w.optional_keyword("mode", *mode);
                if let Some(mii) = mii {
                    w.element("miimon", |w| {
                        w.attribute("freq", mii.frequency);
                        w.optional_attribute("downdelay", mii.down_delay);
                        w.optional_attribute("updelay", mii.up_delay);
                    });
                }
                write_all(members, w);
            }),
            HostInterfaceKind::Vlan { tag, below } => w.element("vlan", |w| {
                w.attribute("tag", tag);
                w.element("interface", |w| w.attribute("name", below));
            }),
        }
    }
}

impl ToXml for HostInterface {
    fn write_xml(&self, writer: &mut Writer) {
        self.write(writer, true);
    }
}

impl HostInterfaceKind {
    fn word(&self) -> &'static str {
        match self {
            Self::Ethernet => "ethernet",
            Self::Bridge { .. } => "bridge",
            Self::Bond { .. } => "bond",
            Self::Vlan { .. } => "vlan",
        }
    }
}

fn write_all(interfaces: &[HostInterface], w: &mut Writer) {
    for interface in interfaces {
        interface.write(w, false);
    }
}

/// Hundredths of a second in seconds: `2`, `0.01`.
fn seconds(hundredths: u32) -> String {
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => whole.to_string(),
        (whole, rest) => format!("{whole}.{rest:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InterfaceState;

    fn ethernet(name: &str) -> HostInterface {
        HostInterface {
            name: name.to_owned(),
            mac: "52:54:00:aa:bb:cc".parse().ok(),
            mtu: Some(1500),
            link: NetLink {
                speed: Some(1000),
                state: Some(InterfaceState::Up),
            },
            kind: HostInterfaceKind::Ethernet,
        }
    }

    #[test]
    fn a_nic_shows_mtu_link_and_mac() {
        assert_eq!(
            ethernet("eth0").to_xml(),
            "<interface type='ethernet' name='eth0'>\n  <mtu size='1500'/>\n  \
             <link speed='1000' state='up'/>\n  <mac address='52:54:00:aa:bb:cc'/>\n</interface>\n"
        );
    }

    #[test]
    fn a_bridge_shows_its_ports_without_what_is_the_bridges_own() {
        let bridge = HostInterface {
            kind: HostInterfaceKind::Bridge {
                stp: Some(true),
                forward_delay: Some(200),
                ports: vec![ethernet("eth0")],
            },
            ..ethernet("br0")
        };
        assert_eq!(
            bridge.to_xml(),
            "<interface type='bridge' name='br0'>\n  <mtu size='1500'/>\n  \
             <bridge stp='on' delay='2'>\n    <interface type='ethernet' name='eth0'>\n      \
             <link speed='1000' state='up'/>\n      <mac address='52:54:00:aa:bb:cc'/>\n    \
             </interface>\n  </bridge>\n</interface>\n"
        );
    }

    #[test]
    fn bonds_and_vlans_nest() {
        let down = NetLink {
            speed: Some(0),
            state: Some(InterfaceState::Down),
        };
        let vlan = HostInterface {
            kind: HostInterfaceKind::Vlan {
                tag: 42,
                below: "eth<0>".to_owned(),
            },
            link: down,
            ..ethernet("v")
        };
        let bond = HostInterface {
            kind: HostInterfaceKind::Bond {
                mode: Some(BondMode::Lacp),
                mii: Some(MiiMonitor {
                    frequency: 100,
                    up_delay: Some(20),
                    down_delay: Some(10),
                }),
                members: vec![vlan],
            },
            mtu: None,
            ..ethernet("bond0")
        };
        assert_eq!(
            bond.to_xml(),
            "<interface type='bond' name='bond0'>\n  <link speed='1000' state='up'/>\n  \
             <bond mode='802.3ad'>\n    <miimon freq='100' downdelay='10' updelay='20'/>\n    \
             <interface type='vlan' name='v'>\n      <link state='down'/>\n      \
             <vlan tag='42'>\n        <interface name='eth&lt;0&gt;'/>\n      </vlan>\n    \
             </interface>\n  </bond>\n</interface>\n"
        );
    }

    #[test]
    fn a_delay_is_told_in_seconds() {
        assert_eq!([0, 1, 200, 1550].map(seconds), ["0", "0.01", "2", "15.50"]);
    }
}
