//! Queueing disciplines, classes and policers.
//!
//! Numbers and structures are those of the kernel's `linux/pkt_sched.h` and `linux/pkt_cls.h`.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};

use super::attributes::{AttributeWriter, Attributes, malformed, text, u32_at, u64_at};
use super::connection::{Connections, Raw};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTCLASS: u16 = 40;
const RTM_GETTCLASS: u16 = 42;
const RTM_NEWTFILTER: u16 = 44;

const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// `1:`, and the one class in it.
const ROOT_HANDLE: u32 = 0x0001_0000;
const CLASS: u32 = 0x0001_0001;
const LEAF_HANDLE: u32 = 0x0002_0000;
const INGRESS_HANDLE: u32 = 0xffff_0000;

const HTB_PARMS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;

const U32_CLASSID: u16 = 1;
const U32_SEL: u16 = 5;
const U32_ACT: u16 = 7;
const U32_TERMINAL: u8 = 1;
const ETH_P_ALL: u16 = 3;

const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
const POLICE_TBF: u16 = 1;
const POLICE_RATE: u16 = 2;
const POLICE_PEAKRATE: u16 = 3;
const POLICE_RATE64: u16 = 8;
const POLICE_PEAKRATE64: u16 = 9;
const TC_ACT_SHOT: u32 = 2;

const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();

/// Longest frame that a policer lets pass: a segment of TCP that is still to be cut up, and its
/// headers.
const MOST_FRAME: u32 = 128 << 10;
/// `MOST_FRAME` shifted by this is the last of a table's 256 entries.
const CELL_LOG: u8 = 9;
/// The kernel's unit of time for bursts, nanoseconds.
const TICK: u128 = 64;

/// Where a discipline hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// What leaves the device.
    Leaving,
    /// What arrives at it.
    Arriving,
}

impl Hook {
    fn parent(self) -> u32 {
        match self {
            Self::Leaving => u32::MAX,
            Self::Arriving => 0xffff_fff1,
        }
    }
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bytes a second, not 0.
    pub(crate) rate: u64,
    /// Bytes a second, at least the rate.
    pub(crate) peak: u64,
    /// Bytes that may pass faster than the rate.
    pub(crate) burst: u64,
    /// Bytes that may pass faster than the peak.
    pub(crate) peak_burst: u64,
}

