//! The flags of calls, a type for each set. The names and numbers are libvirt's.
//!
//! A set knows the flags that libvirt 11.3 gives a meaning for its calls. What else a client sends
//! is kept, and told by [`Request::check_flags`](crate::Request::check_flags): what nobody
//! understands is refused, not ignored.
//!
//! ```
//! use rpc::flags::StartDomain;
//!
//! let flags = StartDomain::PAUSED | StartDomain::AUTODESTROY;
//! assert!(flags.contains(StartDomain::PAUSED));
//! assert_eq!(StartDomain::from(0x101).unknown(), 0x100);
//! ```
#![allow(
    missing_docs,
    reason = "flags are named and described by libvirt's API reference"
)]

use std::ops::BitOr;

use crate::xdr::{DecodeError, Reader, Writer, Xdr};

/// Makes sets of flags out of `Name: bits { FLAG = number, }`.
macro_rules! flags {
    ($(
        $(#[$meta:meta])*
        $name:ident: $bits:ident { $( $flag:ident = $number:literal ),* $(,)? }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name($bits);

        impl $name {
            $( pub const $flag: $name = $name($number); )*
            /// No flag.
            pub const NONE: $name = $name(0);
            const KNOWN: $bits = 0 $( | $number )*;

            /// The number on the wire.
            pub const fn bits(self) -> $bits {
                self.0
            }

            /// Whether all of those flags are set.
            pub const fn contains(self, flags: $name) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Whether one of those flags is set.
            pub const fn intersects(self, flags: $name) -> bool {
                self.0 & flags.0 != 0
            }

            /// All but those flags.
            #[must_use]
            pub const fn without(self, flags: $name) -> $name {
                $name(self.0 & !flags.0)
            }

            /// What is set without a meaning.
            pub const fn unknown(self) -> $bits {
                self.0 & !$name::KNOWN
            }
        }

        impl From<$bits> for $name {
            fn from(bits: $bits) -> $name {
                $name(bits)
            }
        }

        impl BitOr for $name {
            type Output = $name;

            fn bitor(self, flags: $name) -> $name {
                $name(self.0 | flags.0)
            }
        }

        impl Xdr for $name {
            const MIN: usize = <$bits as Xdr>::MIN;

            fn encode(&self, w: &mut Writer) {
                self.0.encode(w);
            }

            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                $bits::decode(r).map($name)
            }

            fn unknown_flags(&self) -> u64 {
                self.unknown().into()
            }
        }
    )* };
}

