//! Errors as they travel: libvirt's code, the part of the system that speaks, and one line of text.

use std::borrow::Cow;
use std::fmt;

use crate::macros::wire_struct;
use crate::types::{Dom, Net};
use crate::xdr::{DecodeError, Reader, Writer, Xdr};

/// An error as a client shows it.
///
/// The text is complete: clients print it as it is and add no prefix. [`Error::new`] puts the
/// standard prefix of the code before the detail, so that the detail never repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: Code,
    /// The standard text that it is told in, with `%1$s` where the detail goes.
    format: Cow<'static, str>,
    domain: Domain,
    message: String,
    detail: String,
    errno: Option<i32>,
}

impl Error {
    /// An error of that code: its standard text with `detail` in its place.
    pub fn new(code: Code, domain: Domain, detail: impl Into<String>) -> Error {
        let detail = detail.into();
        Error {
            code,
            format: Cow::Borrowed(code.format()),
            domain,
            message: code.message(&detail),
            detail,
            errno: None,
        }
    }

    /// An error of that code in the standard text of another: where clients know a code for what
    /// its own text would lay on the program.
    pub fn worded(code: Code, words: Code, domain: Domain, detail: impl Into<String>) -> Error {
        Error {
            code,
            ..Error::new(words, domain, detail)
        }
    }

    /// With more behind its text, such as further lines.
    #[must_use]
    pub fn followed_by(mut self, more: &str) -> Error {
        self.detail.push_str(more);
        self.message = self.format.replacen(DETAIL, &self.detail, 1);
        self
    }

    /// With more before its text, such as whom it is about.
    #[must_use]
    pub fn preceded_by(mut self, more: &str) -> Error {
        self.detail.insert_str(0, more);
        self.message = self.format.replacen(DETAIL, &self.detail, 1);
        self
    }

    /// What the kernel refused, with its own words and its number.
    pub fn system(domain: Domain, errno: i32, what: impl fmt::Display) -> Error {
        let reason = rustix::io::Errno::from_raw_os_error(errno);
        let detail = format!("{what}: {}", os_text(reason));
        Error {
            errno: Some(errno),
            ..Error::new(Code::SystemError, domain, detail)
        }
    }

    /// The answer to a call that exists but that nobody here carries out: clients fall back to
    /// another call or show the name.
    pub fn no_support(domain: Domain, api: &str) -> Error {
        Error::new(Code::NoSupport, domain, api)
    }

    /// An error of the protocol itself.
    pub fn protocol(detail: impl Into<String>) -> Error {
        Error::new(Code::Rpc, Domain::Rpc, detail)
    }

    /// What kind of error it is.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Which part of the system speaks.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// The whole text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The text without the standard prefix of its code.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The kernel's error number, for [`Code::SystemError`].
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

fn os_text(errno: rustix::io::Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    // The standard library adds " (os error N)"; the number has a field of its own.
    text.rsplit_once(" (os error ")
        .map_or(text.clone(), |(words, _)| words.to_owned())
}

wire_struct! {
    /// The error structure of the wire, field by field.
    pub struct WireError {
        /// See [`Code`].
        code: Code,
        /// See [`Domain`].
        domain: Domain,
        /// The whole text; clients misbehave without it.
        message: Option<String>,
        /// 1 warning, 2 error.
        level: i32,
        /// The guest that it is about; libvirt leaves it out.
        dom: Option<Dom>,
        /// The format of the text.
        str1: Option<String>,
        /// What the format is filled with.
        str2: Option<String>,
        /// Unused.
        str3: Option<String>,
        /// The kernel's error number, or -1.
        int1: i32,
        /// -1.
        int2: i32,
        /// The network that it is about; libvirt leaves it out.
        net: Option<Net>,
    }
}

const LEVEL_ERROR: i32 = 2;

impl Xdr for Error {
    const MIN: usize = WireError::MIN;

