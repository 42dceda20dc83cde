//! The structures that several procedures share.
//!
//! Fields have the names of libvirt's API, whose reference describes them; what is said here is
//! what the wire adds.
#![allow(
    missing_docs,
    reason = "fields are named and described by libvirt's API reference"
)]

use uuid::Uuid;

use crate::macros::wire_struct;
use crate::xdr::{Bounded, DecodeError, Reader, Writer, Xdr};

/// The maximum of lists of guests, networks, ports and interfaces.
pub const LIST_MAX: usize = 16_384;
/// The maximum of lists of node devices and of their capabilities.
pub const NODE_DEVICE_LIST_MAX: usize = 65_536;
/// The maximum of a migration cookie, in bytes.
pub const COOKIE_MAX: usize = 4 * 1024 * 1024;

wire_struct! {
    /// A guest. It is identified by `uuid` alone; the other two may be stale in a request.
    pub struct Dom {
        name: String,
        uuid: Uuid,
        /// The number of the running instance, over 0; -1 when it does not run. Clients take
        /// anything but -1 for "is active".
        id: i32,
    }

    /// A network, identified by `uuid`.
    pub struct Net { name: String, uuid: Uuid }

    /// A port of a network, identified by `uuid`.
    pub struct Port { net: Net, uuid: Uuid }

    /// A host interface, identified by `name`.
    pub struct Iface { name: String, mac: String }

    /// A node device, identified by `name`.
    pub struct NodeDev { name: String }

    /// A named value; names have at most 79 bytes.
    pub struct TypedParam { field: String [79], value: TypedValue }

    /// The host, as `virsh nodeinfo` shows it.
    pub struct NodeInfo {
        model: FixedChars<32>,
        /// KiB.
        memory: u64,
        cpus: i32,
        mhz: i32,
        /// NUMA cells.
        nodes: i32,
        sockets: i32,
        cores: i32,
        threads: i32,
    }

    /// The security model of the host; both empty when there is none.
    pub struct SecurityModel { model: WordChars<257>, doi: WordChars<257> }

    /// The security label of a guest.
    pub struct SecurityLabel { label: WordChars<4097>, enforcing: bool }

    /// The host's processors; `ret` is how many are present.
    pub struct CpuMap { cpumap: Vec<u8> [2048], online: u32, ret: i32 }

    /// One DHCP lease.
    pub struct DhcpLease {
        iface: String,
        /// Unix seconds.
        expirytime: i64,
        /// 0 is IPv4, 1 is IPv6.
        r#type: i32,
        mac: Option<String>,
        iaid: Option<String>,
        ipaddr: String,
        prefix: u32,
        hostname: Option<String>,
        clientid: Option<String>,
    }

    /// Parameters, and how many there are when the caller asked for the count.
    pub struct Params { params: Vec<TypedParam> [16], nparams: i32 }

    /// What `virsh dominfo` shows of a guest.
    pub struct DomainInfo {
        state: u32,
        /// KiB.
        max_mem: u64,
        /// KiB.
        memory: u64,
        nr_virt_cpu: u32,
        /// Nanoseconds.
        cpu_time: u64,
    }

    /// A guest's state and the reason for it.
    pub struct DomainState { state: i32, reason: i32 }

    /// The state of the connection to a guest's process.
    pub struct ControlInfo { state: u32, details: u32, state_time: u64 }

    /// One virtual processor.
    pub struct VcpuInfo { number: u32, state: i32, cpu_time: u64, cpu: i32 }

    /// Virtual processors, and where each may run.
    pub struct Vcpus { info: Vec<VcpuInfo> [LIST_MAX], cpumaps: Vec<u8> [8_388_608] }

    /// The scheduler of a guest and how many parameters it has.
    pub struct SchedulerType { r#type: String, nparams: i32 }

    /// The time in a guest.
    pub struct GuestTime { seconds: i64, nseconds: u32 }

    /// Traffic of a guest's interface; -1 stands for "not known".
    pub struct InterfaceStats {
        rx_bytes: i64,
        rx_packets: i64,
        rx_errs: i64,
        rx_drop: i64,
        tx_bytes: i64,
        tx_packets: i64,
        tx_errs: i64,
        tx_drop: i64,
    }

    /// An address of a guest's interface; type 0 is IPv4, 1 is IPv6.
    pub struct IpAddress { r#type: i32, addr: String, prefix: u32 }

    /// A guest's interface with its addresses.
    pub struct InterfaceAddresses {
        name: String,
        hwaddr: Option<String>,
        addrs: Vec<IpAddress> [2048],
    }

    /// Statistics of one guest.
    pub struct DomainStats { dom: Dom, params: Vec<TypedParam> [262_144] }

    /// One number about a guest's memory.
    pub struct MemoryStat { tag: i32, val: u64 }

    /// A job's type and statistics.
    pub struct JobStats { r#type: i32, params: Vec<TypedParam> [64] }

    /// A job's progress: milliseconds and bytes.
    pub struct JobInfo {
        r#type: i32,
        time_elapsed: u64,
        time_remaining: u64,
        data_total: u64,
        data_processed: u64,
        data_remaining: u64,
        mem_total: u64,
        mem_processed: u64,
        mem_remaining: u64,
        file_total: u64,
        file_processed: u64,
        file_remaining: u64,
    }

    /// What the source of a migration begins with.
    pub struct MigrateBegin { cookie_out: Vec<u8> [COOKIE_MAX], xml: String }

    /// Where the destination of a migration listens.
    pub struct MigratePrepare { cookie_out: Vec<u8> [COOKIE_MAX], uri_out: Option<String> }

    /// The guest as it runs at the destination.
    pub struct MigrateFinish { dom: Dom, cookie_out: Vec<u8> [COOKIE_MAX] }

    /// One end of a graphics connection.
    pub struct GraphicsAddress { family: i32, node: String, service: String }

    /// Who a graphics client says it is.
    pub struct GraphicsIdentity { r#type: String, name: String }
}

impl TypedParam {
    /// A parameter of that name.
    pub fn new(field: impl Into<String>, value: impl Into<TypedValue>) -> TypedParam {
        TypedParam {
            field: field.into(),
            value: value.into(),
        }
    }
}

/// The value of a [`TypedParam`].
#[derive(Debug, Clone, PartialEq)]
pub enum TypedValue {
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
    Text(String),
}

macro_rules! typed_values {
    ($( $number:literal $variant:ident $t:ty ),*) => {
        impl Xdr for TypedValue {
            const MIN: usize = 8;

            fn encode(&self, w: &mut Writer) {
                match self {
                    $( TypedValue::$variant(value) => {
                        w.word($number);
                        value.encode(w);
                    } )*
                }
            }

            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(match i32::decode(r)? {
                    $( $number => TypedValue::$variant(Xdr::decode(r)?), )*
                    value => {
                        return Err(DecodeError::UnknownChoice {
                            what: "kind of typed parameter",
                            value,
                        });
                    }
                })
            }
        }

        $( impl From<$t> for TypedValue {
            fn from(value: $t) -> TypedValue {
                TypedValue::$variant(value)
            }
        } )*
    };
}
typed_values!(1 I32 i32, 2 U32 u32, 3 I64 i64, 4 U64 u64, 5 F64 f64, 6 Bool bool, 7 Text String);

impl From<&str> for TypedValue {
    fn from(value: &str) -> TypedValue {
        TypedValue::Text(value.to_owned())
    }
}

/// The answer to a `need_results` call: the items, or their number alone.
///
/// On the wire the number follows the items. A client crashes if the two disagree, so they can't.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing<T> {
    items: Vec<T>,
    count: u32,
}

impl<T> Listing<T> {
    /// All of the items, or how many they are, as the caller asked.
    pub fn new(items: Vec<T>, need_results: bool) -> Listing<T> {
        // More than any field admits does not leave the encoder, so this never cuts anything off.
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        Listing {
            items: if need_results { items } else { Vec::new() },
            count,
        }
    }

    /// The items; empty if only the number was asked for.
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// The items, by value.
    pub fn into_items(self) -> Vec<T> {
        self.items
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }
}

impl<T: Xdr> Bounded for Listing<T> {
    fn encode_max(&self, max: usize, w: &mut Writer) {
        self.items.encode_max(max, w);
        w.word(self.count);
    }

    fn decode_max(max: usize, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let items = Vec::<T>::decode_max(max, r)?;
        let count = r.word()?;
        let len = items.len();
        if len != 0 && u32::try_from(len) != Ok(count) {
            return Err(DecodeError::TooLong {
                count: count as usize,
                max: len,
            });
        }
        Ok(Listing { items, count })
    }
}

/// Text in a field of `N` C characters, each a four-byte unit on the wire, filled up with zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedChars<const N: usize>([u8; N]);

impl<const N: usize> FixedChars<N> {
    /// As much of `text` as fits beside the closing NUL.
    pub fn new(text: &str) -> FixedChars<N> {
        let mut chars = [0; N];
        let len = text.floor_char_boundary(N.saturating_sub(1));
        chars[..len].copy_from_slice(&text.as_bytes()[..len]);
        FixedChars(chars)
    }

    /// The text before the first NUL.
    pub fn text(&self) -> String {
        chars_to_text(&self.0)
    }
}

impl<const N: usize> Xdr for FixedChars<N> {
    const MIN: usize = 4 * N;

    fn encode(&self, w: &mut Writer) {
        for char in self.0 {
            put_char(char, w);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut chars = [0; N];
        for char in &mut chars {
            *char = get_char(r)?;
        }
        Ok(FixedChars(chars))
    }
}

/// Counted C characters, at most `MAX`, each a four-byte unit, with a closing NUL that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordChars<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> WordChars<MAX> {
    /// No characters at all, not even a NUL: "there is none".
    pub fn none() -> WordChars<MAX> {
        WordChars(Vec::new())
    }

    /// The text with its closing NUL.
    pub fn new(text: &str) -> WordChars<MAX> {
        let mut chars = text.as_bytes().to_owned();
        chars.push(0);
        WordChars(chars)
    }

    /// The text before the first NUL.
    pub fn text(&self) -> String {
        chars_to_text(&self.0)
    }
}

impl<const MAX: usize> Xdr for WordChars<MAX> {
    const MIN: usize = 4;

    fn encode(&self, w: &mut Writer) {
        w.count(self.0.len(), MAX);
        for char in &self.0 {
            put_char(*char, w);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.count(MAX, 4)?;
        (0..count)
            .map(|_| get_char(r))
            .collect::<Result<_, _>>()
            .map(WordChars)
    }
}

/// C's `char` is signed where libvirt runs, and is sent as an `int`.
fn put_char(char: u8, w: &mut Writer) {
    i32::from(char.cast_signed()).encode(w);
}

fn get_char(r: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let value = i32::decode(r)?;
    i8::try_from(value)
        .map(i8::cast_unsigned)
        .map_err(|_| DecodeError::UnknownChoice {
            what: "character",
            value,
        })
}

fn chars_to_text(chars: &[u8]) -> String {
    let text = chars.split(|char| *char == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_counts_what_it_holds() {
        let listing = Listing::new(vec![1, 2, 3], true);
        assert_eq!((listing.items().len(), listing.count()), (3, 3));
        let listing = Listing::new(vec![1, 2, 3], false);
        assert_eq!((listing.items().len(), listing.count()), (0, 3));
    }

    #[test]
    fn chars_keep_text_and_cut_at_whole_characters() {
        assert_eq!(FixedChars::<32>::new("x86_64").text(), "x86_64");
        assert_eq!(FixedChars::<4>::new("aéé").text(), "aé");
        assert_eq!(WordChars::<257>::new("none").text(), "none");
        assert_eq!(WordChars::<257>::none().text(), "");
    }
}
