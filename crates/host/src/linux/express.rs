//! A PCI Express function's link, from its configuration space.

use conf::{PciExpress, PciExpressLink, PciLinkSpeed};

/// What is read of the configuration space: PCI's own part, which has all that is wanted.
pub(super) const CONFIG_BYTES: u64 = 256;

const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 0x10;
const FIRST_CAPABILITY: usize = 0x34;
const EXPRESS: u8 = 0x10;
/// Capabilities that fit behind the header: a chain that is longer leads in circles.
const MOST_CAPABILITIES: usize = 48;
/// Types of functions that are part of the root complex, without a link.
const INTEGRATED: [u16; 2] = [0x9, 0xa];

/// The link that the configuration space shows; `None`: it is not PCI Express, or not all of its
/// configuration space was given.
pub(super) fn link_of(config: &[u8]) -> Option<PciExpress> {
    let express = express_capability(config)?;
    let kind = word(config, express + 2)? >> 4 & 0xf;
    if INTEGRATED.contains(&kind) {
        return Some(PciExpress::default());
    }
    let capable =
        u32::from(word(config, express + 0xc)?) | u32::from(word(config, express + 0xe)?) << 16;
    let status = u32::from(word(config, express + 0x12)?);
    Some(PciExpress {
        capable: Some(PciExpressLink {
            port: Some(capable >> 24),
            ..link(capable)
        }),
        status: Some(link(status)),
    })
}

/// The same from what sysfs tells everybody: `8.0 GT/s PCIe`, and lanes; there is no port then.
pub(super) fn link_in_words(speed: &str, width: u32) -> PciExpressLink {
    let speed = match speed.split(' ').next().unwrap_or_default() {
        "2.5" => Some(PciLinkSpeed::Gt2_5),
        "5" | "5.0" => Some(PciLinkSpeed::Gt5),
        "8" | "8.0" => Some(PciLinkSpeed::Gt8),
        "16" | "16.0" => Some(PciLinkSpeed::Gt16),
        "32" | "32.0" => Some(PciLinkSpeed::Gt32),
        "64" | "64.0" => Some(PciLinkSpeed::Gt64),
        _ => None,
    };
    PciExpressLink {
        port: None,
        speed,
        // What the kernel says of a link that it knows nothing of.
        width: if width > 63 { 0 } else { width },
    }
}

/// The lower bits of both registers: speed (0–3), width (4–9).
fn link(register: u32) -> PciExpressLink {
    PciExpressLink {
        port: None,
        speed: match register & 0xf {
            1 => Some(PciLinkSpeed::Gt2_5),
            2 => Some(PciLinkSpeed::Gt5),
            3 => Some(PciLinkSpeed::Gt8),
            4 => Some(PciLinkSpeed::Gt16),
            5 => Some(PciLinkSpeed::Gt32),
            6 => Some(PciLinkSpeed::Gt64),
            _ => None,
        },
        width: register >> 4 & 0x3f,
    }
}

fn express_capability(config: &[u8]) -> Option<usize> {
    if word(config, STATUS)? & STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut at = usize::from(*config.get(FIRST_CAPABILITY)? & 0xfc);
    for _ in 0..MOST_CAPABILITIES {
        if at < 0x40 {
            return None;
        }
        if *config.get(at)? == EXPRESS {
            return Some(at);
        }
        at = usize::from(*config.get(at + 1)? & 0xfc);
    }
    None
}

fn word(config: &[u8], at: usize) -> Option<u16> {
    let bytes = config.get(at..at.checked_add(2)?)?;
    bytes.try_into().map(u16::from_le_bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MSI at 0x50, then PCI Express at 0x70.
    fn config(kind: u8) -> Vec<u8> {
        let mut config = vec![0; 256];
        config[STATUS] = 0x10;
        config[FIRST_CAPABILITY] = 0x50;
        config[0x50..0x52].copy_from_slice(&[0x05, 0x70]);
        config[0x70..0x72].copy_from_slice(&[EXPRESS, 0]);
        config[0x72] = kind << 4 | 2;
        // Port 3, four lanes, 5 GT/s; two lanes at 2.5 now.
        config[0x7c..0x80].copy_from_slice(&[0x42, 0, 0, 3]);
        config[0x82..0x84].copy_from_slice(&[0x21, 0]);
        config
    }

    #[test]
    fn what_a_link_can_do_and_does() {
        let express = link_of(&config(0)).unwrap();
        let can = express.capable.unwrap();
        assert_eq!(
            (can.port, can.speed, can.width),
            (Some(3), Some(PciLinkSpeed::Gt5), 4)
        );
        let does = express.status.unwrap();
        assert_eq!(
            (does.port, does.speed, does.width),
            (None, Some(PciLinkSpeed::Gt2_5), 2)
        );
    }

    #[test]
    fn a_part_of_the_processors_has_no_link_and_conventional_pci_no_capability() {
        assert_eq!(link_of(&config(9)), Some(PciExpress::default()));
        let mut conventional = config(0);
        conventional[0x51] = 0;
        assert_eq!(link_of(&conventional), None);
        conventional[STATUS] = 0;
        assert_eq!(link_of(&conventional), None);
    }

    #[test]
    fn a_part_of_a_configuration_space_or_a_circle_in_it_shows_nothing() {
        let whole = config(0);
        for length in 0..0x84 {
            assert_eq!(link_of(&whole[..length]), None, "{length}");
        }
        let mut circle = config(0);
        circle[0x51] = 0x50;
        assert_eq!(link_of(&circle), None);
    }

    #[test]
    fn sysfs_words() {
        let link = link_in_words("16.0 GT/s PCIe", 8);
        assert_eq!((link.speed, link.width), (Some(PciLinkSpeed::Gt16), 8));
        let unknown = link_in_words("Unknown", 255);
        assert_eq!((unknown.speed, unknown.width), (None, 0));
    }
}