flags! {
    /// Of a call that has no flags yet.
    NoFlags: u32 {}

    /// Opening a connection.
    Open: u32 { READ_ONLY = 1, NO_ALIASES = 2 }

    /// What the emulator offers.
    DomainCapabilities: u32 { DISABLE_DEPRECATED_FEATURES = 1 }

    /// Taking a document of a network, a guest or a node device.
    TakeXml: u32 { VALIDATE = 1 }

    /// Showing the document of a network, a host's interface or a node device.
    ShowXml: u32 { INACTIVE = 1 }

    /// What a change is made to, or a question is about: what runs, what is kept, or both.
    Affect: u32 { LIVE = 1, CONFIG = 2 }

    /// Parameters with names.
    TypedParams: u32 { STRING_OKAY = 4 }

    /// Listing networks.
    ListNetworks: u32 {
        INACTIVE = 1,
        ACTIVE = 2,
        PERSISTENT = 4,
        TRANSIENT = 8,
        AUTOSTART = 16,
        NO_AUTOSTART = 32,
    }

    /// Making a port.
    CreatePort: u32 { RECLAIM = 1, VALIDATE = 2 }

    /// Listing the host's interfaces.
    ListInterfaces: u32 { INACTIVE = 1, ACTIVE = 2 }

    /// Listing node devices: by what they can do, and by state.
    ListNodeDevices: u32 {
        SYSTEM = 0x1,
        PCI_DEV = 0x2,
        USB_DEV = 0x4,
        USB_INTERFACE = 0x8,
        NET = 0x10,
        SCSI_HOST = 0x20,
        SCSI_TARGET = 0x40,
        SCSI = 0x80,
        STORAGE = 0x100,
        FC_HOST = 0x200,
        VPORTS = 0x400,
        SCSI_GENERIC = 0x800,
        DRM = 0x1000,
        MDEV_TYPES = 0x2000,
        MDEV = 0x4000,
        CCW_DEV = 0x8000,
        CSS_DEV = 0x1_0000,
        VDPA = 0x2_0000,
        AP_CARD = 0x4_0000,
        AP_QUEUE = 0x8_0000,
        AP_MATRIX = 0x10_0000,
        VPD = 0x20_0000,
        CCWGROUP_DEV = 0x40_0000,
        PERSISTENT = 0x1000_0000,
        TRANSIENT = 0x2000_0000,
        INACTIVE = 0x4000_0000,
        ACTIVE = 0x8000_0000,
    }

    /// Listing guests.
    ListDomains: u32 {
        ACTIVE = 1,
        INACTIVE = 2,
        PERSISTENT = 4,
        TRANSIENT = 8,
        RUNNING = 16,
        PAUSED = 32,
        SHUT_OFF = 64,
        OTHER = 128,
        MANAGED_SAVE = 0x100,
        NO_MANAGED_SAVE = 0x200,
        AUTOSTART = 0x400,
        NO_AUTOSTART = 0x800,
        HAS_SNAPSHOT = 0x1000,
        NO_SNAPSHOT = 0x2000,
        HAS_CHECKPOINT = 0x4000,
        NO_CHECKPOINT = 0x8000,
    }

    /// Starting a guest from its document.
    CreateDomain: u32 { PAUSED = 1, AUTODESTROY = 2, VALIDATE = 16, RESET_NVRAM = 32 }

    /// Starting a guest that is defined.
    StartDomain: u32 {
        PAUSED = 1,
        AUTODESTROY = 2,
        BYPASS_CACHE = 4,
        FORCE_BOOT = 8,
        RESET_NVRAM = 32,
    }

    /// Ending a guest.
    DestroyDomain: u32 { GRACEFUL = 1, REMOVE_LOGS = 2 }

    /// Asking a guest to end or to boot again: the ways that may be taken.
    ShutDownDomain: u32 {
        ACPI_POWER_BUTTON = 1,
        GUEST_AGENT = 2,
        INITCTL = 4,
        SIGNAL = 8,
        PARAVIRT = 16,
    }

    /// Forgetting a guest: what goes with it, or stays.
    UndefineDomain: u32 {
        MANAGED_SAVE = 1,
        SNAPSHOTS_METADATA = 2,
        NVRAM = 4,
        KEEP_NVRAM = 8,
        CHECKPOINTS_METADATA = 16,
        TPM = 32,
        KEEP_TPM = 64,
    }

    /// Listing snapshots.
    ListSnapshots: u32 {
        ROOTS = 1,
        METADATA = 2,
        LEAVES = 4,
        NO_LEAVES = 8,
        NO_METADATA = 16,
        INACTIVE = 32,
        ACTIVE = 64,
        DISK_ONLY = 128,
        INTERNAL = 0x100,
        EXTERNAL = 0x200,
        TOPOLOGICAL = 0x400,
    }

    /// Showing a guest's document.
    DomainXml: u32 { SECURE = 1, INACTIVE = 2, UPDATE_CPU = 4, MIGRATABLE = 8 }

    /// What is to be said about a guest.
    DomainMessages: u32 { DEPRECATION = 1, TAINTING = 2 }

    /// Counting virtual processors.
    Vcpus: u32 { LIVE = 1, CONFIG = 2, MAXIMUM = 4, GUEST = 8 }

    /// Opening a console.
    Console: u32 { FORCE = 1, SAFE = 2 }

    /// Where a guest's host name is looked for.
    Hostname: u32 { LEASE = 1, AGENT = 2 }

    /// Adding, changing or removing a guest's device.
    ModifyDevice: u32 { LIVE = 1, CONFIG = 2, FORCE = 4 }

    /// A guest's interface and its named parameters.
    InterfaceParams: u32 { LIVE = 1, CONFIG = 2, STRING_OKAY = 4 }

    /// Statistics of guests: of which, and what is done about those that are not to be had.
    DomainStats: u32 {
        ACTIVE = 1,
        INACTIVE = 2,
        PERSISTENT = 4,
        TRANSIENT = 8,
        RUNNING = 16,
        PAUSED = 32,
        SHUT_OFF = 64,
        OTHER = 128,
        NOWAIT = 0x2000_0000,
        BACKING = 0x4000_0000,
        ENFORCE_STATS = 0x8000_0000,
    }

    /// Statistics of a job.
    JobStats: u32 { COMPLETED = 1, KEEP_COMPLETED = 2 }

    /// Ending a job.
    AbortJob: u32 { POSTCOPY = 1 }

    /// A command for QEMU.
    MonitorCommand: u32 { HMP = 1 }

    /// Choosing QEMU's events by name.
    MonitorEvents: u32 { REGEX = 1, NOCASE = 2 }
}

