//! libvirt's procedures that have no row in [`crate::table`]: nobody here can call them, and whoever
//! tries is told their names.

use crate::error::{Domain, Error};
use crate::procedure::Program;

macro_rules! names {
    ($( $program:ident $domain:ident { $( $number:literal $api:literal, )* } )*) => {
        /// The name of a procedure, and the part of the system that it is of.
        fn name(program: Program, number: i32) -> Option<(Domain, &'static str)> {
            match (program, number) {
                $( $( (Program::$program, $number) => Some((Domain::$domain, $api)), )* )*
                _ => None,
            }
        }

        #[cfg(test)]
        const ALL: &[(Program, i32, &str)] = &[ $( $( (Program::$program, $number, $api), )* )* ];
    };
}

/// The answer to a call of a procedure that has no row.
pub(crate) fn refusal(program: Program, number: i32) -> Error {
    match name(program, number) {
        Some((domain, api)) => Error::no_support(domain, api),
        None => Error::protocol(format!("unknown procedure: {number}")),
    }
}

names! {
    Main None {
        101 "virNodeGetCellsFreeMemory",
        102 "virNodeGetFreeMemory",
        158 "virConnectCompareCPU",
        162 "virConnectBaselineCPU",
        227 "virNodeGetCPUStats",
        228 "virNodeGetMemoryStats",
        250 "virNodeSuspendForDuration",
        288 "virNodeSetMemoryParameters",
        289 "virNodeGetMemoryParameters",
        340 "virNodeGetFreePages",
        347 "virNodeAllocPages",
        393 "virConnectCompareHypervisorCPU",
        394 "virConnectBaselineHypervisorCPU",
        395 "virNodeGetSEVInfo",
    }
    Main Domain {
        17 "virDomainGetMaxMemory",
        18 "virDomainGetMaxVcpus",
        26 "virDomainPinVcpu",
        30 "virDomainSetMaxMemory",
        31 "virDomainSetMemory",
        32 "virDomainSetVcpus",
        53 "virDomainCoreDump",
        54 "virDomainRestore",
        55 "virDomainSave",
        57 "virDomainGetSchedulerParameters",
        58 "virDomainSetSchedulerParameters",
        61 "virDomainMigratePrepare",
        62 "virDomainMigratePerform",
        63 "virDomainMigrateFinish",
        64 "virDomainBlockStats",
        103 "virDomainBlockPeek",
        104 "virDomainMemoryPeek",
        108 "virDomainMigratePrepare2",
        109 "virDomainMigrateFinish2",
        135 "virConnectDomainXMLFromNative",
        136 "virConnectDomainXMLToNative",
        148 "virDomainMigratePrepareTunnel",
        182 "virDomainManagedSave",
        184 "virDomainManagedSaveRemove",
        190 "virDomainHasCurrentSnapshot",
        192 "virDomainRevertToSnapshot",
        194 "virDomainGetBlockInfo",
        197 "virDomainSetMemoryParameters",
        198 "virDomainGetMemoryParameters",
        199 "virDomainSetVcpusFlags",
        202 "virDomainIsUpdated",
        204 "virDomainSetMemoryFlags",
        205 "virDomainSetBlkioParameters",
        206 "virDomainGetBlkioParameters",
        210 "virDomainInjectNMI",
        211 "virDomainScreenshot",
        219 "virDomainSetSchedulerParametersFlags",
        223 "virDomainGetSchedulerParametersFlags",
        225 "virDomainPinVcpuFlags",
        226 "virDomainSendKey",
        230 "virDomainGetVcpuPinInfo",
        232 "virDomainSaveFlags",
        233 "virDomainRestoreFlags",
        235 "virDomainSaveImageGetXMLDesc",
        236 "virDomainSaveImageDefineXML",
        237 "virDomainBlockJobAbort",
        238 "virDomainGetBlockJobInfo",
        239 "virDomainBlockJobSetSpeed",
        240 "virDomainBlockPull",
        249 "virDomainOpenGraphics",
        251 "virDomainBlockResize",
        252 "virDomainSetBlockIoTune",
        253 "virDomainGetBlockIoTune",
        254 "virDomainSetNumaParameters",
        255 "virDomainGetNumaParameters",
        261 "virDomainPMSuspendForDuration",
        262 "virDomainGetCPUStats",
        263 "virDomainGetDiskErrors",
        266 "virDomainBlockRebase",
        267 "virDomainPMWakeup",
        274 "virDomainListAllSnapshots",
        278 "virDomainGetSecurityLabelList",
        279 "virDomainPinEmulator",
        280 "virDomainGetEmulatorPinInfo",
        290 "virDomainBlockCommit",
        294 "virDomainFSTrim",
        295 "virDomainSendProcessSignal",
        296 "virDomainOpenChannel",
        299 "virDomainMigrateGetCompressionCache",
        300 "virDomainMigrateSetCompressionCache",
        308 "virDomainSetMemoryStatsPeriod",
        334 "virDomainCoreDumpWithFormat",
        335 "virDomainFSFreeze",
        336 "virDomainFSThaw",
        338 "virDomainSetTime",
        343 "virDomainOpenGraphicsFD",
        345 "virDomainBlockCopy",
        349 "virDomainGetFSInfo",
        351 "virDomainGetIOThreadInfo",
        352 "virDomainPinIOThread",
        355 "virDomainAddIOThread",
        356 "virDomainDelIOThread",
        357 "virDomainSetUserPassword",
        365 "virDomainGetPerfEvents",
        366 "virDomainSetPerfEvents",
        371 "virDomainGetGuestVcpus",
        372 "virDomainSetGuestVcpus",
        384 "virDomainSetVcpu",
        386 "virDomainSetBlockThreshold",
        388 "virDomainManagedSaveGetXMLDesc",
        389 "virDomainManagedSaveDefineXML",
        390 "virDomainSetLifecycleAction",
        396 "virDomainGetLaunchSecurityInfo",
        402 "virDomainSetIOThreadParams",
        413 "virDomainListAllCheckpoints",
        418 "virDomainGetGuestInfo",
        420 "virDomainAgentSetResponseTimeout",
        421 "virDomainBackupBegin",
        422 "virDomainBackupGetXMLDesc",
        424 "virDomainAuthorizedSSHKeysGet",
        425 "virDomainAuthorizedSSHKeysSet",
        427 "virDomainStartDirtyRateCalc",
        439 "virDomainSetLaunchSecurityState",
        440 "virDomainSaveParams",
        441 "virDomainRestoreParams",
        443 "virDomainFDAssociate",
        448 "virDomainGraphicsReload",
        451 "virDomainSetThrottleGroup",
        452 "virDomainDelThrottleGroup",
    }
    Main DomainSnapshot {
        185 "virDomainSnapshotCreateXML",
        186 "virDomainSnapshotGetXMLDesc",
        188 "virDomainSnapshotListNames",
        189 "virDomainSnapshotLookupByName",
        191 "virDomainSnapshotCurrent",
        193 "virDomainSnapshotDelete",
        244 "virDomainSnapshotGetParent",
        246 "virDomainSnapshotNumChildren",
        247 "virDomainSnapshotListChildrenNames",
        271 "virDomainSnapshotIsCurrent",
        272 "virDomainSnapshotHasMetadata",
        275 "virDomainSnapshotListAllChildren",
    }
    Main DomainCheckpoint {
        411 "virDomainCheckpointCreateXML",
        412 "virDomainCheckpointGetXMLDesc",
        414 "virDomainCheckpointListAllChildren",
        415 "virDomainCheckpointLookupByName",
        416 "virDomainCheckpointGetParent",
        417 "virDomainCheckpointDelete",
    }
    Main Interface {
        131 "virInterfaceDefineXML",
        132 "virInterfaceUndefine",
        133 "virInterfaceCreate",
        134 "virInterfaceDestroy",
        220 "virInterfaceChangeBegin",
        221 "virInterfaceChangeCommit",
        222 "virInterfaceChangeRollback",
    }
    Main NodeDevice {
        297 "virNodeDeviceLookupSCSIHostByWWN",
        428 "virNodeDeviceDefineXML",
        429 "virNodeDeviceUndefine",
        430 "virNodeDeviceCreate",
        447 "virNodeDeviceUpdate",
    }
    Main Nwfilter {
        175 "virNWFilterLookupByName",
        176 "virNWFilterLookupByUUID",
        177 "virNWFilterGetXMLDesc",
        178 "virConnectNumOfNWFilters",
        179 "virConnectListNWFilters",
        180 "virNWFilterDefineXML",
        181 "virNWFilterUndefine",
        286 "virConnectListAllNWFilters",
        397 "virNWFilterBindingLookupByPortDev",
        398 "virNWFilterBindingGetXMLDesc",
        399 "virNWFilterBindingCreateXML",
        400 "virNWFilterBindingDelete",
        401 "virConnectListAllNWFilterBindings",
        431 "virNWFilterDefineXMLFlags",
    }
    Main Secret {
        139 "virConnectNumOfSecrets",
        140 "virConnectListSecrets",
        141 "virSecretLookupByUUID",
        142 "virSecretDefineXML",
        143 "virSecretGetXMLDesc",
        144 "virSecretSetValue",
        145 "virSecretGetValue",
        146 "virSecretUndefine",
        147 "virSecretLookupByUsage",
        287 "virConnectListAllSecrets",
        380 "virConnectSecretEventRegisterAny",
        381 "virConnectSecretEventDeregisterAny",
    }
    Main Storage {
        71 "virConnectNumOfStoragePools",
        72 "virConnectListStoragePools",
        73 "virConnectNumOfDefinedStoragePools",
        74 "virConnectListDefinedStoragePools",
        75 "virConnectFindStoragePoolSources",
        76 "virStoragePoolCreateXML",
        77 "virStoragePoolDefineXML",
        78 "virStoragePoolCreate",
        79 "virStoragePoolBuild",
        80 "virStoragePoolDestroy",
        81 "virStoragePoolDelete",
        82 "virStoragePoolUndefine",
        83 "virStoragePoolRefresh",
        84 "virStoragePoolLookupByName",
        85 "virStoragePoolLookupByUUID",
        86 "virStoragePoolLookupByVolume",
        87 "virStoragePoolGetInfo",
        88 "virStoragePoolGetXMLDesc",
        89 "virStoragePoolGetAutostart",
        90 "virStoragePoolSetAutostart",
        91 "virStoragePoolNumOfVolumes",
        92 "virStoragePoolListVolumes",
        93 "virStorageVolCreateXML",
        94 "virStorageVolDelete",
        95 "virStorageVolLookupByName",
        96 "virStorageVolLookupByKey",
        97 "virStorageVolLookupByPath",
        98 "virStorageVolGetInfo",
        99 "virStorageVolGetXMLDesc",
        100 "virStorageVolGetPath",
        125 "virStorageVolCreateXMLFrom",
        154 "virStoragePoolIsActive",
        155 "virStoragePoolIsPersistent",
        165 "virStorageVolWipe",
        208 "virStorageVolUpload",
        209 "virStorageVolDownload",
        259 "virStorageVolWipePattern",
        260 "virStorageVolResize",
        281 "virConnectListAllStoragePools",
        282 "virStoragePoolListAllVolumes",
        368 "virConnectStoragePoolEventRegisterAny",
        369 "virConnectStoragePoolEventDeregisterAny",
        378 "virStorageVolGetInfoFlags",
        391 "virStoragePoolLookupByTargetPath",
        403 "virConnectGetStoragePoolCapabilities",
    }
    Qemu Domain {
        2 "virDomainQemuAttach",
        3 "virDomainQemuAgentCommand",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Request;

    #[test]
    fn no_procedure_is_both_here_and_in_the_table() {
        let mut seen = HashSet::new();
        for (program, number, api) in ALL {
            assert_eq!(Request::lookup(*program, *number), None, "{api}");
            assert!(seen.insert((*program, *number)), "{api}");
        }
    }

    #[test]
    fn a_procedure_without_a_row_is_refused_by_name() {
        let refused = |program, number| refusal(program, number).to_string();
        let prefix = "this function is not supported by the connection driver: ";
        assert_eq!(
            refused(Program::Main, 62),
            format!("{prefix}virDomainMigratePerform")
        );
        assert_eq!(
            refused(Program::Qemu, 3),
            format!("{prefix}virDomainQemuAgentCommand")
        );
        // An event, and one that nobody has.
        assert_eq!(refused(Program::Main, 318), "unknown procedure: 318");
        assert_eq!(refused(Program::Virtnic, 62), "unknown procedure: 62");
    }
}
