//! Procedures: what each call takes and gives, who may make it, and how long it may take.
//!
//! A row of the table in [`crate::table`] declares all of that once. The arguments of a procedure
//! are a structure of its name, which is also the key to everything else about it:
//!
//! ```
//! use rpc::{NetworkLookupByName, Procedure};
//!
//! let call = NetworkLookupByName { name: "fast".into() };
//! assert_eq!(NetworkLookupByName::INFO.number, 46);
//! assert_eq!(NetworkLookupByName::INFO.api, "virNetworkLookupByName");
//! # let _ = call;
//! ```

use crate::error::{Code, Domain, Error};
use crate::xdr::{DecodeError, Reader, Writer, Xdr};

/// A set of procedures with a number of its own on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// libvirt's main program.
    Main,
    /// libvirt's procedures that only QEMU has.
    Qemu,
    /// virtnic's own.
    Virtnic,
}

impl Program {
    /// The version that all of them have.
    pub const VERSION: u32 = 1;

    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Program::Main => 0x2000_8086,
            Program::Qemu => 0x2000_8087,
            Program::Virtnic => 0x2076_6e63,
        }
    }

    /// The program of that number and version.
    pub fn find(number: u32, version: u32) -> Option<Program> {
        [Program::Main, Program::Qemu, Program::Virtnic]
            .into_iter()
            .find(|program| program.number() == number && version == Program::VERSION)
    }
}

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every client.
    Anyone,
    /// Clients whose connection is not read-only.
    Writers,
}

/// How long a call may take, which says where it is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Answered from memory: carried out by the connection's reader itself.
    Quick,
    /// May wait for the host, a disk or a guest: carried out in one of a few places.
    Slow,
    /// Slow, and somebody waits for it in a place of a slow call, which it ends. It has places of its own, so
    /// that it always gets in.
    Urgent,
    /// A guest's whole way to another host, which may take hours: kept from the places of the others.
    Move,
    /// A step of such a way, for which another host waits in a place of a move. It has places of its own, so that
    /// two hosts that send guests to each other never wait for each other.
    Step,
}

/// What is known about a procedure.
#[derive(Debug, PartialEq, Eq)]
pub struct Info {
    /// The program that it belongs to.
    pub program: Program,
    /// Its number in that program.
    pub number: i32,
    /// Its name here.
    pub name: &'static str,
    /// The name that a user knows, as in libvirt's API reference.
    pub api: &'static str,
    /// The domain of errors about its kind of object.
    pub domain: Domain,
    /// Who may call it.
    pub access: Access,
    /// How long it may take.
    pub pace: Pace,
}

impl Info {
    /// The answer of a server that does not carry it out.
    pub fn no_support(&self) -> Error {
        Error::no_support(self.domain, self.api)
    }

    /// The answer to flags that have no meaning.
    pub(crate) fn unknown_flags(&self, flags: u64) -> Error {
        let detail = format!("unsupported flags ({flags:#x}) in function {}", self.api);
        Error::new(Code::InvalidArg, self.domain, detail)
    }
}

/// A procedure; the type itself is its arguments.
pub trait Procedure: Xdr + Send {
    /// What it gives back.
    type Reply: Send + 'static;

    /// What is known about it.
    const INFO: &'static Info;

    /// Appends a reply.
    fn encode_reply(reply: &Self::Reply, w: &mut Writer);

    /// Takes a reply off the front.
    fn decode_reply(r: &mut Reader<'_>) -> Result<Self::Reply, DecodeError>;
}

macro_rules! access {
    (any) => {
        $crate::procedure::Access::Anyone
    };
    (rw) => {
        $crate::procedure::Access::Writers
    };
}

macro_rules! pace {
    (quick) => {
        $crate::procedure::Pace::Quick
    };
    (slow) => {
        $crate::procedure::Pace::Slow
    };
    (urgent) => {
        $crate::procedure::Pace::Urgent
    };
    (moving) => {
        $crate::procedure::Pace::Move
    };
    (step) => {
        $crate::procedure::Pace::Step
    };
}

/// Makes the types out of rows
/// `number Name "apiName" any|rw quick|slow|urgent|moving|step { arguments } -> reply;`
/// that stand in groups `Program ErrorDomain { rows }`.
macro_rules! procedures {
    ($( $program:ident $domain:ident { $(
        $number:literal $name:ident $api:literal $access:ident $pace:ident
        { $( $field:ident : $t:ty $([$max:expr])? ),* } -> $r:ty $([$rmax:expr])? ;
    )* } )*) => {
        $( $(
            $crate::macros::wire_struct! {
                #[doc = concat!("The arguments of `", $api, "`, procedure ", $number, ".")]
                pub struct $name { $( $field: $t $([$max])?, )* }
            }

            impl $crate::procedure::Procedure for $name {
                type Reply = $r;

                const INFO: &'static $crate::procedure::Info = &$crate::procedure::Info {
                    program: $crate::procedure::Program::$program,
                    number: $number,
                    name: stringify!($name),
                    api: $api,
                    domain: $crate::error::Domain::$domain,
                    access: $crate::procedure::access!($access),
                    pace: $crate::procedure::pace!($pace),
                };

                fn encode_reply(reply: &$r, w: &mut $crate::xdr::Writer) {
                    $crate::macros::field!(put w, reply, $r $(, $rmax)?);
                }

                fn decode_reply(
                    r: &mut $crate::xdr::Reader<'_>,
                ) -> Result<$r, $crate::xdr::DecodeError> {
                    $crate::macros::field!(get r, $r $(, $rmax)?)
                }
            }
        )* )*

        /// A call with its arguments.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            $( $( #[doc = concat!("`", $api, "`")] $name($name), )* )*
        }

