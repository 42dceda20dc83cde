//! A guest's device, known by one identity all the way: from the document through the claim, the
//! journal and the port to QEMU's device, and back.

use assign::Generation;
use conf::{DeviceId, MacAddress, Uuid};
use serde::{Deserialize, Serialize};

/// What a guest has of the host, or is owed. The id is the only way to find one; MAC, alias and
/// guest address are how users name it, and two attachments may have them in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its identity, made with the plan of a start.
    pub id: Uuid,
    /// The name of the device in the running guest, for clients and QEMU alike.
    pub alias: String,
    /// What it is in the document.
    pub subject: Subject,
    /// An interface's MAC.
    pub mac: Option<MacAddress>,
    /// Its part in a pair.
    pub role: Role,
    /// What the two of a pair have in common.
    pub pair: Option<Uuid>,
    /// Its place in a network.
    pub port: Option<PortId>,
    /// The claim on what it has.
    pub claim: Option<Generation>,
    /// What is only reserved for it: the claim alone would not outlive the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<DeviceId>,
    /// Since when it waits for a VF, in microseconds since 1970: who waits longest is served first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed_since: Option<u64>,
    /// How far it is.
    pub state: AttachmentState,
}

/// What a device is in the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// An interface, whatever it was resolved to.
    Interface,
    /// A plain host device.
    HostDevice,
}

/// A device's part in a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// In no pair.
    Sole,
    /// The one that stays when the guest moves.
    Standby,
    /// The one that is unplugged for that.
    Primary,
}

/// A port of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortId {
    /// The network's uuid.
    pub network: Uuid,
    /// The port's own.
    pub port: Uuid,
}

/// How far a device is on its way to the guest, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// Chosen and claimed, or refused; not touched.
    Planned,
    /// Prepared for the guest.
    Lent,
    /// QEMU has it.
    Plugged,
    /// QEMU was asked to let it go.
    Unplugging,
    /// The same for the VF of a pair, which stays in the guest's document.
    Demoting,
    /// The same, and the guest is owed another: its PF is drained.
    Recalled,
    /// The VF of a pair that was taken from the guest by hand: it has none until it is asked for.
    Demoted,
    /// Somebody waits for it.
    Owed(Creditor),
}

impl AttachmentState {
    /// Whether QEMU was asked to let it go, for whatever reason, and has not yet.
    #[must_use]
    pub fn is_leaving(self) -> bool {
        matches!(self, Self::Unplugging | Self::Demoting | Self::Recalled)
    }
}

/// Who waits for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Creditor {
    /// The guest, which was promised it; there is no claim yet.
    Guest,
    /// The host: QEMU still holds it, and its claim stays.
    Host,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Later releases read what this one wrote.
    #[test]
    fn an_attachment_reads_as_it_was_written() {
        let attachment = Attachment {
            id: Uuid::from_u128(1),
            alias: "hostdev0".to_owned(),
            subject: Subject::Interface,
            mac: Some(MacAddress::new([0x52, 0x54, 0, 0, 0, 1])),
            role: Role::Primary,
            pair: Some(Uuid::from_u128(2)),
            port: Some(PortId {
                network: Uuid::from_u128(3),
                port: Uuid::from_u128(4),
            }),
            claim: Some("3.17".parse().unwrap()),
            reserved: None,
            owed_since: None,
            state: AttachmentState::Owed(Creditor::Host),
        };
        let text = r#"{"id":"00000000-0000-0000-0000-000000000001","alias":"hostdev0","subject":"interface","mac":"52:54:00:00:00:01","role":"primary","pair":"00000000-0000-0000-0000-000000000002","port":{"network":"00000000-0000-0000-0000-000000000003","port":"00000000-0000-0000-0000-000000000004"},"claim":"3.17","state":{"owed":"host"}}"#;
        assert_eq!(serde_json::to_string(&attachment).unwrap(), text);
        assert_eq!(
            serde_json::from_str::<Attachment>(text).unwrap(),
            attachment
        );
    }
}
