//! Port profiles as netlink carries them, to the kernel and to lldpad alike.
//!
//! Numbers and structures are those of the kernel's `linux/if_link.h`.

use std::io;

use conf::{MacAddress, Uuid};

use super::attributes::{AttributeWriter, Attributes, malformed, u32_at};
use super::connection::Raw;
use super::link::HEADER;
use crate::PortAction;

pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;

const IFLA_IFNAME: u16 = 3;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_PORTS: u16 = 24;
const IFLA_PORT_SELF: u16 = 25;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_VF: u32 = 1;

const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;

const IFLA_VF_PORT: u16 = 1;
const PORT_VF: u16 = 1;
const PORT_PROFILE: u16 = 2;
const PORT_VSI_TYPE: u16 = 3;
const PORT_INSTANCE_UUID: u16 = 4;
const PORT_HOST_UUID: u16 = 5;
const PORT_REQUEST: u16 = 6;
const PORT_RESPONSE: u16 = 7;

const PREASSOCIATE: u8 = 0;
const PREASSOCIATE_RR: u8 = 1;
const ASSOCIATE: u8 = 2;
const DISASSOCIATE: u8 = 3;

/// `PORT_SELF_VF`: no VF's port, but the device's own.
const SELF: u32 = u32::MAX;

/// Whom a message about a port goes to, and which port it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Port {
    /// A VSI instance, which lldpad speaks for.
    Vsi {
        /// The device that the switch is behind.
        link: String,
        /// Its VLAN; 0: none.
        vlan: u16,
        manager_id: u8,
        type_id: u32,
        type_id_version: u8,
        instance: Uuid,
    },
    /// A port of a card, whose driver speaks for it.
    Card {
        /// `None`: its own.
        vf: Option<u16>,
        profile: String,
        guest: Uuid,
        host: Uuid,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    Done,
    InProgress,
    /// The code, in words where it has any.
    Refused(&'static str, u16),
    /// Nothing is told of that port.
    Absent,
}

impl Port {
    /// The request, as the payload of an RTM_SETLINK.
    pub(crate) fn request(&self, ifindex: u32, action: PortAction, mac: MacAddress) -> Vec<u8> {
        let mut message = link_message(ifindex);
        match self {
            Self::Vsi { link, vlan, .. } => {
                message.text(IFLA_IFNAME, link);
                message.nest(IFLA_VFINFO_LIST, |list| {
                    list.nest(IFLA_VF_INFO, |info| {
                        info.value(IFLA_VF_MAC, vf_mac(SELF, mac));
                        let vlan = [SELF, u32::from(*vlan), 0].map(u32::to_ne_bytes);
                        info.value(IFLA_VF_VLAN, vlan.concat());
                    });
                });
            }
            Self::Card { vf, .. } if action != PortAction::Disassociate => {
                let number = vf.map_or(SELF, u32::from);
                message.nest(IFLA_VFINFO_LIST, |list| {
                    list.nest(IFLA_VF_INFO, |info| {
                        info.value(IFLA_VF_MAC, vf_mac(number, mac));
                    });
                });
            }
            Self::Card { .. } => {}
        }
        self.write_port(&mut message, action);
        message.bytes().to_vec()
    }

    /// The same without the MAC: newer kernels refuse one for a card's own port (EINVAL), as
    /// they take its number for a VF's.
    pub(crate) fn request_without_mac(&self, ifindex: u32, action: PortAction) -> Vec<u8> {
        let mut message = link_message(ifindex);
        self.write_port(&mut message, action);
        message.bytes().to_vec()
    }

    fn write_port(&self, message: &mut AttributeWriter, action: PortAction) {
        let of_vf = !matches!(self, Self::Card { vf: None, .. });
        if of_vf {
            message.nest(IFLA_VF_PORTS, |ports| {
                ports.nest(IFLA_VF_PORT, |port| self.write_parameters(port, action));
            });
        } else {
            message.nest(IFLA_PORT_SELF, |port| self.write_parameters(port, action));
        }
    }

    fn write_parameters(&self, port: &mut AttributeWriter, action: PortAction) {
        match self {
            Self::Vsi {
                manager_id,
                type_id,
                type_id_version,
                instance,
                ..
            } => {
                let [a, b, c, _] = type_id.to_le_bytes();
                let vsi = [*manager_id, a, b, c, *type_id_version, 0, 0, 0];
                port.value(PORT_VSI_TYPE, vsi)
                    .value(PORT_INSTANCE_UUID, instance.as_bytes());
            }
            Self::Card {
                vf,
                profile,
                guest,
                host,
            } => {
                if let Some(vf) = vf {
                    port.value(PORT_VF, u32::from(*vf).to_ne_bytes());
                }
                if action != PortAction::Disassociate {
                    port.text(PORT_PROFILE, profile)
                        .value(PORT_INSTANCE_UUID, guest.as_bytes())
                        .value(PORT_HOST_UUID, host.as_bytes());
                }
            }
        }
        port.value(PORT_REQUEST, [self.code(action)]);
    }

    fn code(&self, action: PortAction) -> u8 {
        match (action, self) {
            (PortAction::PreAssociate, Self::Vsi { .. }) => PREASSOCIATE,
            (PortAction::PreAssociate, Self::Card { .. }) => PREASSOCIATE_RR,
            (PortAction::Associate | PortAction::AssociateAgain, _) => ASSOCIATE,
            (PortAction::Disassociate, _) => DISASSOCIATE,
        }
    }

    /// The question what became of it, as the payload of an RTM_GETLINK.
    pub(crate) fn question(&self, ifindex: u32) -> Vec<u8> {
        let mut message = link_message(ifindex);
        if let Self::Vsi { link, .. } = self {
            message.text(IFLA_IFNAME, link);
        }
        message.value(IFLA_EXT_MASK, RTEXT_FILTER_VF.to_ne_bytes());
        message.bytes().to_vec()
    }

    /// What the payload of an RTM_NEWLINK answers.
    pub(crate) fn response(&self, payload: &[u8]) -> io::Result<Response> {
        let attributes = Attributes::after(HEADER, payload)?;
        if let Self::Card { vf: None, .. } = self {
            let own = attributes.nested(IFLA_PORT_SELF)?;
            return own.map_or(Ok(Response::Absent), read_response);
        }
        let Some(ports) = attributes.nested(IFLA_VF_PORTS)? else {
            return Ok(Response::Absent);
        };
        for port in ports.iter() {
            let port = Attributes::from(port?.1);
            let meant = match self {
                Self::Vsi { instance, .. } => {
                    port.find(PORT_INSTANCE_UUID)? == Some(instance.as_bytes())
                }
                Self::Card { vf, .. } => {
                    let number = port.find(PORT_VF)?.map(|number| u32_at(number, 0));
                    number.transpose()? == vf.map(u32::from)
                }
            };
            if meant {
                return read_response(port);
            }
        }
        Ok(Response::Absent)
    }
}

/// The port whose end an RTM_SETLINK of the agent tells: the guest's MAC, and the VSI instance.
pub(crate) fn disassociated(payload: &[u8]) -> io::Result<Option<(MacAddress, Option<Uuid>)>> {
    let attributes = Attributes::after(HEADER, payload)?;
    let first = |list, entry| -> io::Result<Option<Attributes<'_>>> {
        match attributes.nested(list)? {
            Some(list) => list.nested(entry),
            None => Ok(None),
        }
    };
    let info = first(IFLA_VFINFO_LIST, IFLA_VF_INFO)?;
    let port = first(IFLA_VF_PORTS, IFLA_VF_PORT)?;
    let (Some(info), Some(port)) = (info, port) else {
        return Ok(None);
    };
    if port.find(PORT_REQUEST)?.and_then(<[u8]>::first) != Some(&DISASSOCIATE) {
        return Ok(None);
    }
    let mac = info.find(IFLA_VF_MAC)?.and_then(|mac| mac.get(4..10));
    let mac: [u8; 6] = (mac.and_then(|mac| mac.try_into().ok())).ok_or_else(malformed)?;
    let instance = port.find(PORT_INSTANCE_UUID)?;
    let instance = instance.map(Uuid::from_slice).transpose();
    let instance = instance.map_err(|_| malformed())?;
    Ok(Some((MacAddress::new(mac), instance)))
}

