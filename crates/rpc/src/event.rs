//! Events: what a server tells clients that registered for it.
#![allow(
    missing_docs,
    reason = "fields are named and described by libvirt's API reference"
)]

use uuid::Uuid;

use crate::macros::wire_struct;
use crate::procedure::Program;
use crate::types::{Dom, GraphicsAddress, GraphicsIdentity, Net, NodeDev, TypedParam};
use crate::xdr::{DecodeError, Reader, Writer, Xdr};

/// The number of a registration, unique on its connection among events of all classes.
pub type CallbackId = i32;

/// What kind of object events are about; each class has its own event numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventClass {
    /// Guests.
    Domain,
    /// Networks.
    Network,
    /// Node devices.
    NodeDevice,
    /// Raw messages of QEMU.
    Monitor,
}

impl EventClass {
    /// The highest event number that a client may register for.
    pub fn last_id(self) -> i32 {
        match self {
            EventClass::Domain => 27,
            EventClass::Network | EventClass::NodeDevice => 1,
            EventClass::Monitor => 0,
        }
    }
}

/// The object that an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject<'a> {
    /// A guest or a network.
    Uuid(Uuid),
    /// A node device.
    Name(&'a str),
}

/// An object that events can be about.
trait About {
    fn subject(&self) -> Subject<'_>;
}

impl About for Dom {
    fn subject(&self) -> Subject<'_> {
        Subject::Uuid(self.uuid)
    }
}

impl About for Net {
    fn subject(&self) -> Subject<'_> {
        Subject::Uuid(self.uuid)
    }
}

impl About for NodeDev {
    fn subject(&self) -> Subject<'_> {
        Subject::Name(&self.name)
    }
}

/// Makes the types out of rows `Program number Class event_id Name(object) { fields };`.
macro_rules! events {
    ($(
        $program:ident $number:literal $class:ident $id:literal $name:ident($about:ident)
        { $( $field:ident : $t:ty $([$max:expr])? ),* };
    )*) => {
        $( wire_struct! {
            #[doc = concat!(
                "Event ", $id, " of its class, message ", $number, ", without the callback's id."
            )]
            pub struct $name { $( $field: $t $([$max])?, )* }
        } )*

        /// Something that happened.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event {
            $( #[doc = concat!("Message ", $number)] $name($name), )*
        }

        $( impl From<$name> for Event {
            fn from(event: $name) -> Event {
                Event::$name(event)
            }
        } )*

        impl Event {
            /// The program and number of its message.
            pub fn message(&self) -> (Program, i32) {
                match self {
                    $( Event::$name(_) => (Program::$program, $number), )*
                }
            }

            /// What a client registers for to get it.
            pub fn kind(&self) -> (EventClass, i32) {
                match self {
                    $( Event::$name(_) => (EventClass::$class, $id), )*
                }
            }

            /// What it is about.
            pub fn subject(&self) -> Subject<'_> {
                match self {
                    $( Event::$name(event) => event.$about.subject(), )*
                }
            }

            /// Appends the callback's id and the event.
            pub fn encode(&self, callback: CallbackId, w: &mut Writer) {
                callback.encode(w);
                match self {
                    $( Event::$name(event) => event.encode(w), )*
                }
            }

            /// Decodes the event of that message; none if there is no such.
            pub fn decode(
                program: Program,
                number: i32,
                r: &mut Reader<'_>,
            ) -> Option<Result<(CallbackId, Event), DecodeError>> {
                match (program, number) {
                    $( (Program::$program, $number) => Some((|| {
                        Ok((i32::decode(r)?, Event::$name($name::decode(r)?)))
                    })()), )*
                    _ => None,
                }
            }
        }
    };
}

