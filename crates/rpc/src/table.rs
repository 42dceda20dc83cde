//! The table of procedures.
//!
//! `any` may be called by read-only clients, `rw` may not; `quick`, `slow` and `urgent` are a call's
//! [`Pace`](crate::Pace). What goes beyond a word of the row (some flags of some calls are refused to
//! read-only clients) is in [`crate::server`].
#![allow(
    missing_docs,
    reason = "arguments are named and described by libvirt's API reference"
)]

use uuid::Uuid;

use crate::flags;
use crate::procedure::procedures;
use crate::types::*;
use crate::virtnic::{
    DIFFERENCES_MAX, DaemonStatus, Difference, DrainReport, LENT_MAX, Lent, NICS_MAX,
    NetworkReport, Nic, Obstacle, PLANNED_MAX, PlanOf, PlanReport,
};

/// The maximum of a list of DHCP leases.
const LEASE_MAX: usize = 65_536;

procedures! {
    // Connection / host
    Main None {
        66 AuthList "virAuthList" any quick {} -> Vec<i32> [20];
        70 AuthPolkit "virAuthPolkit" any quick {} -> bool;
        60 ConnectSupportsFeature "virConnectSupportsFeature" any quick { feature: i32 } -> bool;
        1 ConnectOpen "virConnectOpen" any quick { name: Option<String>, flags: flags::Open } -> ();
        110 ConnectGetUri "virConnectGetURI" any quick {} -> String;
        360 ConnectRegisterCloseCallback "virConnectRegisterCloseCallback" any quick {} -> ();
        361 ConnectUnregisterCloseCallback "virConnectUnregisterCloseCallback" any quick {} -> ();
        2 ConnectClose "virConnectClose" any quick {} -> ();
        149 ConnectIsSecure "virConnectIsSecure" any quick {} -> bool;
        3 ConnectGetType "virConnectGetType" any quick {} -> String;
        4 ConnectGetVersion "virConnectGetVersion" any slow {} -> u64;
        157 ConnectGetLibVersion "virConnectGetLibVersion" any quick {} -> u64;
        59 ConnectGetHostname "virConnectGetHostname" any quick {} -> String;
        7 ConnectGetCapabilities "virConnectGetCapabilities" any slow {} -> String;
        6 NodeGetInfo "virNodeGetInfo" any quick {} -> NodeInfo;
        5 ConnectGetMaxVcpus "virConnectGetMaxVcpus" any quick { r#type: Option<String> } -> i32;
        342 ConnectGetDomainCapabilities "virConnectGetDomainCapabilities" rw slow
            {
                emulatorbin: Option<String>, arch: Option<String>, machine: Option<String>,
                virttype: Option<String>, flags: flags::DomainCapabilities
            } -> String;
        203 ConnectGetSysinfo "virConnectGetSysinfo" any quick { flags: flags::NoFlags } -> String;
        122 NodeGetSecurityModel "virNodeGetSecurityModel" any quick {} -> SecurityModel;
        293 NodeGetCpuMap "virNodeGetCPUMap" any quick
            { need_map: bool, need_online: bool, flags: flags::NoFlags } -> CpuMap;
        312 ConnectGetCpuModelNames "virConnectGetCPUModelNames" any quick
            { arch: String, need_results: bool, flags: flags::NoFlags } -> Listing<String> [8192];
        419 ConnectSetIdentity "virConnectSetIdentity" any quick
            { params: Vec<TypedParam> [20], flags: flags::NoFlags } -> ();
    }

    // Networks
    Main Network {
        283 ConnectListAllNetworks "virConnectListAllNetworks" any quick
            { need_results: bool, flags: flags::ListNetworks } -> Listing<Net> [LIST_MAX];
        46 NetworkLookupByName "virNetworkLookupByName" any quick { name: String } -> Net;
        47 NetworkLookupByUuid "virNetworkLookupByUUID" any quick { uuid: Uuid } -> Net;
        40 NetworkCreateXml "virNetworkCreateXML" rw slow { xml: String } -> Net;
        437 NetworkCreateXmlFlags "virNetworkCreateXMLFlags" rw slow
            { xml: String, flags: flags::TakeXml } -> Net;
        41 NetworkDefineXml "virNetworkDefineXML" rw slow { xml: String } -> Net;
        432 NetworkDefineXmlFlags "virNetworkDefineXMLFlags" rw slow
            { xml: String, flags: flags::TakeXml } -> Net;
        39 NetworkCreate "virNetworkCreate" rw slow { net: Net } -> ();
        42 NetworkDestroy "virNetworkDestroy" rw slow { net: Net } -> ();
        49 NetworkUndefine "virNetworkUndefine" rw slow { net: Net } -> ();
        43 NetworkGetXmlDesc "virNetworkGetXMLDesc" any quick { net: Net, flags: flags::ShowXml } -> String;
        44 NetworkGetAutostart "virNetworkGetAutostart" any quick { net: Net } -> bool;
        48 NetworkSetAutostart "virNetworkSetAutostart" rw slow { net: Net, autostart: bool } -> ();
        45 NetworkGetBridgeName "virNetworkGetBridgeName" any quick { net: Net } -> String;
        152 NetworkIsActive "virNetworkIsActive" any quick { net: Net } -> bool;
        153 NetworkIsPersistent "virNetworkIsPersistent" any quick { net: Net } -> bool;
        291 NetworkUpdate "virNetworkUpdate" rw slow
            {
                net: Net, command: u32, section: u32, parent_index: i32, xml: String, flags: flags::Affect
            } -> ();
        341 NetworkGetDhcpLeases "virNetworkGetDHCPLeases" any quick
            {
                net: Net, mac: Option<String>, need_results: bool, flags: flags::NoFlags
            } -> Listing<DhcpLease> [LEASE_MAX];
        445 NetworkGetMetadata "virNetworkGetMetadata" any quick
            { network: Net, r#type: i32, uri: Option<String>, flags: flags::Affect } -> String;
        444 NetworkSetMetadata "virNetworkSetMetadata" rw slow
            {
                network: Net, r#type: i32, metadata: Option<String>, key: Option<String>,
                uri: Option<String>, flags: flags::Affect
            } -> ();
        404 NetworkListAllPorts "virNetworkListAllPorts" any quick
            { network: Net, need_results: bool, flags: flags::NoFlags } -> Listing<Port> [LIST_MAX];
        405 NetworkPortLookupByUuid "virNetworkPortLookupByUUID" any quick
            { network: Net, uuid: Uuid } -> Port;
        406 NetworkPortCreateXml "virNetworkPortCreateXML" rw quick
            { network: Net, xml: String, flags: flags::CreatePort } -> Port;
        409 NetworkPortGetXmlDesc "virNetworkPortGetXMLDesc" any quick
            { port: Port, flags: flags::NoFlags } -> String;
        410 NetworkPortDelete "virNetworkPortDelete" rw quick { port: Port, flags: flags::NoFlags } -> ();
        407 NetworkPortGetParameters "virNetworkPortGetParameters" any quick
            { port: Port, nparams: i32, flags: flags::TypedParams } -> Params;
        408 NetworkPortSetParameters "virNetworkPortSetParameters" rw slow
            { port: Port, params: Vec<TypedParam> [16], flags: flags::TypedParams } -> ();
        313 ConnectNetworkEventRegisterAny "virConnectNetworkEventRegisterAny" any quick
            { event_id: i32, net: Option<Net> } -> i32;
        314 ConnectNetworkEventDeregisterAny "virConnectNetworkEventDeregisterAny" any quick
            { callback_id: i32 } -> ();
        52 ConnectNumOfNetworks "virConnectNumOfNetworks" any quick {} -> i32;
        38 ConnectListNetworks "virConnectListNetworks" any quick
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
        50 ConnectNumOfDefinedNetworks "virConnectNumOfDefinedNetworks" any quick {} -> i32;
        36 ConnectListDefinedNetworks "virConnectListDefinedNetworks" any quick
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
    }

    // Interfaces (host)
    Main Interface {
        284 ConnectListAllInterfaces "virConnectListAllInterfaces" any slow
            { need_results: bool, flags: flags::ListInterfaces } -> Listing<Iface> [LIST_MAX];
        128 InterfaceLookupByName "virInterfaceLookupByName" any slow { name: String } -> Iface;
        129 InterfaceLookupByMacString "virInterfaceLookupByMACString" any slow
            { mac: String } -> Iface;
        130 InterfaceGetXmlDesc "virInterfaceGetXMLDesc" any slow
            { iface: Iface, flags: flags::ShowXml } -> String;
        156 InterfaceIsActive "virInterfaceIsActive" any slow { iface: Iface } -> bool;
        126 ConnectNumOfInterfaces "virConnectNumOfInterfaces" any slow {} -> i32;
        127 ConnectListInterfaces "virConnectListInterfaces" any slow
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
        137 ConnectNumOfDefinedInterfaces "virConnectNumOfDefinedInterfaces" any slow {} -> i32;
        138 ConnectListDefinedInterfaces "virConnectListDefinedInterfaces" any slow
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
    }

    // Node devices
    Main NodeDevice {
        285 ConnectListAllNodeDevices "virConnectListAllNodeDevices" any slow
            { need_results: bool, flags: flags::ListNodeDevices } -> Listing<NodeDev> [NODE_DEVICE_LIST_MAX];
        113 NodeDeviceLookupByName "virNodeDeviceLookupByName" any slow { name: String } -> NodeDev;
        114 NodeDeviceGetXmlDesc "virNodeDeviceGetXMLDesc" any slow
            { name: String, flags: flags::ShowXml } -> String;
        115 NodeDeviceGetParent "virNodeDeviceGetParent" any slow { name: String } -> Option<String>;
        116 NodeDeviceNumOfCaps "virNodeDeviceNumOfCaps" any slow { name: String } -> i32;
        117 NodeDeviceListCaps "virNodeDeviceListCaps" any slow
            { name: String, maxnames: i32 } -> Vec<String> [NODE_DEVICE_LIST_MAX];
        118 NodeDeviceDettach "virNodeDeviceDettach" rw slow { name: String } -> ();
        301 NodeDeviceDetachFlags "virNodeDeviceDetachFlags" rw slow
            { name: String, driver_name: Option<String>, flags: flags::NoFlags } -> ();
        119 NodeDeviceReAttach "virNodeDeviceReAttach" rw slow { name: String } -> ();
        120 NodeDeviceReset "virNodeDeviceReset" rw slow { name: String } -> ();
        436 NodeDeviceIsActive "virNodeDeviceIsActive" any slow { name: String } -> bool;
        435 NodeDeviceIsPersistent "virNodeDeviceIsPersistent" any slow { name: String } -> bool;
        433 NodeDeviceGetAutostart "virNodeDeviceGetAutostart" any slow { name: String } -> bool;
        434 NodeDeviceSetAutostart "virNodeDeviceSetAutostart" rw slow
            { name: String, autostart: bool } -> ();
        374 ConnectNodeDeviceEventRegisterAny "virConnectNodeDeviceEventRegisterAny" any quick
            { event_id: i32, dev: Option<NodeDev> } -> i32;
        375 ConnectNodeDeviceEventDeregisterAny "virConnectNodeDeviceEventDeregisterAny" any quick
            { callback_id: i32 } -> ();
        123 NodeDeviceCreateXml "virNodeDeviceCreateXML" rw slow
            { xml_desc: String, flags: flags::TakeXml } -> NodeDev;
        124 NodeDeviceDestroy "virNodeDeviceDestroy" rw slow { name: String } -> ();
        111 NodeNumOfDevices "virNodeNumOfDevices" any slow
            { cap: Option<String>, flags: flags::NoFlags } -> i32;
        112 NodeListDevices "virNodeListDevices" any slow
            {
                cap: Option<String>, maxnames: i32, flags: flags::NoFlags
            } -> Vec<String> [NODE_DEVICE_LIST_MAX];
    }

    // Domain lookup, lifecycle, info
    Main Domain {
        273 ConnectListAllDomains "virConnectListAllDomains" any quick
            { need_results: bool, flags: flags::ListDomains } -> Listing<Dom> [LIST_MAX];
        22 DomainLookupById "virDomainLookupByID" any quick { id: i32 } -> Dom;
        23 DomainLookupByName "virDomainLookupByName" any quick { name: String } -> Dom;
        24 DomainLookupByUuid "virDomainLookupByUUID" any quick { uuid: Uuid } -> Dom;
        11 DomainDefineXml "virDomainDefineXML" rw slow { xml: String } -> Dom;
        350 DomainDefineXmlFlags "virDomainDefineXMLFlags" rw slow { xml: String, flags: flags::TakeXml } -> Dom;
        10 DomainCreateXml "virDomainCreateXML" rw slow { xml_desc: String, flags: flags::CreateDomain } -> Dom;
        309 DomainCreateXmlWithFiles "virDomainCreateXMLWithFiles" rw slow
            { xml_desc: String, flags: flags::CreateDomain } -> Dom;
        9 DomainCreate "virDomainCreate" rw slow { dom: Dom } -> ();
        196 DomainCreateWithFlags "virDomainCreateWithFlags" rw slow { dom: Dom, flags: flags::StartDomain } -> Dom;
        310 DomainCreateWithFiles "virDomainCreateWithFiles" rw slow { dom: Dom, flags: flags::StartDomain } -> Dom;
        12 DomainDestroy "virDomainDestroy" rw urgent { dom: Dom } -> ();
        234 DomainDestroyFlags "virDomainDestroyFlags" rw urgent { dom: Dom, flags: flags::DestroyDomain } -> ();
        33 DomainShutdown "virDomainShutdown" rw slow { dom: Dom } -> ();
        258 DomainShutdownFlags "virDomainShutdownFlags" rw slow { dom: Dom, flags: flags::ShutDownDomain } -> ();
        27 DomainReboot "virDomainReboot" rw slow { dom: Dom, flags: flags::ShutDownDomain } -> ();
        245 DomainReset "virDomainReset" rw slow { dom: Dom, flags: flags::NoFlags } -> ();
        28 DomainResume "virDomainResume" rw slow { dom: Dom } -> ();
        34 DomainSuspend "virDomainSuspend" rw slow { dom: Dom } -> ();
        231 DomainUndefineFlags "virDomainUndefineFlags" rw slow { dom: Dom, flags: flags::UndefineDomain } -> ();
        35 DomainUndefine "virDomainUndefine" rw slow { dom: Dom } -> ();
        150 DomainIsActive "virDomainIsActive" any quick { dom: Dom } -> bool;
        151 DomainIsPersistent "virDomainIsPersistent" any quick { dom: Dom } -> bool;
        183 DomainHasManagedSaveImage "virDomainHasManagedSaveImage" any quick
            { dom: Dom, flags: flags::NoFlags } -> bool;
        187 DomainSnapshotNum "virDomainSnapshotNum" any quick { dom: Dom, flags: flags::ListSnapshots } -> i32;
        15 DomainGetAutostart "virDomainGetAutostart" any quick { dom: Dom } -> bool;
        29 DomainSetAutostart "virDomainSetAutostart" rw slow { dom: Dom, autostart: bool } -> ();
        449 DomainGetAutostartOnce "virDomainGetAutostartOnce" any quick { dom: Dom } -> bool;
        450 DomainSetAutostartOnce "virDomainSetAutostartOnce" rw slow
            { dom: Dom, autostart: bool } -> ();
        14 DomainGetXmlDesc "virDomainGetXMLDesc" any quick { dom: Dom, flags: flags::DomainXml } -> String;
        16 DomainGetInfo "virDomainGetInfo" any quick { dom: Dom } -> DomainInfo;
        212 DomainGetState "virDomainGetState" any quick { dom: Dom, flags: flags::NoFlags } -> DomainState;
        19 DomainGetOsType "virDomainGetOSType" any quick { dom: Dom } -> String;
        121 DomainGetSecurityLabel "virDomainGetSecurityLabel" any quick { dom: Dom } -> SecurityLabel;
        426 DomainGetMessages "virDomainGetMessages" any quick
            { dom: Dom, flags: flags::DomainMessages } -> Vec<String> [2048];
        265 DomainGetMetadata "virDomainGetMetadata" any quick
            { dom: Dom, r#type: i32, uri: Option<String>, flags: flags::Affect } -> String;
        264 DomainSetMetadata "virDomainSetMetadata" rw slow
            {
                dom: Dom, r#type: i32, metadata: Option<String>, key: Option<String>,
                uri: Option<String>, flags: flags::Affect
            } -> ();
        20 DomainGetVcpus "virDomainGetVcpus" any quick
            { dom: Dom, maxinfo: i32, maplen: i32 } -> Vcpus;
        200 DomainGetVcpusFlags "virDomainGetVcpusFlags" any quick { dom: Dom, flags: flags::Vcpus } -> i32;
        229 DomainGetControlInfo "virDomainGetControlInfo" any quick
            { dom: Dom, flags: flags::NoFlags } -> ControlInfo;
        51 ConnectNumOfDomains "virConnectNumOfDomains" any quick {} -> i32;
        37 ConnectListDomains "virConnectListDomains" any quick { maxids: i32 } -> Vec<i32> [LIST_MAX];
        25 ConnectNumOfDefinedDomains "virConnectNumOfDefinedDomains" any quick {} -> i32;
        21 ConnectListDefinedDomains "virConnectListDefinedDomains" any quick
            { maxnames: i32 } -> Vec<String> [LIST_MAX];
        201 DomainOpenConsole "virDomainOpenConsole" rw slow
            { dom: Dom, dev_name: Option<String>, flags: flags::Console } -> ();
        56 DomainGetSchedulerType "virDomainGetSchedulerType" any quick { dom: Dom } -> SchedulerType;
        277 DomainGetHostname "virDomainGetHostname" rw slow { dom: Dom, flags: flags::Hostname } -> String;
        337 DomainGetTime "virDomainGetTime" rw slow { dom: Dom, flags: flags::NoFlags } -> GuestTime;
        358 DomainRename "virDomainRename" rw slow
            { dom: Dom, new_name: Option<String>, flags: flags::NoFlags } -> i32;
    }

    // Domain devices and statistics
    Main Domain {
        8 DomainAttachDevice "virDomainAttachDevice" rw slow { dom: Dom, xml: String } -> ();
        160 DomainAttachDeviceFlags "virDomainAttachDeviceFlags" rw slow
            { dom: Dom, xml: String, flags: flags::ModifyDevice } -> ();
        13 DomainDetachDevice "virDomainDetachDevice" rw slow { dom: Dom, xml: String } -> ();
        161 DomainDetachDeviceFlags "virDomainDetachDeviceFlags" rw slow
            { dom: Dom, xml: String, flags: flags::ModifyDevice } -> ();
        392 DomainDetachDeviceAlias "virDomainDetachDeviceAlias" rw slow
            { dom: Dom, alias: String, flags: flags::ModifyDevice } -> ();
        174 DomainUpdateDeviceFlags "virDomainUpdateDeviceFlags" rw slow
            { dom: Dom, xml: String, flags: flags::ModifyDevice } -> ();
        65 DomainInterfaceStats "virDomainInterfaceStats" any slow
            { dom: Dom, device: String } -> InterfaceStats;
        353 DomainInterfaceAddresses "virDomainInterfaceAddresses" any slow
            { dom: Dom, source: u32, flags: flags::NoFlags } -> Vec<InterfaceAddresses> [2048];
        344 ConnectGetAllDomainStats "virConnectGetAllDomainStats" any slow
            { doms: Vec<Dom> [LIST_MAX], stats: u32, flags: flags::DomainStats } -> Vec<DomainStats> [LIST_MAX];
        159 DomainMemoryStats "virDomainMemoryStats" any slow
            { dom: Dom, max_stats: u32, flags: flags::NoFlags } -> Vec<MemoryStat> [1024];
        257 DomainGetInterfaceParameters "virDomainGetInterfaceParameters" any quick
            { dom: Dom, device: String, nparams: i32, flags: flags::InterfaceParams } -> Params;
        256 DomainSetInterfaceParameters "virDomainSetInterfaceParameters" rw slow
            { dom: Dom, device: String, params: Vec<TypedParam> [16], flags: flags::InterfaceParams } -> ();
        243 DomainBlockStatsFlags "virDomainBlockStatsFlags" any slow
            { dom: Dom, path: String, nparams: i32, flags: flags::TypedParams } -> Params;
    }

    // Jobs and migration
    Main Domain {
        298 DomainGetJobStats "virDomainGetJobStats" any quick { dom: Dom, flags: flags::JobStats } -> JobStats;
        163 DomainGetJobInfo "virDomainGetJobInfo" any quick { dom: Dom } -> JobInfo;
        164 DomainAbortJob "virDomainAbortJob" rw urgent { dom: Dom } -> ();
        442 DomainAbortJobFlags "virDomainAbortJobFlags" rw urgent { dom: Dom, flags: flags::AbortJob } -> ();
        166 DomainMigrateSetMaxDowntime "virDomainMigrateSetMaxDowntime" rw slow
            { dom: Dom, downtime: u64, flags: flags::NoFlags } -> ();
        387 DomainMigrateGetMaxDowntime "virDomainMigrateGetMaxDowntime" any quick
            { dom: Dom, flags: flags::NoFlags } -> u64;
        207 DomainMigrateSetMaxSpeed "virDomainMigrateSetMaxSpeed" rw slow
            { dom: Dom, bandwidth: u64, flags: flags::NoFlags } -> ();
        242 DomainMigrateGetMaxSpeed "virDomainMigrateGetMaxSpeed" rw quick
            { dom: Dom, flags: flags::NoFlags } -> u64;
        302 DomainMigrateBegin3Params "virDomainMigrateBegin3Params" rw slow
            { dom: Dom, params: Vec<TypedParam> [64], flags: flags::MigrateParams } -> MigrateBegin;
        303 DomainMigratePrepare3Params "virDomainMigratePrepare3Params" rw step
            {
                params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX], flags: flags::MigrateParams
            } -> MigratePrepare;
        305 DomainMigratePerform3Params "virDomainMigratePerform3Params" rw moving
            {
                dom: Dom, dconnuri: Option<String>, params: Vec<TypedParam> [64],
                cookie_in: Vec<u8> [COOKIE_MAX], flags: flags::MigrateParams
            } -> Vec<u8> [COOKIE_MAX];
        306 DomainMigrateFinish3Params "virDomainMigrateFinish3Params" rw step
            {
                params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX], flags: flags::MigrateParams,
                cancelled: bool
            } -> MigrateFinish;
        307 DomainMigrateConfirm3Params "virDomainMigrateConfirm3Params" rw step
            {
                dom: Dom, params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX],
                flags: flags::MigrateParams, cancelled: bool
            } -> ();
        304 DomainMigratePrepareTunnel3Params "virDomainMigratePrepareTunnel3Params" rw step
            {
                params: Vec<TypedParam> [64], cookie_in: Vec<u8> [COOKIE_MAX], flags: flags::MigrateParams
            } -> Vec<u8> [COOKIE_MAX];
        213 DomainMigrateBegin3 "virDomainMigrateBegin3" rw slow
            {
                dom: Dom, xmlin: Option<String>, flags: flags::Migrate, dname: Option<String>,
                resource: u64
            } -> MigrateBegin;
        214 DomainMigratePrepare3 "virDomainMigratePrepare3" rw step
            {
                cookie_in: Vec<u8> [COOKIE_MAX], uri_in: Option<String>, flags: flags::Migrate,
                dname: Option<String>, resource: u64, dom_xml: String
            } -> MigratePrepare;
        215 DomainMigratePrepareTunnel3 "virDomainMigratePrepareTunnel3" rw step
            {
                cookie_in: Vec<u8> [COOKIE_MAX], flags: flags::Migrate, dname: Option<String>,
                resource: u64, dom_xml: String
            } -> Vec<u8> [COOKIE_MAX];
        216 DomainMigratePerform3 "virDomainMigratePerform3" rw moving
            {
                dom: Dom, xmlin: Option<String>, cookie_in: Vec<u8> [COOKIE_MAX],
                dconnuri: Option<String>, uri: Option<String>, flags: flags::Migrate, dname: Option<String>,
                resource: u64
            } -> Vec<u8> [COOKIE_MAX];
        217 DomainMigrateFinish3 "virDomainMigrateFinish3" rw step
            {
                dname: String, cookie_in: Vec<u8> [COOKIE_MAX], dconnuri: Option<String>,
                uri: Option<String>, flags: flags::Migrate, cancelled: bool
            } -> MigrateFinish;
        218 DomainMigrateConfirm3 "virDomainMigrateConfirm3" rw step
            { dom: Dom, cookie_in: Vec<u8> [COOKIE_MAX], flags: flags::Migrate, cancelled: bool } -> ();
        364 DomainMigrateStartPostCopy "virDomainMigrateStartPostCopy" rw slow
            { dom: Dom, flags: flags::NoFlags } -> ();
    }

    // Event subscription
    Main Domain {
        316 ConnectDomainEventCallbackRegisterAny "virConnectDomainEventRegisterAny" any quick
            { event_id: i32, dom: Option<Dom> } -> i32;
        317 ConnectDomainEventCallbackDeregisterAny "virConnectDomainEventDeregisterAny" any quick
            { callback_id: i32 } -> ();
        167 ConnectDomainEventRegisterAny "virConnectDomainEventRegisterAny" any quick
            { event_id: i32 } -> ();
        168 ConnectDomainEventDeregisterAny "virConnectDomainEventDeregisterAny" any quick
            { event_id: i32 } -> ();
        105 ConnectDomainEventRegister "virConnectDomainEventRegister" any quick {} -> i32;
        106 ConnectDomainEventDeregister "virConnectDomainEventDeregister" any quick {} -> i32;
    }

    // QEMU program 0x20008087
    Qemu Domain {
        1 QemuDomainMonitorCommand "virDomainQemuMonitorCommand" rw slow
            { dom: Dom, cmd: String, flags: flags::MonitorCommand } -> String;
        7 QemuDomainMonitorCommandWithFiles "virDomainQemuMonitorCommandWithFiles" rw slow
            { dom: Dom, cmd: String, flags: flags::MonitorCommand } -> String;
        4 QemuConnectDomainMonitorEventRegister "virConnectDomainQemuMonitorEventRegister" rw quick
            { dom: Option<Dom>, event: Option<String>, flags: flags::MonitorEvents } -> i32;
        5 QemuConnectDomainMonitorEventDeregister "virConnectDomainQemuMonitorEventDeregister" rw quick
            { callback_id: i32 } -> ();
    }

    // virtnic's own
    Virtnic None {
        1 VirtnicStatus "virtnicStatus" any quick {} -> DaemonStatus;
        2 VirtnicWho "virtnicWho" any slow
            { filter: Option<String>, counters: bool } -> Vec<Lent> [LENT_MAX];
        3 VirtnicPlan "virtnicPlan" any slow { of: PlanOf } -> PlanReport;
        4 VirtnicReconcile "virtnicReconcile" any slow
            { apply: bool } -> Vec<Difference> [DIFFERENCES_MAX];
        5 VirtnicNetwork "virtnicNetwork" any slow
            { name: Option<String> } -> Vec<NetworkReport> [NICS_MAX];
        6 VirtnicNics "virtnicNics" any slow {} -> Vec<Nic> [NICS_MAX];
        7 VirtnicPromote "virtnicPromote" rw slow
            { guest: String, mac: Option<String> } -> Vec<String> [PLANNED_MAX];
        8 VirtnicDemote "virtnicDemote" rw slow
            { guest: String, mac: Option<String> } -> Vec<String> [PLANNED_MAX];
        9 VirtnicDrain "virtnicDrain" rw slow { pf: String } -> DrainReport;
        10 VirtnicUndrain "virtnicUndrain" rw slow { pf: String } -> ();
        12 VirtnicMigrateCheck "virtnicMigrateCheck" rw slow
            { guest: String, destination: Option<String> } -> Vec<Obstacle> [PLANNED_MAX];
        11 VirtnicMigrateResolve "virtnicMigrateResolve" rw slow { guest: String, here: bool } -> ();
    }
}