/// A message of that type about a port.
pub(crate) fn about_port(kind: u16, payload: &[u8]) -> Raw<'_> {
    Raw {
        kind,
        flags: 0,
        payload,
    }
}

fn link_message(ifindex: u32) -> AttributeWriter {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    AttributeWriter::after(header)
}

/// `struct ifla_vf_mac`.
fn vf_mac(vf: u32, mac: MacAddress) -> Vec<u8> {
    let mut bytes = vf.to_ne_bytes().to_vec();
    bytes.extend(mac.bytes());
    bytes.resize(4 + 32, 0);
    bytes
}

/// VDP's codes are below 0x100, those of port profiles from there on.
fn read_response(port: Attributes<'_>) -> io::Result<Response> {
    let Some(code) = port.find(PORT_RESPONSE)? else {
        return Ok(Response::InProgress);
    };
    let code = u16::from_ne_bytes(*code.first_chunk().ok_or_else(malformed)?);
    Ok(match code {
        0 | 0x100 => Response::Done,
        0x101 => Response::InProgress,
        1 => Response::Refused("the request had an invalid format", code),
        2 | 0x104 => Response::Refused("the switch has too few resources", code),
        3 => Response::Refused("the switch does not know that VSI type", code),
        4 => Response::Refused("that VSI type is not allowed there", code),
        5 => Response::Refused("that version of the VSI type is not allowed there", code),
        6 => Response::Refused("the switch is out of step", code),
        0x102 => Response::Refused("the switch does not know that port profile", code),
        0x103 => Response::Refused("the port is in a wrong state", code),
        _ => Response::Refused("it failed", code),
    })
}

