//! The table of procedures.
//!
//! `any` may be called by read-only clients, `rw` may not; `hi` never waits for a guest. What goes
//! beyond a flag of the row (some flags of some calls are refused to read-only clients) is in
//! [`crate::server`].
#![allow(
    missing_docs,
    reason = "arguments are named and described by libvirt's API reference"
)]

use uuid::Uuid;

use crate::procedure::procedures;
use crate::types::*;
use crate::virtnic::{
    DIFFERENCES_MAX, DaemonStatus, Difference, LENT_MAX, Lent, NICS_MAX, NetworkReport, Nic,
    PlanOf, PlanReport,
};

/// The maximum of a list of DHCP leases.
const LEASE_MAX: usize = 65_536;

procedures! {
    // Connection / host
    Main None {
        66 AuthList "virAuthList" any hi {} -> Vec<i32> [20];
        70 AuthPolkit "virAuthPolkit" any hi {} -> bool;
        60 ConnectSupportsFeature "virConnectSupportsFeature" any hi { feature: i32 } -> bool;
        1 ConnectOpen "virConnectOpen" any hi { name: Option<String>, flags: u32 } -> ();
        110 ConnectGetUri "virConnectGetURI" any hi {} -> String;
        360 ConnectRegisterCloseCallback "virConnectRegisterCloseCallback" any hi {} -> ();
        361 ConnectUnregisterCloseCallback "virConnectUnregisterCloseCallback" any hi {} -> ();
        2 ConnectClose "virConnectClose" any hi {} -> ();
        149 ConnectIsSecure "virConnectIsSecure" any hi {} -> bool;
        3 ConnectGetType "virConnectGetType" any hi {} -> String;
        4 ConnectGetVersion "virConnectGetVersion" any hi {} -> u64;
        157 ConnectGetLibVersion "virConnectGetLibVersion" any hi {} -> u64;
        59 ConnectGetHostname "virConnectGetHostname" any hi {} -> String;
        7 ConnectGetCapabilities "virConnectGetCapabilities" any lo {} -> String;
        6 NodeGetInfo "virNodeGetInfo" any hi {} -> NodeInfo;
        5 ConnectGetMaxVcpus "virConnectGetMaxVcpus" any hi { r#type: Option<String> } -> i32;
        342 ConnectGetDomainCapabilities "virConnectGetDomainCapabilities" rw lo
            {
                emulatorbin: Option<String>, arch: Option<String>, machine: Option<String>,
                virttype: Option<String>, flags: u32
            } -> String;
        203 ConnectGetSysinfo "virConnectGetSysinfo" any hi { flags: u32 } -> String;
        122 NodeGetSecurityModel "virNodeGetSecurityModel" any hi {} -> SecurityModel;
        293 NodeGetCpuMap "virNodeGetCPUMap" any lo
            { need_map: bool, need_online: bool, flags: u32 } -> CpuMap;
        312 ConnectGetCpuModelNames "virConnectGetCPUModelNames" any lo
            { arch: String, need_results: bool, flags: u32 } -> Listing<String> [8192];
        419 ConnectSetIdentity "virConnectSetIdentity" any lo
            { params: Vec<TypedParam> [20], flags: u32 } -> ();
    }

    // Networks
    Main Network {
        283 ConnectListAllNetworks "virConnectListAllNetworks" any hi
            { need_results: bool, flags: u32 } -> Listing<Net> [LIST_MAX];
        46 NetworkLookupByName "virNetworkLookupByName" any hi { name: String } -> Net;
        47 NetworkLookupByUuid "virNetworkLookupByUUID" any hi { uuid: Uuid } -> Net;
        40 NetworkCreateXml "virNetworkCreateXML" rw lo { xml: String } -> Net;
        437 NetworkCreateXmlFlags "virNetworkCreateXMLFlags" rw hi
            { xml: String, flags: u32 } -> Net;
        41 NetworkDefineXml "virNetworkDefineXML" rw hi { xml: String } -> Net;
        432 NetworkDefineXmlFlags "virNetworkDefineXMLFlags" rw hi
            { xml: String, flags: u32 } -> Net;
        39 NetworkCreate "virNetworkCreate" rw lo { net: Net } -> ();
        42 NetworkDestroy "virNetworkDestroy" rw hi { net: Net } -> ();
        49 NetworkUndefine "virNetworkUndefine" rw hi { net: Net } -> ();
        43 NetworkGetXmlDesc "virNetworkGetXMLDesc" any hi { net: Net, flags: u32 } -> String;
        44 NetworkGetAutostart "virNetworkGetAutostart" any hi { net: Net } -> bool;
        48 NetworkSetAutostart "virNetworkSetAutostart" rw hi { net: Net, autostart: bool } -> ();
        45 NetworkGetBridgeName "virNetworkGetBridgeName" any hi { net: Net } -> String;
        152 NetworkIsActive "virNetworkIsActive" any hi { net: Net } -> bool;
        153 NetworkIsPersistent "virNetworkIsPersistent" any hi { net: Net } -> bool;
        291 NetworkUpdate "virNetworkUpdate" rw hi
            {
                net: Net, command: u32, section: u32, parent_index: i32, xml: String, flags: u32
            } -> ();
        341 NetworkGetDhcpLeases "virNetworkGetDHCPLeases" any lo
            {
                net: Net, mac: Option<String>, need_results: bool, flags: u32
            } -> Listing<DhcpLease> [LEASE_MAX];
        445 NetworkGetMetadata "virNetworkGetMetadata" any lo
            { network: Net, r#type: i32, uri: Option<String>, flags: u32 } -> String;
        444 NetworkSetMetadata "virNetworkSetMetadata" rw lo
            {
                network: Net, r#type: i32, metadata: Option<String>, key: Option<String>,
                uri: Option<String>, flags: u32
            } -> ();
        404 NetworkListAllPorts "virNetworkListAllPorts" any hi
            { network: Net, need_results: bool, flags: u32 } -> Listing<Port> [LIST_MAX];
        405 NetworkPortLookupByUuid "virNetworkPortLookupByUUID" any hi
            { network: Net, uuid: Uuid } -> Port;
        406 NetworkPortCreateXml "virNetworkPortCreateXML" rw lo
            { network: Net, xml: String, flags: u32 } -> Port;
        409 NetworkPortGetXmlDesc "virNetworkPortGetXMLDesc" any lo
            { port: Port, flags: u32 } -> String;
        410 NetworkPortDelete "virNetworkPortDelete" rw lo { port: Port, flags: u32 } -> ();
        407 NetworkPortGetParameters "virNetworkPortGetParameters" any lo
            { port: Port, nparams: i32, flags: u32 } -> Params;
        408 NetworkPortSetParameters "virNetworkPortSetParameters" rw lo
            { port: Port, params: Vec<TypedParam> [16], flags: u32 } -> ();
        313 ConnectNetworkEventRegisterAny "virConnectNetworkEventRegisterAny" any hi
            { event_id: i32, net: Option<Net> } -> i32;
        314 ConnectNetworkEventDeregisterAny "virConnectNetworkEventDeregisterAny" any hi
            { callback_id: i32 } -> ();
        52 ConnectNumOfNetworks "virConnectNumOfNetworks" any hi {} -> i32;
        38 ConnectListNetworks "virConnectListNetworks" any hi
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
        50 ConnectNumOfDefinedNetworks "virConnectNumOfDefinedNetworks" any hi {} -> i32;
        36 ConnectListDefinedNetworks "virConnectListDefinedNetworks" any hi
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
    }

    // Interfaces (host)
    Main Interface {
        284 ConnectListAllInterfaces "virConnectListAllInterfaces" any hi
            { need_results: bool, flags: u32 } -> Listing<Iface> [LIST_MAX];
        128 InterfaceLookupByName "virInterfaceLookupByName" any hi { name: String } -> Iface;
        129 InterfaceLookupByMacString "virInterfaceLookupByMACString" any hi
            { mac: String } -> Iface;
        130 InterfaceGetXmlDesc "virInterfaceGetXMLDesc" any lo
            { iface: Iface, flags: u32 } -> String;
        156 InterfaceIsActive "virInterfaceIsActive" any hi { iface: Iface } -> bool;
        126 ConnectNumOfInterfaces "virConnectNumOfInterfaces" any hi {} -> i32;
        127 ConnectListInterfaces "virConnectListInterfaces" any hi
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
        137 ConnectNumOfDefinedInterfaces "virConnectNumOfDefinedInterfaces" any hi {} -> i32;
        138 ConnectListDefinedInterfaces "virConnectListDefinedInterfaces" any hi
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
    }

    // Node devices
    Main NodeDevice {
        285 ConnectListAllNodeDevices "virConnectListAllNodeDevices" any hi
            { need_results: bool, flags: u32 } -> Listing<NodeDev> [NODE_DEVICE_LIST_MAX];
        113 NodeDeviceLookupByName "virNodeDeviceLookupByName" any hi { name: String } -> NodeDev;
        114 NodeDeviceGetXmlDesc "virNodeDeviceGetXMLDesc" any lo
            { name: String, flags: u32 } -> String;
        115 NodeDeviceGetParent "virNodeDeviceGetParent" any hi { name: String } -> Option<String>;
        116 NodeDeviceNumOfCaps "virNodeDeviceNumOfCaps" any hi { name: String } -> i32;
        117 NodeDeviceListCaps "virNodeDeviceListCaps" any hi
            { name: String, maxnames: i32 } -> Vec<String> [NODE_DEVICE_LIST_MAX];
        118 NodeDeviceDettach "virNodeDeviceDettach" rw lo { name: String } -> ();
        301 NodeDeviceDetachFlags "virNodeDeviceDetachFlags" rw lo
            { name: String, driver_name: Option<String>, flags: u32 } -> ();
        119 NodeDeviceReAttach "virNodeDeviceReAttach" rw lo { name: String } -> ();
        120 NodeDeviceReset "virNodeDeviceReset" rw lo { name: String } -> ();
        436 NodeDeviceIsActive "virNodeDeviceIsActive" any hi { name: String } -> bool;
        435 NodeDeviceIsPersistent "virNodeDeviceIsPersistent" any hi { name: String } -> bool;
        433 NodeDeviceGetAutostart "virNodeDeviceGetAutostart" any hi { name: String } -> bool;
        434 NodeDeviceSetAutostart "virNodeDeviceSetAutostart" rw hi
            { name: String, autostart: bool } -> ();
        374 ConnectNodeDeviceEventRegisterAny "virConnectNodeDeviceEventRegisterAny" any hi
            { event_id: i32, dev: Option<NodeDev> } -> i32;
        375 ConnectNodeDeviceEventDeregisterAny "virConnectNodeDeviceEventDeregisterAny" any hi
            { callback_id: i32 } -> ();
        123 NodeDeviceCreateXml "virNodeDeviceCreateXML" rw lo
            { xml_desc: String, flags: u32 } -> NodeDev;
        124 NodeDeviceDestroy "virNodeDeviceDestroy" rw hi { name: String } -> ();
        111 NodeNumOfDevices "virNodeNumOfDevices" any hi
            { cap: Option<String>, flags: u32 } -> i32;
        112 NodeListDevices "virNodeListDevices" any hi
            {
                cap: Option<String>, maxnames: i32, flags: u32
            } -> Vec<String> [NODE_DEVICE_LIST_MAX];
    }

    // Domain lookup, lifecycle, info
    Main Domain {
        273 ConnectListAllDomains "virConnectListAllDomains" any hi
            { need_results: bool, flags: u32 } -> Listing<Dom> [LIST_MAX];
        22 DomainLookupById "virDomainLookupByID" any hi { id: i32 } -> Dom;
        23 DomainLookupByName "virDomainLookupByName" any hi { name: String } -> Dom;
        24 DomainLookupByUuid "virDomainLookupByUUID" any hi { uuid: Uuid } -> Dom;
        11 DomainDefineXml "virDomainDefineXML" rw hi { xml: String } -> Dom;
        350 DomainDefineXmlFlags "virDomainDefineXMLFlags" rw hi { xml: String, flags: u32 } -> Dom;
        10 DomainCreateXml "virDomainCreateXML" rw lo { xml_desc: String, flags: u32 } -> Dom;
        309 DomainCreateXmlWithFiles "virDomainCreateXMLWithFiles" rw lo
            { xml_desc: String, flags: u32 } -> Dom;
        9 DomainCreate "virDomainCreate" rw lo { dom: Dom } -> ();
        196 DomainCreateWithFlags "virDomainCreateWithFlags" rw lo { dom: Dom, flags: u32 } -> Dom;
        310 DomainCreateWithFiles "virDomainCreateWithFiles" rw lo { dom: Dom, flags: u32 } -> Dom;
        12 DomainDestroy "virDomainDestroy" rw hi { dom: Dom } -> ();
        234 DomainDestroyFlags "virDomainDestroyFlags" rw hi { dom: Dom, flags: u32 } -> ();
        33 DomainShutdown "virDomainShutdown" rw lo { dom: Dom } -> ();
        258 DomainShutdownFlags "virDomainShutdownFlags" rw lo { dom: Dom, flags: u32 } -> ();
        27 DomainReboot "virDomainReboot" rw lo { dom: Dom, flags: u32 } -> ();
        245 DomainReset "virDomainReset" rw lo { dom: Dom, flags: u32 } -> ();
        28 DomainResume "virDomainResume" rw lo { dom: Dom } -> ();
        34 DomainSuspend "virDomainSuspend" rw lo { dom: Dom } -> ();
        231 DomainUndefineFlags "virDomainUndefineFlags" rw hi { dom: Dom, flags: u32 } -> ();
        35 DomainUndefine "virDomainUndefine" rw hi { dom: Dom } -> ();
        150 DomainIsActive "virDomainIsActive" any hi { dom: Dom } -> bool;
        151 DomainIsPersistent "virDomainIsPersistent" any hi { dom: Dom } -> bool;
        183 DomainHasManagedSaveImage "virDomainHasManagedSaveImage" any lo
            { dom: Dom, flags: u32 } -> bool;
        187 DomainSnapshotNum "virDomainSnapshotNum" any hi { dom: Dom, flags: u32 } -> i32;
        15 DomainGetAutostart "virDomainGetAutostart" any hi { dom: Dom } -> bool;
        29 DomainSetAutostart "virDomainSetAutostart" rw hi { dom: Dom, autostart: bool } -> ();
        449 DomainGetAutostartOnce "virDomainGetAutostartOnce" any hi { dom: Dom } -> bool;
        450 DomainSetAutostartOnce "virDomainSetAutostartOnce" rw hi
            { dom: Dom, autostart: bool } -> ();
        14 DomainGetXmlDesc "virDomainGetXMLDesc" any lo { dom: Dom, flags: u32 } -> String;
        16 DomainGetInfo "virDomainGetInfo" any lo { dom: Dom } -> DomainInfo;
        212 DomainGetState "virDomainGetState" any hi { dom: Dom, flags: u32 } -> DomainState;
        19 DomainGetOsType "virDomainGetOSType" any hi { dom: Dom } -> String;
        121 DomainGetSecurityLabel "virDomainGetSecurityLabel" any hi { dom: Dom } -> SecurityLabel;
        426 DomainGetMessages "virDomainGetMessages" any lo
            { dom: Dom, flags: u32 } -> Vec<String> [2048];
        265 DomainGetMetadata "virDomainGetMetadata" any lo
            { dom: Dom, r#type: i32, uri: Option<String>, flags: u32 } -> String;
        264 DomainSetMetadata "virDomainSetMetadata" rw lo
            {
                dom: Dom, r#type: i32, metadata: Option<String>, key: Option<String>,
                uri: Option<String>, flags: u32
            } -> ();
        20 DomainGetVcpus "virDomainGetVcpus" any hi
            { dom: Dom, maxinfo: i32, maplen: i32 } -> Vcpus;
        200 DomainGetVcpusFlags "virDomainGetVcpusFlags" any lo { dom: Dom, flags: u32 } -> i32;
        229 DomainGetControlInfo "virDomainGetControlInfo" any hi
            { dom: Dom, flags: u32 } -> ControlInfo;
        51 ConnectNumOfDomains "virConnectNumOfDomains" any hi {} -> i32;
        37 ConnectListDomains "virConnectListDomains" any hi { maxids: i32 } -> Vec<i32> [LIST_MAX];
        25 ConnectNumOfDefinedDomains "virConnectNumOfDefinedDomains" any hi {} -> i32;
        21 ConnectListDefinedDomains "virConnectListDefinedDomains" any hi
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
        201 DomainOpenConsole "virDomainOpenConsole" rw lo
            { dom: Dom, dev_name: Option<String>, flags: u32 } -> ();
        56 DomainGetSchedulerType "virDomainGetSchedulerType" any lo { dom: Dom } -> SchedulerType;
        277 DomainGetHostname "virDomainGetHostname" rw lo { dom: Dom, flags: u32 } -> String;
        337 DomainGetTime "virDomainGetTime" rw lo { dom: Dom, flags: u32 } -> GuestTime;
        358 DomainRename "virDomainRename" rw lo
            { dom: Dom, new_name: Option<String>, flags: u32 } -> i32;
    }

    // Domain devices and statistics
    Main Domain {
        8 DomainAttachDevice "virDomainAttachDevice" rw lo { dom: Dom, xml: String } -> ();
        160 DomainAttachDeviceFlags "virDomainAttachDeviceFlags" rw lo
            { dom: Dom, xml: String, flags: u32 } -> ();
        13 DomainDetachDevice "virDomainDetachDevice" rw lo { dom: Dom, xml: String } -> ();
        161 DomainDetachDeviceFlags "virDomainDetachDeviceFlags" rw lo
            { dom: Dom, xml: String, flags: u32 } -> ();
        392 DomainDetachDeviceAlias "virDomainDetachDeviceAlias" rw lo
            { dom: Dom, alias: String, flags: u32 } -> ();
        174 DomainUpdateDeviceFlags "virDomainUpdateDeviceFlags" rw lo
            { dom: Dom, xml: String, flags: u32 } -> ();
        65 DomainInterfaceStats "virDomainInterfaceStats" any hi
            { dom: Dom, device: String } -> InterfaceStats;
        353 DomainInterfaceAddresses "virDomainInterfaceAddresses" any lo
            { dom: Dom, source: u32, flags: u32 } -> Vec<InterfaceAddresses> [2048];
        344 ConnectGetAllDomainStats "virConnectGetAllDomainStats" any lo
            { doms: Vec<Dom> [LIST_MAX], stats: u32, flags: u32 } -> Vec<DomainStats> [LIST_MAX];
        159 DomainMemoryStats "virDomainMemoryStats" any lo
            { dom: Dom, max_stats: u32, flags: u32 } -> Vec<MemoryStat> [1024];
        257 DomainGetInterfaceParameters "virDomainGetInterfaceParameters" any lo
            { dom: Dom, device: String, nparams: i32, flags: u32 } -> Params;
        256 DomainSetInterfaceParameters "virDomainSetInterfaceParameters" rw lo
            { dom: Dom, device: String, params: Vec<TypedParam> [16], flags: u32 } -> ();
        243 DomainBlockStatsFlags "virDomainBlockStatsFlags" any lo
            { dom: Dom, path: String, nparams: i32, flags: u32 } -> Params;
    }

    // Jobs and migration
    Main Domain {
        298 DomainGetJobStats "virDomainGetJobStats" any lo { dom: Dom, flags: u32 } -> JobStats;
        163 DomainGetJobInfo "virDomainGetJobInfo" any lo { dom: Dom } -> JobInfo;
        164 DomainAbortJob "virDomainAbortJob" rw hi { dom: Dom } -> ();
        442 DomainAbortJobFlags "virDomainAbortJobFlags" rw hi { dom: Dom, flags: u32 } -> ();
        166 DomainMigrateSetMaxDowntime "virDomainMigrateSetMaxDowntime" rw lo
            { dom: Dom, downtime: u64, flags: u32 } -> ();
        387 DomainMigrateGetMaxDowntime "virDomainMigrateGetMaxDowntime" any lo
            { dom: Dom, flags: u32 } -> u64;
        207 DomainMigrateSetMaxSpeed "virDomainMigrateSetMaxSpeed" rw lo
            { dom: Dom, bandwidth: u64, flags: u32 } -> ();
        242 DomainMigrateGetMaxSpeed "virDomainMigrateGetMaxSpeed" rw lo
            { dom: Dom, flags: u32 } -> u64;
        302 DomainMigrateBegin3Params "virDomainMigrateBegin3Params" rw lo
            { dom: Dom, params: Vec<TypedParam> [64], flags: u32 } -> MigrateBegin;
        303 DomainMigratePrepare3Params "virDomainMigratePrepare3Params" rw lo
            {
                params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX], flags: u32
            } -> MigratePrepare;
        305 DomainMigratePerform3Params "virDomainMigratePerform3Params" rw lo
            {
                dom: Dom, dconnuri: Option<String>, params: Vec<TypedParam> [64],
                cookie_in: Vec<u8> [COOKIE_MAX], flags: u32
            } -> Vec<u8> [COOKIE_MAX];
        306 DomainMigrateFinish3Params "virDomainMigrateFinish3Params" rw lo
            {
                params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX], flags: u32,
                cancelled: bool
            } -> MigrateFinish;
        307 DomainMigrateConfirm3Params "virDomainMigrateConfirm3Params" rw lo
            {
                dom: Dom, params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX],
                flags: u32, cancelled: bool
            } -> ();
        304 DomainMigratePrepareTunnel3Params "virDomainMigratePrepareTunnel3Params" rw lo
            {
                params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX], flags: u32
            } -> Vec<u8> [COOKIE_MAX];
        213 DomainMigrateBegin3 "virDomainMigrateBegin3" rw lo
            {
                dom: Dom, xmlin: Option<String>, flags: u64, dname: Option<String>,
                resource: u64
            } -> MigrateBegin;
        214 DomainMigratePrepare3 "virDomainMigratePrepare3" rw lo
            {
                cookie_in: Vec<u8> [COOKIE_MAX], uri_in: Option<String>, flags: u64,
                dname: Option<String>, resource: u64, dom_xml: String
            } -> MigratePrepare;
        215 DomainMigratePrepareTunnel3 "virDomainMigratePrepareTunnel3" rw lo
            {
                cookie_in: Vec<u8> [COOKIE_MAX], flags: u64, dname: Option<String>,
                resource: u64, dom_xml: String
            } -> Vec<u8> [COOKIE_MAX];
        216 DomainMigratePerform3 "virDomainMigratePerform3" rw lo
            {
                dom: Dom, xmlin: Option<String>, cookie_in: Vec<u8> [COOKIE_MAX],
                dconnuri: Option<String>, uri: Option<String>, flags: u64, dname: Option<String>,
                resource: u64
            } -> Vec<u8> [COOKIE_MAX];
        217 DomainMigrateFinish3 "virDomainMigrateFinish3" rw lo
            {
                dname: String, cookie_in: Vec<u8> [COOKIE_MAX], dconnuri: Option<String>,
                uri: Option<String>, flags: u64, cancelled: bool
            } -> MigrateFinish;
        218 DomainMigrateConfirm3 "virDomainMigrateConfirm3" rw lo
            { dom: Dom, cookie_in: Vec<u8> [COOKIE_MAX], flags: u64, cancelled: bool } -> ();
        364 DomainMigrateStartPostCopy "virDomainMigrateStartPostCopy" rw lo
            { dom: Dom, flags: u32 } -> ();
    }

    // Event subscription
    Main Domain {
        316 ConnectDomainEventCallbackRegisterAny "virConnectDomainEventRegisterAny" any hi
            { event_id: i32, dom: Option<Dom> } -> i32;
        317 ConnectDomainEventCallbackDeregisterAny "virConnectDomainEventDeregisterAny" any hi
            { callback_id: i32 } -> ();
        167 ConnectDomainEventRegisterAny "virConnectDomainEventRegisterAny" any hi
            { event_id: i32 } -> ();
        168 ConnectDomainEventDeregisterAny "virConnectDomainEventDeregisterAny" any hi
            { event_id: i32 } -> ();
        105 ConnectDomainEventRegister "virConnectDomainEventRegister" any hi {} -> i32;
        106 ConnectDomainEventDeregister "virConnectDomainEventDeregister" any hi {} -> i32;
    }

    // QEMU program 0x20008087
    Qemu Domain {
        1 QemuDomainMonitorCommand "virDomainQemuMonitorCommand" rw lo
            { dom: Dom, cmd: String, flags: u32 } -> String;
        7 QemuDomainMonitorCommandWithFiles "virDomainQemuMonitorCommandWithFiles" rw lo
            { dom: Dom, cmd: String, flags: u32 } -> String;
        4 QemuConnectDomainMonitorEventRegister "virConnectDomainQemuMonitorEventRegister" rw hi
            { dom: Option<Dom>, event: Option<String>, flags: u32 } -> i32;
        5 QemuConnectDomainMonitorEventDeregister "virConnectDomainQemuMonitorEventDeregister" rw hi
            { callback_id: i32 } -> ();
    }

    // virtnic's own
    Virtnic None {
        1 VirtnicStatus "virtnicStatus" any hi {} -> DaemonStatus;
        2 VirtnicWho "virtnicWho" any hi
            { filter: Option<String>, counters: bool } -> Vec<Lent> [LENT_MAX];
        3 VirtnicPlan "virtnicPlan" any lo { of: PlanOf } -> PlanReport;
        4 VirtnicReconcile "virtnicReconcile" any lo
            { apply: bool } -> Vec<Difference> [DIFFERENCES_MAX];
        5 VirtnicNetwork "virtnicNetwork" any hi
            { name: Option<String> } -> Vec<NetworkReport> [NICS_MAX];
        6 VirtnicNics "virtnicNics" any hi {} -> Vec<Nic> [NICS_MAX];
    }
}
