//! Two emulated hosts that reach each other: what each is called, and the wires between them.
//!
//! All wires begin in the first host, which has the station. The station's bridge there joins the card at the other end of
//! the first host's PF with one at the other end of the second's; so it is a real switch that has to learn anew where a
//! guest is that moved. One more wire is for management. A wire is a Unix socket between the two QEMUs.

use serde::{Deserialize, Serialize};

/// Where both QEMUs find the wires' sockets: the first one's run directory.
pub(crate) const WIRES: &str = "/srv";

/// One of two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Member {
    /// The one in which the command runs.
    First,
    /// The other.
    Second,
}

impl Member {
    /// Its hostname.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "lab",
            Self::Second => "lab2",
        }
    }

    /// Its address on the management wire.
    pub(crate) fn address(self) -> &'static str {
        match self {
            Self::First => "192.168.77.1",
            Self::Second => "192.168.77.2",
        }
    }

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// 1 or 2.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }

    /// What the firmware calls the host, in place of the zeros of an emulated one; also its machine-id, without dashes.
    pub(crate) fn uuid(self) -> String {
        format!(
            "6c6162{0:02x}-7669-4774-8e69-6300000000{0:02x}",
            self.number()
        )
    }

    /// The MAC of its card on the management wire.
    pub(crate) fn management_mac(self) -> String {
        format!("52:54:00:00:00:{:02x}", self.number())
    }

    /// The MAC of one of its PFs, counted from 0.
    pub(crate) fn pf_mac(self, pf: u8) -> String {
        format!("52:54:00:{:02x}:{:02x}:00", self.number() - 1, pf + 1)
    }

    /// QEMU's word for this host's end of a wire.
    pub(crate) fn end_of_wire(self, id: &str) -> String {
        // The second one may be there first, or lose the first for a moment.
        let side = match self {
            Self::First => "server=on",
            Self::Second => "server=off,reconnect-ms=500",
        };
        format!("stream,id={id},{side},addr.type=unix,addr.path={WIRES}/{id}.sock")
    }
}

/// The MAC of the station's card on the wire of a PF of the first host, counted from 0.
pub(crate) fn station_mac(pf: u8) -> String {
    format!("52:54:00:00:{:02x}:ff", pf + 1)
}

/// The same for a PF of the second host.
pub(crate) fn far_mac(pf: u8) -> String {
    format!("52:54:00:00:{:02x}:fe", pf + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cards_have_one_mac() {
        let mut macs: Vec<String> = (0..4)
            .flat_map(|pf| {
                let of_pfs = [Member::First, Member::Second].map(|member| member.pf_mac(pf));
                of_pfs.into_iter().chain([station_mac(pf), far_mac(pf)])
            })
            .collect();
        macs.extend([Member::First, Member::Second].map(Member::management_mac));
        let all = macs.len();
        macs.sort();
        macs.dedup();
        assert_eq!(macs.len(), all);
    }

    #[test]
    fn each_has_a_uuid() {
        assert_eq!(
            Member::Second.uuid(),
            "6c616202-7669-4774-8e69-630000000002"
        );
        assert_ne!(Member::First.uuid(), Member::Second.uuid());
    }
}