/// What a kernel answers to [`Port::question`]; `None`: nothing of that port.
#[cfg(test)]
pub(crate) fn port_answer(vf: Option<u16>, code: Option<u16>) -> Vec<u8> {
    let mut message = link_message(7);
    let write = |port: &mut AttributeWriter, code: u16| {
        if let Some(vf) = vf {
            port.value(PORT_VF, u32::from(vf).to_ne_bytes());
        }
        port.value(PORT_RESPONSE, code.to_ne_bytes());
    };
    match (vf, code) {
        (_, None) => {}
        (None, Some(code)) => {
            message.nest(IFLA_PORT_SELF, |port| write(port, code));
        }
        (Some(_), Some(code)) => {
            message.nest(IFLA_VF_PORTS, |ports| {
                ports.nest(IFLA_VF_PORT, |port| write(port, code));
            });
        }
    }
    message.bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: Uuid = Uuid::from_u128(0x09b11c53_8b5c_4eeb_8f00_d84eaa0aaa4f);
    const GUEST: Uuid = Uuid::from_u128(1);

    fn vsi() -> Port {
        Port::Vsi {
            link: String::from("eth0"),
            vlan: 42,
            manager_id: 11,
            type_id: 0x0a0b0c,
            type_id_version: 2,
            instance: INSTANCE,
        }
    }

    fn card(vf: Option<u16>) -> Port {
        Port::Card {
            vf,
            profile: String::from("finance"),
            guest: GUEST,
            host: Uuid::from_u128(2),
        }
    }

    fn mac() -> MacAddress {
        MacAddress::new([0x52, 0x54, 0, 1, 2, 3])
    }

    /// The parameters of the one port in a message.
    fn port(message: &[u8]) -> Attributes<'_> {
        let attributes = Attributes::after(HEADER, message).unwrap();
        let ports = attributes.nested(IFLA_VF_PORTS).unwrap().unwrap();
        ports.nested(IFLA_VF_PORT).unwrap().unwrap()
    }

    #[test]
    fn a_vsi_is_told_with_device_mac_vlan_and_type() {
        let message = vsi().request(7, PortAction::Associate, mac());
        let attributes = Attributes::after(HEADER, &message).unwrap();
        assert_eq!(u32_at(&message, 4).unwrap(), 7);
        assert_eq!(attributes.find(IFLA_IFNAME).unwrap().unwrap(), b"eth0\0");
        let list = attributes.nested(IFLA_VFINFO_LIST).unwrap().unwrap();
        let info = list.nested(IFLA_VF_INFO).unwrap().unwrap();
        let told = info.find(IFLA_VF_MAC).unwrap().unwrap();
        assert_eq!(told[..10], [255, 255, 255, 255, 0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(told.len(), 36);
        let vlan = info.find(IFLA_VF_VLAN).unwrap().unwrap();
        assert_eq!(u32_at(vlan, 4).unwrap(), 42);
        let port = port(&message);
        let kind = port.find(PORT_VSI_TYPE).unwrap().unwrap();
        assert_eq!(kind, [11, 0x0c, 0x0b, 0x0a, 2, 0, 0, 0]);
        let instance = port.find(PORT_INSTANCE_UUID).unwrap().unwrap();
        assert_eq!(instance, INSTANCE.as_bytes());
        assert_eq!(port.find(PORT_REQUEST).unwrap().unwrap(), [ASSOCIATE]);
        assert_eq!(port.find(PORT_VF).unwrap(), None);
    }

    #[test]
    fn a_cards_port_is_told_by_vf_and_profile_and_its_end_by_vf_alone() {
        let message = card(Some(3)).request(7, PortAction::PreAssociate, mac());
        let attributes = Attributes::after(HEADER, &message).unwrap();
        assert_eq!(attributes.find(IFLA_IFNAME).unwrap(), None);
        let told = port(&message);
        assert_eq!(told.find(PORT_VF).unwrap().unwrap(), 3_u32.to_ne_bytes());
        assert_eq!(told.find(PORT_PROFILE).unwrap().unwrap(), b"finance\0");
        let request = told.find(PORT_REQUEST).unwrap().unwrap();
        assert_eq!(request, [PREASSOCIATE_RR]);
        let message = card(Some(3)).request(7, PortAction::Disassociate, mac());
        let attributes = Attributes::after(HEADER, &message).unwrap();
        assert_eq!(attributes.find(IFLA_VFINFO_LIST).unwrap(), None);
        let kinds: Vec<u16> = port(&message).iter().map(|a| a.unwrap().0).collect();
        assert_eq!(kinds, [PORT_VF, PORT_REQUEST]);
        let message = card(None).request(7, PortAction::Associate, mac());
        let attributes = Attributes::after(HEADER, &message).unwrap();
        assert!(attributes.nested(IFLA_PORT_SELF).unwrap().is_some());
        assert!(attributes.find(IFLA_VF_PORTS).unwrap().is_none());
    }

    /// An answer that tells of two ports: another one, which failed, and this one.
    fn answer(code: u16) -> Vec<u8> {
        let mut message = link_message(7);
        message.nest(IFLA_VF_PORTS, |ports| {
            for (vf, instance, code) in [(1_u32, GUEST, 0x105), (3, INSTANCE, code)] {
                ports.nest(IFLA_VF_PORT, |port| {
                    port.value(PORT_VF, vf.to_ne_bytes())
                        .value(PORT_INSTANCE_UUID, instance.as_bytes())
                        .value(PORT_RESPONSE, code.to_ne_bytes());
                });
            }
        });
        message.bytes().to_vec()
    }

    #[test]
    fn only_the_answer_for_that_port_counts() {
        for port in [vsi(), card(Some(3))] {
            let response = |code| port.response(&answer(code)).unwrap();
            assert_eq!(response(0), Response::Done);
            assert_eq!(response(0x100), Response::Done);
            assert_eq!(response(0x101), Response::InProgress);
            assert!(matches!(response(3), Response::Refused(_, 3)));
            assert!(matches!(
                response(0x77),
                Response::Refused("it failed", 0x77)
            ));
        }
        let absent = card(Some(2)).response(&answer(0)).unwrap();
        assert_eq!(absent, Response::Absent);
        let absent = card(None).response(&answer(0)).unwrap();
        assert_eq!(absent, Response::Absent);
    }

    /// lldpad lists what the switch has not answered yet, without a response.
    #[test]
    fn a_port_without_a_word_is_in_progress() {
        let mut message = link_message(7);
        message.nest(IFLA_VF_PORTS, |ports| {
            ports.nest(IFLA_VF_PORT, |port| {
                port.value(PORT_VF, SELF.to_ne_bytes())
                    .value(PORT_INSTANCE_UUID, INSTANCE.as_bytes());
            });
        });
        let response = vsi().response(message.bytes()).unwrap();
        assert_eq!(response, Response::InProgress);
    }

    #[test]
    fn the_end_of_a_port_is_told_by_mac_and_instance() {
        let message = vsi().request(7, PortAction::Disassociate, mac());
        let told = disassociated(&message).unwrap();
        assert_eq!(told, Some((mac(), Some(INSTANCE))));
        let message = vsi().request(7, PortAction::Associate, mac());
        assert_eq!(disassociated(&message).unwrap(), None);
    }

    #[test]
    fn cut_off_messages_are_errors_or_nothing() {
        let whole = answer(0);
        for length in 0..whole.len() {
            let cut = vsi().response(&whole[..length]);
            assert!(!matches!(cut, Ok(Response::Done)), "{length}");
        }
        let whole = vsi().request(7, PortAction::Disassociate, mac());
        for length in 0..whole.len() {
            assert!(
                !matches!(disassociated(&whole[..length]), Ok(Some(_))),
                "{length}"
            );
        }
    }
}
