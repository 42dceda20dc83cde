//! What went through VFs, as a PF's driver counts it.

use std::io;

use super::attributes::{AttributeWriter, Attributes, malformed, u32_at, u64_at};
use super::connection::{Connections, Raw};
use crate::Counters;

const RTM_GETLINK: u16 = 18;
const HEADER: usize = 16;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_VF: u32 = 1;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_STATS: u16 = 8;

const RX_PACKETS: u16 = 0;
const TX_PACKETS: u16 = 1;
const RX_BYTES: u16 = 2;
const TX_BYTES: u16 = 3;
const BROADCAST: u16 = 4;
const MULTICAST: u16 = 5;
const RX_DROPPED: u16 = 7;
const TX_DROPPED: u16 = 8;

impl Connections {
    /// What went through a PF's VF, from the VF's point of view. `None`: its driver does not list
    /// it, or counts nothing.
    pub(crate) fn vf_counters(&self, pf: u32, number: u16) -> io::Result<Option<Counters>> {
        let mut header = [0; HEADER];
        header[4..8].copy_from_slice(&pf.to_ne_bytes());
        let mut request = AttributeWriter::after(header);
        request.value(IFLA_EXT_MASK, RTEXT_FILTER_VF.to_ne_bytes());
        let message = Raw {
            kind: RTM_GETLINK,
            flags: 0,
            payload: request.bytes(),
        };
        let mut found = None;
        self.exchange(message, |_, payload| {
            found = read_counters(payload, number)?;
            Ok(())
        })?;
        Ok(found)
    }
}

fn read_counters(payload: &[u8], number: u16) -> io::Result<Option<Counters>> {
    let Some(list) = vf_list(payload)? else {
        return Ok(None);
    };
    for info in list.iter() {
        // Behind the list, where its length is not to be trusted, are attributes of other kinds.
        let (IFLA_VF_INFO, info) = info? else {
            return Ok(None);
        };
        let info = Attributes::from(info);
        let Some(mac) = info.find(IFLA_VF_MAC)? else {
            return Ok(None);
        };
        if u32_at(mac, 0)? == u32::from(number) {
            let stats = info.nested(IFLA_VF_STATS)?;
            return Ok(stats.map(read_stats).transpose()?.flatten());
        }
    }
    Ok(None)
}

/// The VFs of a PF, and whatever follows them. With statistics more than 221 VFs are longer than an
/// attribute's 16-bit length can tell; kernels then write the list whole, and its length modulo
/// 64 KiB.
fn vf_list(payload: &[u8]) -> io::Result<Option<Attributes<'_>>> {
    let mut rest = payload.get(HEADER..).ok_or_else(malformed)?;
    while let Some((kind, length)) = attribute_header(rest) {
        if kind == IFLA_VFINFO_LIST {
            return Ok(rest.get(4..).map(Attributes::from));
        }
        if length < 4 {
            return Err(malformed());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

/// Type, without its flags, and length of the attribute that the bytes begin with.
fn attribute_header(bytes: &[u8]) -> Option<(u16, usize)> {
    const TYPE_MASK: u16 = 0x3fff;
    let [a, b, c, d] = *bytes.first_chunk()?;
    let kind = u16::from_ne_bytes([c, d]) & TYPE_MASK;
    Some((kind, usize::from(u16::from_ne_bytes([a, b]))))
}

/// A driver that counts nothing leaves all at 0.
fn read_stats(stats: Attributes<'_>) -> io::Result<Option<Counters>> {
    let mut read = Counters::default();
    let (mut broadcast, mut multicast) = (0, 0);
    for attribute in stats.iter() {
        let (kind, value) = attribute?;
        let counter = match kind {
            RX_PACKETS => &mut read.rx_packets,
            TX_PACKETS => &mut read.tx_packets,
            RX_BYTES => &mut read.rx_bytes,
            TX_BYTES => &mut read.tx_bytes,
            BROADCAST => &mut broadcast,
            MULTICAST => &mut multicast,
            RX_DROPPED => &mut read.rx_dropped,
            TX_DROPPED => &mut read.tx_dropped,
            _ => continue,
        };
        *counter = u64_at(value, 0)?;
    }
    let counted = read != Counters::default() || broadcast > 0 || multicast > 0;
    read.rx_broadcast = Some(broadcast);
    read.rx_multicast = Some(multicast);
    Ok(counted.then_some(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PF with that many VFs, which each received their number of bytes.
    fn answer(vfs: u32) -> Vec<u8> {
        let mut list = AttributeWriter::default();
        for vf in 0..vfs {
            list.nest(IFLA_VF_INFO, |info| {
                let mut mac = vf.to_ne_bytes().to_vec();
                mac.resize(36, 0);
                info.value(IFLA_VF_MAC, mac);
                info.value(2, [0; 150]);
                info.nest(IFLA_VF_STATS, |stats| {
                    let counters = [vf, 0, 3 * vf, 0, vf, 2 * vf, 0, 0, 9 * vf];
                    for (kind, counter) in (0..).zip(counters) {
                        stats.value(kind, u64::from(counter).to_ne_bytes());
                    }
                });
            });
        }
        let mut payload = AttributeWriter::after([0; HEADER]);
        payload.text(3, "eth0");
        let mut bytes = payload.bytes().to_vec();
        // The kernel's length wraps around.
        let length = (list.bytes().len() + 4) as u16;
        bytes.extend(length.to_ne_bytes());
        bytes.extend(IFLA_VFINFO_LIST.to_ne_bytes());
        bytes.extend(list.bytes());
        let mut after = AttributeWriter::default();
        after.value(24, [1; 8]);
        bytes.extend(after.bytes());
        bytes
    }

    #[test]
    fn counters_of_the_vf_asked_for_are_read() {
        let expected = Counters {
            rx_packets: 2,
            rx_bytes: 6,
            rx_broadcast: Some(2),
            rx_multicast: Some(4),
            tx_dropped: 18,
            ..Counters::default()
        };
        assert_eq!(read_counters(&answer(7), 2).unwrap(), Some(expected));
        assert_eq!(read_counters(&answer(7), 7).unwrap(), None, "no such VF");
        assert_eq!(read_counters(&answer(0), 0).unwrap(), None, "no VFs");
    }

    #[test]
    fn a_list_longer_than_its_length_can_tell_is_read_to_its_end() {
        let whole = answer(256);
        assert!(whole.len() > 1 << 16);
        let last = read_counters(&whole, 255).unwrap().unwrap();
        assert_eq!(last.rx_bytes, 3 * 255);
        assert_eq!(read_counters(&whole, 256).unwrap(), None);
    }

    #[test]
    fn a_driver_that_counts_nothing_is_not_one_that_counts_zero() {
        assert_eq!(read_counters(&answer(2), 0).unwrap(), None);
    }

    #[test]
    fn a_cut_off_answer_is_an_error_or_nothing() {
        let whole = answer(2);
        for length in 0..whole.len() - 12 {
            let cut = read_counters(&whole[..length], 1);
            assert!(!matches!(cut, Ok(Some(_))), "{length}: {cut:?}");
        }
    }
}