        /// What a call gives back. The variant must be that of the request.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Reply {
            $( $( #[doc = concat!("`", $api, "`")] $name($r), )* )*
        }

        impl Request {
            /// What is known about the procedure of that number.
            pub fn lookup(
                program: $crate::procedure::Program,
                number: i32,
            ) -> Option<&'static $crate::procedure::Info> {
                match (program, number) {
                    $( $( ($crate::procedure::Program::$program, $number) => {
                        Some(<$name as $crate::procedure::Procedure>::INFO)
                    } )* )*
                    _ => None,
                }
            }

            /// Decodes the arguments of the procedure of that number; none if there is no such.
            pub fn decode(
                program: $crate::procedure::Program,
                number: i32,
                r: &mut $crate::xdr::Reader<'_>,
            ) -> Option<Result<Request, $crate::xdr::DecodeError>> {
                match (program, number) {
                    $( $( ($crate::procedure::Program::$program, $number) => {
                        Some(<$name as $crate::xdr::Xdr>::decode(r).map(Request::$name))
                    } )* )*
                    _ => None,
                }
            }

            /// Appends the arguments.
            pub fn encode(&self, w: &mut $crate::xdr::Writer) {
                match self {
                    $( $( Request::$name(args) => $crate::xdr::Xdr::encode(args, w), )* )*
                }
            }

            /// What is known about the procedure.
            pub fn info(&self) -> &'static $crate::procedure::Info {
                match self {
                    $( $( Request::$name(_) => {
                        <$name as $crate::procedure::Procedure>::INFO
                    } )* )*
                }
            }

            /// Its flags that have no meaning; see [`crate::flags`].
            pub fn unknown_flags(&self) -> u64 {
                match self {
                    $( $( Request::$name(args) => $crate::xdr::Xdr::unknown_flags(args), )* )*
                }
            }

            /// Refuses flags that have no meaning.
            pub fn check_flags(&self) -> Result<(), $crate::error::Error> {
                match self.unknown_flags() {
                    0 => Ok(()),
                    unknown => Err(self.info().unknown_flags(unknown)),
                }
            }
        }

        impl Reply {
            /// Decodes the reply of the procedure of that number; none if there is no such.
            pub fn decode(
                program: $crate::procedure::Program,
                number: i32,
                r: &mut $crate::xdr::Reader<'_>,
            ) -> Option<Result<Reply, $crate::xdr::DecodeError>> {
                match (program, number) {
                    $( $( ($crate::procedure::Program::$program, $number) => Some(
                        <$name as $crate::procedure::Procedure>::decode_reply(r)
                            .map(Reply::$name),
                    ), )* )*
                    _ => None,
                }
            }

            /// Appends what is given back.
            pub fn encode(&self, w: &mut $crate::xdr::Writer) {
                match self {
                    $( $( Reply::$name(reply) => {
                        <$name as $crate::procedure::Procedure>::encode_reply(reply, w);
                    } )* )*
                }
            }

            /// What is known about the procedure.
            pub fn info(&self) -> &'static $crate::procedure::Info {
                match self {
                    $( $( Reply::$name(_) => {
                        <$name as $crate::procedure::Procedure>::INFO
                    } )* )*
                }
            }
        }
    };
}

pub(crate) use {access, pace, procedures};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;

    #[test]
    fn a_program_is_found_by_number_and_version() {
        assert_eq!(Program::find(0x2000_8087, 1), Some(Program::Qemu));
        assert_eq!(Program::find(0x2000_8087, 2), None);
        assert_eq!(Program::find(0x2000_8088, 1), None);
    }

    #[test]
    fn one_number_means_different_things_in_different_programs() {
        let api = |program| Request::lookup(program, 1).map(|info| info.api);
        assert_eq!(api(Program::Main), Some("virConnectOpen"));
        assert_eq!(api(Program::Qemu), Some("virDomainQemuMonitorCommand"));
        assert_eq!(Request::lookup(Program::Main, 9999), None);
    }
}