    fn encode(&self, w: &mut Writer) {
        WireError {
            code: self.code,
            domain: self.domain,
            message: Some(self.message.clone()),
            level: LEVEL_ERROR,
            dom: None,
            str1: Some(self.format.clone().into_owned()),
            str2: Some(self.detail.clone()),
            str3: None,
            int1: self.errno.unwrap_or(-1),
            int2: -1,
            net: None,
        }
        .encode(w);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let wire = WireError::decode(r)?;
        let message = wire.message.unwrap_or_else(|| "Unknown error".to_owned());
        let detail = wire.str2.unwrap_or_else(|| message.clone());
        let format = wire
            .str1
            .map_or(Cow::Borrowed(wire.code.format()), Cow::Owned);
        let errno = (wire.code == Code::SystemError && wire.int1 > 0).then_some(wire.int1);
        Ok(Error {
            code: wire.code,
            format,
            domain: wire.domain,
            message,
            detail,
            errno,
        })
    }
}

/// Declares an enumeration whose numbers may also be ones that we do not know.
macro_rules! open_enum {
    (
        $(#[$meta:meta])* $name:ident {
            $( $number:literal $variant:ident $($format:literal)?, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are libvirt's")]
        pub enum $name {
            $( $variant, )*
            /// A number that libvirt knows and this program does not use.
            Other(i32),
        }

        impl $name {
            /// libvirt's number.
            pub fn number(self) -> i32 {
                match self {
                    $( $name::$variant => $number, )*
                    $name::Other(number) => number,
                }
            }

            /// The meaning of libvirt's number.
            pub fn from_number(number: i32) -> $name {
                match number {
                    $( $number => $name::$variant, )*
                    other => $name::Other(other),
                }
            }
        }

        impl Xdr for $name {
            const MIN: usize = 4;

            fn encode(&self, w: &mut Writer) {
                self.number().encode(w);
            }

            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                i32::decode(r).map($name::from_number)
            }
        }
    };
}

/// Where libvirt's message formats have the detail.
const DETAIL: &str = "%1$s";

macro_rules! codes {
    ($( $number:literal $variant:ident $format:literal, )*) => {
        open_enum! {
            /// What kind of error it is. Clients branch on some of these.
            Code { $( $number $variant, )* }
        }

        impl Code {
            /// The standard text of the code, with `%1$s` where the detail goes.
            pub fn format(self) -> &'static str {
                match self {
                    $( Code::$variant => $format, )*
                    Code::Other(_) => DETAIL,
                }
            }

            fn message(self, detail: &str) -> String {
                self.format().replacen(DETAIL, detail, 1)
            }
        }
    };
}

codes! {
    1 InternalError "internal error: %1$s",
    2 NoMemory "out of memory: %1$s",
    3 NoSupport "this function is not supported by the connection driver: %1$s",
    5 NoConnect "no connection driver available for %1$s",
    6 InvalidConn "invalid connection pointer in %1$s",
    7 InvalidDomain "invalid domain pointer in %1$s",
    8 InvalidArg "invalid argument: %1$s",
    9 OperationFailed "operation failed: %1$s",
    16 OsType "unknown OS type %1$s",
    21 NoName "missing name information in %1$s",
    23 NoDevice "missing devices information for %1$s",
    27 XmlError "XML error: %1$s",
    28 DomExist "domain %1$s exists already",
    29 OperationDenied "operation forbidden: %1$s",
    30 OpenFailed "failed to open configuration file %1$s",
    31 ReadFailed "failed to read configuration file %1$s",
    32 ParseFailed "failed to parse configuration file %1$s",
    36 InvalidNetwork "invalid network pointer in %1$s",
    37 NetworkExist "network %1$s exists already",
    38 SystemError "%1$s",
    39 Rpc "%1$s",
    42 NoDomain "Domain not found: %1$s",
    43 NoNetwork "Network not found: %1$s",
    44 InvalidMac "invalid MAC address: %1$s",
    45 AuthFailed "authentication failed: %1$s",
    50 NoStorageVol "Storage volume not found: %1$s",
    52 InvalidNodeDevice "invalid node device pointer in %1$s",
    53 NoNodeDevice "Node device not found: %1$s",
    54 NoSecurityModel "Security model not found: %1$s",
    55 OperationInvalid "Requested operation is not valid: %1$s",
    57 NoInterface "Interface not found: %1$s",
    58 InvalidInterface "invalid interface pointer in %1$s",
    59 MultipleInterfaces "multiple matching interfaces found: %1$s",
    67 ConfigUnsupported "unsupported configuration: %1$s",
    68 OperationTimeout "Timed out during operation: %1$s",
    69 MigratePersistFailed "Failed to make domain persistent after migration: %1$s",
    70 HookScriptFailed "Hook script execution failed: %1$s",
    72 NoDomainSnapshot "Domain snapshot not found: %1$s",
    73 InvalidStream "invalid stream pointer in %1$s",
    74 ArgumentUnsupported "argument unsupported: %1$s",
    78 OperationAborted "operation aborted: %1$s",
    79 AuthCancelled "authentication cancelled: %1$s",
    80 NoDomainMetadata "metadata not found: %1$s",
    81 MigrateUnsafe "Unsafe migration: %1$s",
    82 Overflow "numerical overflow: %1$s",
    84 OperationUnsupported "Operation not supported: %1$s",
    86 AgentUnresponsive "Guest agent is not responding: %1$s",
    87 ResourceBusy "resource busy: %1$s",
    88 AccessDenied "access denied: %1$s",
    89 DbusService "error from service: %1$s",
    91 CpuIncompatible "the CPU is incompatible with host CPU: %1$s",
    92 XmlInvalidSchema "XML document failed to validate against schema: %1$s",
    93 MigrateFinishOk "migration successfully aborted: %1$s",
    94 AuthUnavailable "authentication unavailable: %1$s",
    99 DeviceMissing "device not found: %1$s",
    105 InvalidNetworkPort "Invalid network port pointer: %1$s",
    106 NetworkPortExist "network port %1$s exists already",
    107 NoNetworkPort "network port not found: %1$s",
    108 NoHostname "no hostname found: %1$s",
    110 MultipleDomains "multiple matching domains found: %1$s",
    111 NoNetworkMetadata "metadata not found: %1$s",
    112 AgentCommandTimeout "guest agent command timed out: %1$s",
    113 AgentCommandFailed "guest agent command failed: %1$s",
}

open_enum! {
    /// Which part of the system an error comes from.
    Domain {
        0 None,
        5 Xml,
        6 Dom,
        7 Rpc,
        9 Conf,
        10 Qemu,
        11 Net,
        12 Test,
        13 Remote,
        16 StatsLinux,
        18 Storage,
        19 Network,
        20 Domain,
        22 NodeDevice,
        24 Security,
        26 Interface,
        30 Secret,
        31 Cpu,
        33 Nwfilter,
        34 Hook,
        35 DomainSnapshot,
        37 Sysinfo,
        38 Streams,
        40 Event,
        42 Locking,
        44 Capabilities,
        45 Uri,
        46 Auth,
        47 Dbus,
        49 Device,
        50 Ssh,
        51 Lockspace,
        53 Identity,
        54 Cgroup,
        55 Access,
        56 Systemd,
        58 Crypto,
        59 Firewall,
        60 Polkit,
        61 Thread,
        62 Admin,
        63 Logging,
        65 Perf,
        66 Libssh,
        67 Resctrl,
        68 Firewalld,
        69 DomainCheckpoint,
        70 Tpm,
        71 Bpf,
        72 Ch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::from_bytes;

    #[test]
    fn the_text_is_prefix_and_detail() {
        let error = Error::new(Code::NoNetwork, Domain::Network, "no network named 'x'");
        assert_eq!(error.to_string(), "Network not found: no network named 'x'");
        let error = Error::new(Code::NetworkExist, Domain::Network, "n1");
        assert_eq!(error.to_string(), "network n1 exists already");
        let error = Error::new(Code::InternalError, Domain::Rpc, "100 %1$s");
        assert_eq!(error.to_string(), "internal error: 100 %1$s");
    }

    #[test]
    fn a_code_is_told_in_the_words_of_another() {
        let (code, words) = (Code::InternalError, Code::XmlError);
        let error = Error::worded(code, words, Domain::Network, "'12' is no UUID");
        assert_eq!(error.code(), code);
        assert_eq!(error.to_string(), "XML error: '12' is no UUID");
        let mut w = Writer::default();
        error.encode(&mut w);
        let bytes = w.finish().unwrap();
        let wire: WireError = from_bytes(&bytes).unwrap();
        assert_eq!(wire.str1.as_deref(), Some("XML error: %1$s"));
        assert_eq!(from_bytes::<Error>(&bytes).unwrap(), error);
    }

    #[test]
    fn a_refusal_of_the_kernel_keeps_its_number() {
        let error = Error::system(Domain::Network, 16, "can't set the MAC of vf 3");
        assert_eq!(
            error.to_string(),
            "can't set the MAC of vf 3: Device or resource busy"
        );
        let mut w = Writer::default();
        error.encode(&mut w);
        let bytes = w.finish().unwrap();
        let wire: WireError = from_bytes(&bytes).unwrap();
        assert_eq!((wire.int1, wire.int2), (16, -1));
        assert_eq!(from_bytes::<Error>(&bytes).unwrap(), error);
    }

    #[test]
    fn numbers_and_names_agree_both_ways() {
        for number in -1..150 {
            assert_eq!(Code::from_number(number).number(), number);
            assert_eq!(Domain::from_number(number).number(), number);
        }
        assert_eq!(Code::from_number(43), Code::NoNetwork);
    }
}
