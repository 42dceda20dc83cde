//! What a network device's driver can do, by ethtool's generic netlink family.

use std::collections::BTreeSet;
use std::io;

use super::attributes::{AttributeWriter, Attributes, malformed, text};
use super::connection::{Connections, Raw};

/// The family that tells the others' numbers; `GENL_ID_CTRL`.
const CONTROLLER: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const HEADER: usize = 4;
const MSG_FEATURES_GET: u8 = 11;
const FEATURES_HEADER: u16 = 1;
const FEATURES_HW: u16 = 2;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_INDEX: u16 = 1;
const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// A feature of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Feature {
    pub(crate) on: bool,
    /// It can be switched.
    pub(crate) changeable: bool,
}

impl Connections {
    /// A device's feature of that name (as `ethtool -k` lists it). `None`: this kernel does not
    /// tell features, or does not know that one. Over generic netlink.
    pub(crate) fn feature(&self, ifindex: u32, name: &str) -> io::Result<Option<Feature>> {
        let mut found = None;
        self.ask_features(ifindex, |payload| {
            found = read_feature(payload, name)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// All features of a device that are on, as `ethtool -k` lists them; none where this kernel does
    /// not tell. Over generic netlink.
    pub(crate) fn features(&self, ifindex: u32) -> io::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        self.ask_features(ifindex, |payload| {
            found = read_active(payload)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Nothing is read where this kernel does not tell features.
    fn ask_features(
        &self,
        ifindex: u32,
        mut read: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
        let family = match self.family("ethtool") {
            Ok(family) => family,
            Err(error) if crate::errno(&error) == Some(ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut request = AttributeWriter::after([MSG_FEATURES_GET, 1, 0, 0]);
        request.nest(FEATURES_HEADER, |header| {
            header.value(HEADER_DEV_INDEX, ifindex.to_ne_bytes());
        });
        let message = Raw {
            kind: family,
            flags: 0,
            payload: request.bytes(),
        };
        self.exchange(message, |_, payload| read(payload))
    }

    /// The number of a generic netlink family; ENOENT where there is none of that name.
    fn family(&self, name: &str) -> io::Result<u16> {
        let mut request = AttributeWriter::after([CTRL_CMD_GETFAMILY, 1, 0, 0]);
        request.text(CTRL_ATTR_FAMILY_NAME, name);
        let message = Raw {
            kind: CONTROLLER,
            flags: 0,
            payload: request.bytes(),
        };
        let mut found = None;
        self.exchange(message, |_, payload| {
            let id = Attributes::after(HEADER, payload)?.find(CTRL_ATTR_FAMILY_ID)?;
            let id = id.and_then(|id| id.first_chunk().copied());
            found = id.map(u16::from_ne_bytes);
            Ok(())
        })?;
        found.ok_or_else(malformed)
    }
}

fn read_feature(payload: &[u8], name: &str) -> io::Result<Option<Feature>> {
    let attributes = Attributes::after(HEADER, payload)?;
    let bit = |set| match attributes.nested(set)? {
        Some(set) => read_bit(set, name),
        None => Ok(None),
    };
    let changeable = bit(FEATURES_HW)?;
    let active = bit(FEATURES_ACTIVE)?;
    // Which of them list all features, with and without a value, is up to the kernel.
    Ok((changeable.is_some() || active.is_some()).then(|| Feature {
        on: active.unwrap_or(false),
        changeable: changeable.unwrap_or(false),
    }))
}

/// The names of the bits that are set.
fn read_active(payload: &[u8]) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let Some(set) = Attributes::after(HEADER, payload)?.nested(FEATURES_ACTIVE)? else {
        return Ok(found);
    };
    let without_mask = set.find(BITSET_NOMASK)?.is_some();
    let Some(bits) = set.nested(BITSET_BITS)? else {
        return Ok(found);
    };
    for bit in bits.iter() {
        let bit = Attributes::from(bit?.1);
        if without_mask || bit.find(BIT_VALUE)?.is_some() {
            found.extend(bit.find(BIT_NAME)?.map(text));
        }
    }
    Ok(found)
}

/// Whether a bit is set; `None` where the set does not list it. A set without a mask lists those
/// that are.
fn read_bit(set: Attributes<'_>, name: &str) -> io::Result<Option<bool>> {
    let without_mask = set.find(BITSET_NOMASK)?.is_some();
    let Some(bits) = set.nested(BITSET_BITS)? else {
        return Ok(None);
    };
    for bit in bits.iter() {
        let bit = Attributes::from(bit?.1);
        if bit.find(BIT_NAME)?.is_some_and(|found| text(found) == name) {
            return Ok(Some(without_mask || bit.find(BIT_VALUE)?.is_some()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFLOAD: &str = "l2-fwd-offload";

    /// A set with those bits, and whether each is set.
    fn set(into: &mut AttributeWriter, kind: u16, mask: bool, bits: &[(&str, bool)]) {
        into.nest(kind, |set| {
            if !mask {
                set.value(BITSET_NOMASK, []);
            }
            set.nest(BITSET_BITS, |list| {
                for (name, on) in bits {
                    list.nest(1, |bit| {
                        bit.text(BIT_NAME, name);
                        if *on {
                            bit.value(BIT_VALUE, []);
                        }
                    });
                }
            });
        });
    }

    fn answer(changeable: bool, active: bool) -> Vec<u8> {
        let mut payload = AttributeWriter::after([0; HEADER]);
        let bits = [("tx-scatter-gather", true), (OFFLOAD, changeable)];
        set(&mut payload, FEATURES_HW, true, &bits);
        let bits = [("rx-gro", true), (OFFLOAD, true)];
        let bits = if active { &bits[..] } else { &bits[..1] };
        set(&mut payload, FEATURES_ACTIVE, false, bits);
        payload.bytes().to_vec()
    }

    #[test]
    fn a_feature_is_on_or_off_and_fixed_or_not() {
        for (changeable, on) in [(true, true), (true, false), (false, true), (false, false)] {
            let read = read_feature(&answer(changeable, on), OFFLOAD).unwrap();
            assert_eq!(read, Some(Feature { on, changeable }));
        }
        assert_eq!(read_feature(&answer(true, true), "teleport").unwrap(), None);
    }

    #[test]
    fn what_is_on_is_listed() {
        for (active, listed) in [(true, &[OFFLOAD, "rx-gro"][..]), (false, &["rx-gro"])] {
            let read = read_active(&answer(true, active)).unwrap();
            assert_eq!(read.iter().collect::<Vec<_>>(), listed);
        }
    }

    #[test]
    fn a_real_kernel_tells_its_features() {
        const LOOPBACK: u32 = 1;
        let connections = Connections::generic();
        let fixed = Feature {
            on: true,
            changeable: false,
        };
        let read = connections.feature(LOOPBACK, "loopback").unwrap();
        assert_eq!(read, Some(fixed));
        let gro = connections.feature(LOOPBACK, "rx-gro").unwrap();
        assert!(gro.unwrap().changeable);
        let offload = connections.feature(LOOPBACK, OFFLOAD).unwrap().unwrap();
        assert!(!offload.on && !offload.changeable);
        let error = connections.feature(u32::MAX >> 1, OFFLOAD).unwrap_err();
        assert_eq!(crate::errno(&error), Some(19));
        let all = connections.features(LOOPBACK).unwrap();
        assert!(
            all.contains("loopback") && !all.contains(OFFLOAD),
            "{all:?}"
        );
        let error = connections.family("no-such-family").unwrap_err();
        assert_eq!(crate::errno(&error), Some(2));
    }

    #[test]
    fn a_cut_off_answer_is_no_panic() {
        let whole = answer(true, true);
        for length in 0..whole.len() {
            let cut = read_feature(&whole[..length], OFFLOAD);
            let expected = Feature {
                on: true,
                changeable: true,
            };
            assert!(
                !matches!(cut, Ok(Some(read)) if read == expected),
                "{length}"
            );
        }
    }
}