events! {
    Main 315 Network 0 NetworkLifecycle(net) { net: Net, change: NetworkChange };
    Main 446 Network 1 NetworkMetadataChange(net)
        { net: Net, r#type: i32, nsuri: Option<String> };
    Main 376 NodeDevice 0 NodeDeviceLifecycle(dev) { dev: NodeDev, change: NodeDeviceChange };
    Main 377 NodeDevice 1 NodeDeviceUpdate(dev) { dev: NodeDev };
    Main 318 Domain 0 DomainLifecycle(dom) { dom: Dom, change: DomainChange };
    Main 319 Domain 1 DomainRebooted(dom) { dom: Dom };
    Main 320 Domain 2 DomainRtcChange(dom) { dom: Dom, offset: i64 };
    Main 321 Domain 3 DomainWatchdog(dom) { dom: Dom, action: i32 };
    Main 322 Domain 4 DomainIoError(dom)
        { dom: Dom, src_path: String, dev_alias: String, action: i32 };
    Main 323 Domain 5 DomainGraphics(dom) {
        dom: Dom, phase: i32, local: GraphicsAddress, remote: GraphicsAddress,
        auth_scheme: String, subject: Vec<GraphicsIdentity> [20]
    };
    Main 324 Domain 6 DomainIoErrorReason(dom)
        { dom: Dom, src_path: String, dev_alias: String, action: i32, reason: String };
    Main 325 Domain 7 DomainControlError(dom) { dom: Dom };
    Main 326 Domain 8 DomainBlockJob(dom) { dom: Dom, path: String, r#type: i32, status: i32 };
    Main 327 Domain 9 DomainDiskChange(dom) {
        dom: Dom, old_src_path: Option<String>, new_src_path: Option<String>,
        dev_alias: String, reason: i32
    };
    Main 328 Domain 10 DomainTrayChange(dom) { dom: Dom, dev_alias: String, reason: i32 };
    Main 329 Domain 11 DomainPmWakeup(dom) { reason: i32, dom: Dom };
    Main 330 Domain 12 DomainPmSuspend(dom) { reason: i32, dom: Dom };
    Main 331 Domain 13 DomainBalloonChange(dom) { dom: Dom, actual: u64 };
    Main 332 Domain 14 DomainPmSuspendDisk(dom) { reason: i32, dom: Dom };
    Main 333 Domain 15 DomainDeviceRemoved(dom) { dom: Dom, dev_alias: String };
    Main 339 Domain 16 DomainBlockJob2(dom) { dom: Dom, dst: String, r#type: i32, status: i32 };
    Main 346 Domain 17 DomainTunable(dom) { dom: Dom, params: Vec<TypedParam> [2048] };
    Main 348 Domain 18 DomainAgentLifecycle(dom) { dom: Dom, state: i32, reason: i32 };
    Main 354 Domain 19 DomainDeviceAdded(dom) { dom: Dom, dev_alias: String };
    Main 359 Domain 20 DomainMigrationIteration(dom) { dom: Dom, iteration: i32 };
    Main 363 Domain 21 DomainJobCompleted(dom) { dom: Dom, params: Vec<TypedParam> [64] };
    Main 367 Domain 22 DomainDeviceRemovalFailed(dom) { dom: Dom, dev_alias: String };
    Main 379 Domain 23 DomainMetadataChange(dom)
        { dom: Dom, r#type: i32, nsuri: Option<String> };
    Main 385 Domain 24 DomainBlockThreshold(dom)
        { dom: Dom, dev: String, path: Option<String>, threshold: u64, excess: u64 };
    Main 423 Domain 25 DomainMemoryFailure(dom)
        { dom: Dom, recipient: i32, action: i32, flags: u32 };
    Main 438 Domain 26 DomainMemoryDeviceSizeChange(dom) { dom: Dom, alias: String, size: u64 };
    Main 453 Domain 27 DomainNicMacChange(dom)
        { dom: Dom, alias: String, old_mac: String, new_mac: String };
    Qemu 6 Monitor 0 MonitorEvent(dom)
        { dom: Dom, event: String, seconds: i64, micros: u32, details: Option<String> };
}

/// Makes an enumeration out of pairs of numbers: what happened, and in which way.
macro_rules! changes {
    ($(
        $(#[$meta:meta])*
        $name:ident { $( $variant:ident = ($event:literal, $detail:literal), )* }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $variant, )* }

        impl Xdr for $name {
            const MIN: usize = 8;

            fn encode(&self, w: &mut Writer) {
                let (event, detail): (i32, i32) = match self {
                    $( $name::$variant => ($event, $detail), )*
                };
                event.encode(w);
                detail.encode(w);
            }

            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                match (i32::decode(r)?, i32::decode(r)?) {
                    $( ($event, $detail) => Ok($name::$variant), )*
                    (value, _) => {
                        Err(DecodeError::UnknownChoice { what: "lifecycle event", value })
                    }
                }
            }
        }
    )* };
}

changes! {
    /// What became of a network.
    NetworkChange {
        Defined = (0, 0),
        Undefined = (1, 0),
        Started = (2, 0),
        Stopped = (3, 0),
    }

    /// What became of a node device.
    NodeDeviceChange {
        Created = (0, 0),
        Deleted = (1, 0),
        Defined = (2, 0),
        Undefined = (3, 0),
    }

    /// What became of a guest, and why.
    DomainChange {
        DefinedAdded = (0, 0),
        DefinedUpdated = (0, 1),
        DefinedRenamed = (0, 2),
        DefinedSnapshot = (0, 3),
        UndefinedRemoved = (1, 0),
        UndefinedRenamed = (1, 1),
        StartedBooted = (2, 0),
        StartedMigrated = (2, 1),
        StartedRestored = (2, 2),
        StartedSnapshot = (2, 3),
        StartedWakeup = (2, 4),
        SuspendedPaused = (3, 0),
        SuspendedMigrated = (3, 1),
        SuspendedIoError = (3, 2),
        SuspendedWatchdog = (3, 3),
        SuspendedRestored = (3, 4),
        SuspendedSnapshot = (3, 5),
        SuspendedApiError = (3, 6),
        SuspendedPostCopy = (3, 7),
        SuspendedPostCopyError = (3, 8),
        ResumedUnpaused = (4, 0),
        ResumedMigrated = (4, 1),
        ResumedSnapshot = (4, 2),
        ResumedPostCopy = (4, 3),
        ResumedPostCopyError = (4, 4),
        StoppedShutdown = (5, 0),
        StoppedDestroyed = (5, 1),
        StoppedCrashed = (5, 2),
        StoppedMigrated = (5, 3),
        StoppedSaved = (5, 4),
        StoppedFailed = (5, 5),
        StoppedSnapshot = (5, 6),
        ShutdownFinished = (6, 0),
        ShutdownByGuest = (6, 1),
        ShutdownByHost = (6, 2),
        PmSuspendedMemory = (7, 0),
        PmSuspendedDisk = (7, 1),
        CrashedPanicked = (8, 0),
        CrashedCrashloaded = (8, 1),
    }
}