impl Connections {
    /// The discipline that somebody put there; `None`: the kernel's default.
    pub(crate) fn qdisc(&self, ifindex: u32, hook: Hook) -> io::Result<Option<String>> {
        let request = message(ifindex, 0, hook.parent(), 0);
        let mut found = None;
        let asked = self.exchange(raw(RTM_GETQDISC, GET, &request), |_, payload| {
            let handle = u32_at(payload, 8)?;
            let kind = Attributes::after(HEADER, payload)?.find(TCA_KIND)?;
            found = kind.filter(|_| handle != 0).map(text);
            Ok(())
        });
        match asked {
            Err(error) if is_absent(&error) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// Removes it, with all that is below it.
    pub(crate) fn remove_qdisc(&self, ifindex: u32, hook: Hook) -> io::Result<()> {
        let request = message(ifindex, 0, hook.parent(), 0);
        match self.exchange(raw(RTM_DELQDISC, 0, &request), ignore) {
            Err(error) if is_absent(&error) => Ok(()),
            removed => removed,
        }
    }

    /// Puts a token bucket there for what leaves the device: frames wait until their time has
    /// come.
    pub(crate) fn add_bucket(&self, ifindex: u32, limit: Limit) -> io::Result<()> {
        let mut qdisc = message(ifindex, ROOT_HANDLE, Hook::Leaving.parent(), 0);
        qdisc.text(TCA_KIND, "htb").nest(TCA_OPTIONS, |options| {
            options.value(HTB_INIT, htb_init());
        });
        self.exchange(raw(RTM_NEWQDISC, NEW, &qdisc), ignore)?;
        let mut class = message(ifindex, CLASS, ROOT_HANDLE, 0);
        class.text(TCA_KIND, "htb").nest(TCA_OPTIONS, |options| {
            options.value(HTB_PARMS, htb_parameters(limit));
            if u32::try_from(limit.rate).is_err() {
                options.value(HTB_RATE64, limit.rate.to_ne_bytes());
            }
            if u32::try_from(limit.peak).is_err() {
                options.value(HTB_CEIL64, limit.peak.to_ne_bytes());
            }
        });
        self.exchange(raw(RTM_NEWTCLASS, NEW, &class), ignore)
    }

    /// Lets the flows in the bucket take turns, by that discipline; `false` where the kernel lacks
    /// it.
    pub(crate) fn add_leaf(&self, ifindex: u32, kind: &str) -> io::Result<bool> {
        let mut leaf = message(ifindex, LEAF_HANDLE, CLASS, 0);
        leaf.text(TCA_KIND, kind);
        match self.exchange(raw(RTM_NEWQDISC, NEW, &leaf), ignore) {
            Err(error) if is_missing_module(&error) => Ok(false),
            added => added.map(|()| true),
        }
    }

    /// Rate and peak of the bucket that is there, bytes a second.
    pub(crate) fn bucket(&self, ifindex: u32) -> io::Result<Option<(u64, u64)>> {
        let request = message(ifindex, CLASS, 0, 0);
        let mut found = None;
        let asked = self.exchange(raw(RTM_GETTCLASS, GET, &request), |_, payload| {
            found = read_bucket(payload)?;
            Ok(())
        });
        match asked {
            Err(error) if is_absent(&error) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// Makes the place where a policer for what arrives at the device hangs.
    pub(crate) fn add_ingress(&self, ifindex: u32) -> io::Result<()> {
        let mut qdisc = message(ifindex, INGRESS_HANDLE, Hook::Arriving.parent(), 0);
        qdisc.text(TCA_KIND, "ingress");
        self.exchange(raw(RTM_NEWQDISC, NEW, &qdisc), ignore)
    }

    /// Puts a policer there, which drops what comes too fast.
    pub(crate) fn add_policer(&self, ifindex: u32, limit: Limit) -> io::Result<()> {
        self.add_filter(ifindex, |action| {
            action
                .text(ACT_KIND, "police")
                .nest(ACT_OPTIONS, |options| police(options, limit));
        })
    }

    /// A filter that takes every frame, with that action.
    fn add_filter(
        &self,
        ifindex: u32,
        action: impl FnOnce(&mut AttributeWriter),
    ) -> io::Result<()> {
        const PRIORITY: u32 = 1;
        let info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
        let mut filter = message(ifindex, 0, INGRESS_HANDLE, info);
        filter.text(TCA_KIND, "u32").nest(TCA_OPTIONS, |options| {
            options
                .value(U32_CLASSID, 1_u32.to_ne_bytes())
                .nest(U32_ACT, |list| {
                    list.nest(1, action);
                })
                .value(U32_SEL, match_all());
        });
        self.exchange(raw(RTM_NEWTFILTER, NEW, &filter), ignore)
    }
}

/// Whether the kernel lacks the module for what was asked.
pub(crate) fn is_missing_module(error: &io::Error) -> bool {
    const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
    matches!(crate::errno(error), Some(ENOENT | EOPNOTSUPP))
}

/// What the kernel says where there is only its default.
fn is_absent(error: &io::Error) -> bool {
    crate::errno(error) == Some(ENOENT)
}

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// The kernel answers to a question about traffic control as it tells of a change: to those who
/// want an echo.
const GET: u16 = NLM_F_ECHO;

fn ignore(_: u16, _: &[u8]) -> io::Result<()> {
    Ok(())
}

fn raw(kind: u16, flags: u16, payload: &AttributeWriter) -> Raw<'_> {
    Raw {
        kind,
        flags,
        payload: payload.bytes(),
    }
}

fn message(ifindex: u32, handle: u32, parent: u32, info: u32) -> AttributeWriter {
    let mut header = Vec::with_capacity(HEADER);
    numbers(&mut header, &[0, ifindex, handle, parent, info]);
    AttributeWriter::after(header)
}

fn numbers(into: &mut Vec<u8>, numbers: &[u32]) {
    into.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
}

/// `struct tc_htb_glob`: version, quantum's divisor, default class, and two that the kernel fills.
fn htb_init() -> Vec<u8> {
    let mut bytes = Vec::new();
    numbers(&mut bytes, &[3, 10, CLASS & 0xffff, 0, 0]);
    bytes
}

/// `struct tc_htb_opt`.
fn htb_parameters(limit: Limit) -> Vec<u8> {
    // The only class takes no turns: any quantum that the kernel does not warn of will do.
    const QUANTUM: u32 = 1514;
    let mut bytes = Vec::with_capacity(44);
    rate_specification(&mut bytes, limit.rate);
    rate_specification(&mut bytes, limit.peak);
    let buffer = ticks(limit.burst, limit.rate);
    let peak_buffer = ticks(limit.peak_burst, limit.peak);
    numbers(&mut bytes, &[buffer, peak_buffer, QUANTUM, 0, 0]);
    bytes
}

/// `struct tc_ratespec`, for Ethernet. Where the rate does not fit, the 64-bit one beside it counts.
fn rate_specification(into: &mut Vec<u8>, rate: u64) {
    const LINK_LAYER_ETHERNET: u8 = 1;
    into.extend([CELL_LOG, LINK_LAYER_ETHERNET]);
    into.extend(0_u16.to_ne_bytes());
    into.extend((-1_i16).to_ne_bytes());
    into.extend(0_u16.to_ne_bytes());
    numbers(into, &[u32::try_from(rate).unwrap_or(u32::MAX)]);
}

/// How long that many bytes take at that rate, in the kernel's ticks; at most what fits (275 s).
fn ticks(bytes: u64, rate: u64) -> u32 {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    u32::try_from(nanoseconds / TICK).unwrap_or(u32::MAX)
}

/// `struct tc_police`, the tables that it needs, and rates that do not fit it.
fn police(options: &mut AttributeWriter, limit: Limit) {
    let peak = (limit.peak > limit.rate).then_some(limit.peak);
    let mut bytes = Vec::with_capacity(56);
    let burst = ticks(limit.burst, limit.rate);
    numbers(&mut bytes, &[0, TC_ACT_SHOT, 0, burst, MOST_FRAME]);
    rate_specification(&mut bytes, limit.rate);
    match peak {
        Some(peak) => rate_specification(&mut bytes, peak),
        None => bytes.extend([0; 12]),
    }
    numbers(&mut bytes, &[0, 0, 0]);
    options
        .value(POLICE_TBF, bytes)
        .value(POLICE_RATE, rate_table(limit.rate));
    if u32::try_from(limit.rate).is_err() {
        options.value(POLICE_RATE64, limit.rate.to_ne_bytes());
    }
    if let Some(peak) = peak {
        options.value(POLICE_PEAKRATE, rate_table(peak));
        if u32::try_from(peak).is_err() {
            options.value(POLICE_PEAKRATE64, peak.to_ne_bytes());
        }
    }
}

/// How long frames take, by length. Today's kernels compute that themselves, and refuse a policer
/// without a table all the same.
fn rate_table(rate: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    let lengths = (1..=256_u64).map(|cell| cell << CELL_LOG);
    let table: Vec<u32> = lengths.map(|length| ticks(length, rate)).collect();
    numbers(&mut bytes, &table);
    bytes
}

/// `struct tc_u32_sel` with one key that fits everything.
fn match_all() -> Vec<u8> {
    let mut bytes = vec![U32_TERMINAL, 0, 1];
    bytes.resize(16 + 16, 0);
    bytes
}

fn read_bucket(payload: &[u8]) -> io::Result<Option<(u64, u64)>> {
    const RATE: usize = 8;
    let attributes = Attributes::after(HEADER, payload)?;
    let kind = attributes.find(TCA_KIND)?.map(text);
    let options = attributes.nested(TCA_OPTIONS)?;
    let (Some("htb"), Some(options)) = (kind.as_deref(), options) else {
        return Ok(None);
    };
    let parameters = options.find(HTB_PARMS)?.ok_or_else(malformed)?;
    let rate = |at: usize, wide: u16| match options.find(wide)? {
        Some(wide) => u64_at(wide, 0),
        None => u32_at(parameters, at).map(u64::from),
    };
    Ok(Some((
        rate(RATE, HTB_RATE64)?,
        rate(12 + RATE, HTB_CEIL64)?,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_as_the_time_that_it_takes() {
        // 64 KiB at 1 MiB/s: 62.5 ms.
        assert_eq!(ticks(64 << 10, 1 << 20), 62_500_000 / 64);
        assert_eq!(ticks(u64::MAX, 1), u32::MAX);
        assert_eq!(ticks(1, u64::MAX), 0);
    }

    #[test]
    fn structures_have_the_kernels_lengths() {
        let limit = Limit {
            rate: 5_000_000_000,
            peak: 6_000_000_000,
            burst: 1 << 20,
            peak_burst: 1600,
        };
        assert_eq!(htb_init().len(), 20);
        assert_eq!(htb_parameters(limit).len(), 44);
        assert_eq!(match_all().len(), 32);
        let mut options = AttributeWriter::default();
        police(&mut options, limit);
        let read = Attributes::from(options.bytes());
        assert_eq!(read.find(POLICE_TBF).unwrap().unwrap().len(), 56);
        assert_eq!(read.find(POLICE_PEAKRATE).unwrap().unwrap().len(), 1024);
        let wide = read.find(POLICE_RATE64).unwrap().unwrap();
        assert_eq!(u64_at(wide, 0).unwrap(), 5_000_000_000);
    }

    #[test]
    fn a_cut_off_answer_is_an_error_or_nothing() {
        let mut class = message(1, CLASS, 0, 0);
        class.text(TCA_KIND, "htb").nest(TCA_OPTIONS, |options| {
            let limit = Limit {
                rate: 1000,
                peak: 2000,
                burst: 1,
                peak_burst: 1,
            };
            options.value(HTB_PARMS, htb_parameters(limit));
        });
        let whole = class.bytes();
        assert_eq!(read_bucket(whole).unwrap(), Some((1000, 2000)));
        for length in 0..whole.len() {
            let cut = read_bucket(&whole[..length]);
            assert!(!matches!(cut, Ok(Some(_))), "{length}");
        }
    }
}