/// The same flags, as the older calls of migration have them on the wire and as the newer.
macro_rules! migration_flags {
    ($( $(#[$meta:meta])* $name:ident: $bits:ident )*) => { flags! { $(
        $(#[$meta])*
        $name: $bits {
            LIVE = 1,
            PEER2PEER = 2,
            TUNNELLED = 4,
            PERSIST_DEST = 8,
            UNDEFINE_SOURCE = 0x10,
            PAUSED = 0x20,
            NON_SHARED_DISK = 0x40,
            NON_SHARED_INC = 0x80,
            CHANGE_PROTECTION = 0x100,
            UNSAFE = 0x200,
            OFFLINE = 0x400,
            COMPRESSED = 0x800,
            ABORT_ON_ERROR = 0x1000,
            AUTO_CONVERGE = 0x2000,
            RDMA_PIN_ALL = 0x4000,
            POSTCOPY = 0x8000,
            TLS = 0x1_0000,
            PARALLEL = 0x2_0000,
            NON_SHARED_SYNCHRONOUS_WRITES = 0x4_0000,
            POSTCOPY_RESUME = 0x8_0000,
            ZEROCOPY = 0x10_0000,
        }
    )* } };
}

migration_flags! {
    /// Migrating a guest.
    Migrate: u64

    /// Migrating a guest, in the calls that take named parameters.
    MigrateParams: u32
}

impl ListNodeDevices {
    /// All that choose by what a device can do.
    pub const CAPABILITIES: ListNodeDevices = ListNodeDevices(0x00ff_ffff);

    /// The flag for what can do that: `pci`, `net` …, by libvirt's word for it. `None`: no device is
    /// listed by that word.
    ///
    /// ```
    /// use rpc::flags::ListNodeDevices;
    ///
    /// assert_eq!(ListNodeDevices::of_capability("usb"), Some(ListNodeDevices::USB_INTERFACE));
    /// ```
    #[must_use]
    pub fn of_capability(word: &str) -> Option<ListNodeDevices> {
        Some(match word {
            "system" => Self::SYSTEM,
            "pci" => Self::PCI_DEV,
            "usb_device" => Self::USB_DEV,
            "usb" => Self::USB_INTERFACE,
            "net" => Self::NET,
            "scsi_host" => Self::SCSI_HOST,
            "scsi_target" => Self::SCSI_TARGET,
            "scsi" => Self::SCSI,
            "storage" => Self::STORAGE,
            "fc_host" => Self::FC_HOST,
            "vports" => Self::VPORTS,
            "scsi_generic" => Self::SCSI_GENERIC,
            "drm" => Self::DRM,
            "mdev_types" => Self::MDEV_TYPES,
            "mdev" => Self::MDEV,
            "ccw" => Self::CCW_DEV,
            "css" => Self::CSS_DEV,
            "vdpa" => Self::VDPA,
            "ap_card" => Self::AP_CARD,
            "ap_queue" => Self::AP_QUEUE,
            "ap_matrix" => Self::AP_MATRIX,
            "vpd" => Self::VPD,
            "ccwgroup" => Self::CCWGROUP_DEV,
            _ => return None,
        })
    }
}

impl From<MigrateParams> for Migrate {
    fn from(flags: MigrateParams) -> Migrate {
        Migrate(flags.0.into())
    }
}

impl From<CreateDomain> for StartDomain {
    fn from(flags: CreateDomain) -> StartDomain {
        StartDomain(flags.0 & StartDomain::KNOWN)
    }
}

impl From<ModifyDevice> for Affect {
    fn from(flags: ModifyDevice) -> Affect {
        Affect(flags.0 & Affect::KNOWN)
    }
}

impl From<InterfaceParams> for Affect {
    fn from(flags: InterfaceParams) -> Affect {
        Affect(flags.0 & Affect::KNOWN)
    }
}

impl From<DomainStats> for ListDomains {
    /// What is above the first eight asks for something else than a choice of guests.
    fn from(flags: DomainStats) -> ListDomains {
        ListDomains(flags.0 & 0xff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{
        ConnectListAllNetworks, DomainCreateWithFlags, DomainMigratePerform3, NetworkLookupByName,
    };
    use crate::types::Dom;
    use crate::{Code, Domain, Request};

    fn dom() -> Dom {
        Dom {
            name: "g1".into(),
            uuid: uuid::Uuid::nil(),
            id: 1,
        }
    }

    #[test]
    fn a_flag_without_a_meaning_is_told_with_the_name_of_the_call() {
        let request = |flags: u32| {
            Request::DomainCreateWithFlags(DomainCreateWithFlags {
                dom: dom(),
                flags: flags.into(),
            })
        };
        assert_eq!(request(0x2f).check_flags(), Ok(()));
        let error = request(0x10 | 0x100 | 1).check_flags().unwrap_err();
        assert_eq!(
            (error.code(), error.domain()),
            (Code::InvalidArg, Domain::Domain)
        );
        let text =
            "invalid argument: unsupported flags (0x110) in function virDomainCreateWithFlags";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_flag_beyond_32_bits_is_seen() {
        let request = Request::DomainMigratePerform3(DomainMigratePerform3 {
            dom: dom(),
            xmlin: None,
            cookie_in: Vec::new(),
            dconnuri: None,
            uri: None,
            flags: Migrate::from(1 << 40) | Migrate::LIVE,
            dname: None,
            resource: 0,
        });
        assert_eq!(request.unknown_flags(), 1 << 40);
    }

    #[test]
    fn a_call_without_flags_has_none_that_are_unknown() {
        let request = Request::NetworkLookupByName(NetworkLookupByName { name: "n".into() });
        assert_eq!(request.check_flags(), Ok(()));
        let request = Request::ConnectListAllNetworks(ConnectListAllNetworks {
            need_results: true,
            flags: ListNetworks::ACTIVE | ListNetworks::INACTIVE,
        });
        assert_eq!(request.check_flags(), Ok(()));
    }
}
