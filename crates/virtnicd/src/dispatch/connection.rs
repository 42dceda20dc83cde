//! Calls about the connection and the host.

use host::NodeInfo;
use rpc::{
    Code, ConnectOpen, CpuMap, Domain, Error, FixedChars, NodeGetCpuMap, SecurityModel, WordChars,
};

use crate::fault::Result;

/// The level of libvirt's API that is spoken here: 11.3.0. Tools choose their calls by it.
pub(super) const API_VERSION: u64 = 11_003_000;
/// What QEMU's ordinary machines take.
pub(super) const MAX_VCPUS: i32 = 255;
/// Where clients are who named nothing.
pub(super) const DEFAULT_URI: &str = "qemu:///system";

/// Opens the connection, if it is one that is served here.
pub(super) fn open(args: &ConnectOpen) -> Result<()> {
    let name = args.name.as_deref().unwrap_or_default();
    let without_query = name.split_once('?').map_or(name, |(uri, _)| uri);
    match without_query {
        ""
        | "qemu:///system"
        | "qemu:///session"
        | "network:///system"
        | "nodedev:///system"
        | "interface:///system" => Ok(()),
        _ => Err(Error::new(Code::NoConnect, Domain::None, name)),
    }
}

/// Whether one of the protocol's optional features can be used.
pub(super) fn supports(feature: i32) -> bool {
    const TYPED_STRINGS: i32 = 9;
    const KEEPALIVE: i32 = 10;
    const MIGRATABLE_XML: i32 = 11;
    const PEER_TO_PEER: i32 = 4;
    const CHANGE_PROTECTION: i32 = 7;
    const OFFLINE_MIGRATION: i32 = 12;
    const MIGRATION_PARAMS: i32 = 13;
    const EVENT_CALLBACKS: i32 = 14;
    const CLOSE_CALLBACK: i32 = 15;
    const UPDATE_ORDER: i32 = 16;
    matches!(
        feature,
        TYPED_STRINGS
            | PEER_TO_PEER
            | CHANGE_PROTECTION
            | OFFLINE_MIGRATION
            | MIGRATION_PARAMS
            | KEEPALIVE
            | MIGRATABLE_XML
            | EVENT_CALLBACKS
            | CLOSE_CALLBACK
            | UPDATE_ORDER
    )
}

pub(super) fn node_info(node: &NodeInfo) -> rpc::NodeInfo {
    let small = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    rpc::NodeInfo {
        model: FixedChars::new(&node.arch),
        memory: node.memory_kib,
        cpus: small(cpu_count(node)),
        mhz: small(node.mhz),
        nodes: i32::try_from(node.cells.len()).unwrap_or(i32::MAX),
        sockets: small(node.sockets),
        cores: small(node.cores),
        threads: small(node.threads),
    }
}

fn cpu_count(node: &NodeInfo) -> u32 {
    u32::try_from(node.cpu_count()).unwrap_or(u32::MAX)
}

/// All processors are online: one that is not is not counted.
pub(super) fn cpu_map(node: &NodeInfo, args: &NodeGetCpuMap) -> CpuMap {
    let count = cpu_count(node);
    let mut map = vec![0u8; (count as usize).div_ceil(8)];
    for cpu in 0..count as usize {
        map[cpu / 8] |= 1 << (cpu % 8);
    }
    CpuMap {
        cpumap: if args.need_map { map } else { Vec::new() },
        online: if args.need_online { count } else { 0 },
        ret: i32::try_from(count).unwrap_or(i32::MAX),
    }
}

/// Guests are kept apart by user and descriptors, without labels.
pub(super) fn no_security_model() -> SecurityModel {
    SecurityModel {
        model: WordChars::none(),
        doi: WordChars::none(),
    }
}
