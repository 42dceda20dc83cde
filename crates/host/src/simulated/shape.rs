//! How big a simulated host is, and where its devices sit.

use std::str::FromStr;

use conf::PciAddress;

/// VFs that a PF can make even where it has fewer at first.
const LEAST_MAX_VFS: u32 = 8;

/// How many PFs and VFs a simulated host has. Reads the text `pfs=2,vfs=64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedShape {
    /// PFs, 1–128.
    pub pfs: u16,
    /// VFs in all, at most 32,768, spread evenly over the PFs; the first ones have one more where
    /// that leaves a rest.
    pub vfs: u32,
}

/// A text that is no shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseShapeError {
    /// Not of the form.
    #[error("'{0}' is no simulated host of the form pfs=2,vfs=64")]
    Form(String),
    /// Outside the limits.
    #[error("a simulated host has 1 to {most_pfs} PFs and at most {most_vfs} VFs, not {pfs} and {vfs}", most_pfs = SimulatedShape::MOST_PFS, most_vfs = SimulatedShape::MOST_VFS)]
    Limit {
        /// PFs asked for.
        pfs: u32,
        /// VFs asked for.
        vfs: u32,
    },
}

impl SimulatedShape {
    /// Most PFs.
    pub const MOST_PFS: u16 = 128;
    /// Most VFs, in all.
    pub const MOST_VFS: u32 = 32_768;

    /// A shape within the limits.
    pub fn new(pfs: u32, vfs: u32) -> Result<Self, ParseShapeError> {
        match u16::try_from(pfs) {
            Ok(pfs) if (1..=Self::MOST_PFS).contains(&pfs) && vfs <= Self::MOST_VFS => {
                Ok(Self { pfs, vfs })
            }
            _ => Err(ParseShapeError::Limit { pfs, vfs }),
        }
    }

    /// VFs of that PF at first.
    pub(super) fn vfs_of(self, pf: u16) -> u16 {
        let pfs = u32::from(self.pfs);
        let rest = u32::from(u32::from(pf) < self.vfs % pfs);
        u16::try_from(self.vfs / pfs + rest).unwrap_or(u16::MAX)
    }

    /// VFs that a PF can have.
    pub(super) fn max_vfs(self) -> u16 {
        let most = self.vfs.div_ceil(u32::from(self.pfs)).max(LEAST_MAX_VFS);
        u16::try_from(most).unwrap_or(u16::MAX)
    }

    /// Where that PF sits: each has a bus of its own, the buses of its VFs behind it, and a new
    /// PCI domain starts where 256 buses are not enough. Bus 0 is the host's own.
    pub(super) fn pf_address(self, pf: u16) -> PciAddress {
        let (domain, bus) = self.place(pf);
        address(domain, bus, 0)
    }

    /// Where that VF sits.
    pub(super) fn vf_address(self, pf: u16, number: u16) -> PciAddress {
        let (domain, bus) = self.place(pf);
        address(domain, bus + 1 + u32::from(number / 256), number % 256)
    }

    fn place(self, pf: u16) -> (u32, u32) {
        let buses = 1 + u32::from(self.max_vfs()).div_ceil(256);
        let pfs_per_domain = 255 / buses;
        let pf = u32::from(pf);
        (pf / pfs_per_domain, 1 + pf % pfs_per_domain * buses)
    }
}

impl FromStr for SimulatedShape {
    type Err = ParseShapeError;

    /// Both numbers, in any order; each can be left out (1 PF, 8 VFs).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || ParseShapeError::Form(text.chars().take(64).collect());
        let (mut pfs, mut vfs) = (None, None);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(form)?;
            let place = match key.trim() {
                "pfs" => &mut pfs,
                "vfs" => &mut vfs,
                _ => return Err(form()),
            };
            let number = value.trim().parse().map_err(|_| form())?;
            if place.replace(number).is_some() {
                return Err(form());
            }
        }
        Self::new(pfs.unwrap_or(1), vfs.unwrap_or(LEAST_MAX_VFS))
    }
}

/// The function with that routing number (slot and function) on that bus.
fn address(domain: u32, bus: u32, routing: u16) -> PciAddress {
    let bus = u8::try_from(bus).unwrap_or(u8::MAX);
    let slot = u8::try_from(routing / 8).unwrap_or(u8::MAX);
    let function = u8::try_from(routing % 8).unwrap_or(u8::MAX);
    PciAddress::new(domain, bus, slot, function).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn reads_the_text() {
        let shape: SimulatedShape = "pfs=2,vfs=64".parse().unwrap();
        assert_eq!(shape, SimulatedShape { pfs: 2, vfs: 64 });
        assert_eq!(
            "vfs=3".parse::<SimulatedShape>().unwrap(),
            SimulatedShape { pfs: 1, vfs: 3 }
        );
        for text in ["", "2", "pfs=2,pfs=2", "pfs=x", "vfs=-1", "nics=2"] {
            assert!(
                matches!(
                    text.parse::<SimulatedShape>(),
                    Err(ParseShapeError::Form(_))
                ),
                "{text}"
            );
        }
        for text in ["pfs=0", "pfs=129", "pfs=65537", "pfs=1,vfs=32769"] {
            assert!(
                matches!(
                    text.parse::<SimulatedShape>(),
                    Err(ParseShapeError::Limit { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn spreads_vfs_evenly_and_gives_each_device_its_own_address() {
        for (pfs, vfs) in [(1, 0), (3, 64), (1, 32_768), (128, 32_768), (128, 5)] {
            let shape = SimulatedShape::new(pfs, vfs).unwrap();
            let mut seen = HashSet::new();
            let mut total = 0;
            for pf in 0..shape.pfs {
                assert!(seen.insert(shape.pf_address(pf)));
                let count = shape.vfs_of(pf);
                assert!(count <= shape.max_vfs() && count.abs_diff(shape.vfs_of(0)) <= 1);
                total += u32::from(count);
                for number in 0..shape.max_vfs() {
                    assert!(seen.insert(shape.vf_address(pf, number)));
                }
            }
            assert_eq!(total, vfs);
        }
    }
}
