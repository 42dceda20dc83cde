//! Where a daemon is: libvirt's connection URIs.

mod parse;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where TLS is listened for if no port is named.
pub const TLS_PORT: u16 = 16514;
/// Where plain TCP is.
pub const TCP_PORT: u16 = 16509;

/// A connection URI, such as `qemu+tls://host/system`: how a daemon is reached, and what it is asked for.
///
/// ```
/// use rpc::uri::{Transport, Uri};
/// let uri: Uri = "qemu+ssh://admin@[2001:db8::1]:2222/system".parse()?;
/// let Transport::Ssh(ssh) = uri.transport() else { unreachable!() };
/// assert_eq!((ssh.host.to_string().as_str(), ssh.port), ("2001:db8::1", Some(2222)));
/// assert_eq!(uri.name(), "qemu:///system");
/// # Ok::<(), rpc::uri::UriError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    text: String,
    name: String,
    transport: Transport,
}

impl Uri {
    /// What the daemon is asked to open: without what only says how it is reached. Empty: its choice.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is reached.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        parse::parse(text)
    }
}

/// How a daemon is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A socket of this host.
    Unix {
        /// Which one; none: virtnic's, or else libvirt's.
        socket: Option<AbsolutePath>,
    },
    /// TCP as it is: nobody is known, anybody reads along.
    Tcp {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
    },
    /// TLS in which both sides show certificates.
    Tls {
        /// The host; its certificate names it.
        host: Host,
        /// The port.
        port: u16,
        /// Where our certificates are; none: where libvirt has them.
        pki: Option<AbsolutePath>,
    },
    /// The system's `ssh`.
    Ssh(Ssh),
}

/// A daemon that is reached through the system's `ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// As whom; none: as ssh is configured.
    pub user: Option<User>,
    /// The host, or what ssh's configuration calls so.
    pub host: Host,
    /// The port; none: as ssh is configured.
    pub port: Option<u16>,
    /// The daemon's socket there; none: virtnic's, or else libvirt's.
    pub socket: Option<AbsolutePath>,
    /// The netcat there; none: `nc`.
    pub netcat: Option<String>,
    /// The ssh here; none: `ssh`. It runs as this process does.
    pub command: Option<String>,
    /// The private key.
    pub key_file: Option<AbsolutePath>,
    /// What joins ssh and the socket on the other side.
    pub proxy: Proxy,
}

/// What joins ssh and a socket on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proxy {
    /// libvirt's helper if it is there and no socket was named, or else netcat.
    #[default]
    Auto,
    /// Netcat.
    Netcat,
    /// libvirt's helper, `virt-ssh-helper`.
    Native,
}

/// A host: an address, or a name of letters, digits, `.`, `-` and `_` that no program can take for an
/// option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(HostKind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostKind {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// Its address, if that is how it was named.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.0 {
            HostKind::Address(address) => Some(address),
            HostKind::Name(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            HostKind::Address(address) => address.fmt(f),
            HostKind::Name(name) => f.write_str(name),
        }
    }
}

/// A user of another host: a name that no program can take for an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(String);

impl User {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsolutePath(PathBuf);

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl AbsolutePath {
    /// As text, which it was in the URI.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// A URI names no daemon that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't connect to '{}': {fault}", .uri.escape_debug())]
pub struct UriError {
    /// As it was given, without a password, and only the start of a long one.
    pub uri: String,
    /// What is wrong with it.
    pub fault: UriFault,
}

/// What is wrong with a URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriFault {
    /// Nothing to be taken apart.
    #[error("that is no connection URI; one is qemu+tls://HOST/system")]
    NoUri,
    /// Longer than any that is meant.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// Control characters and the like.
    #[error("it has the character {0:?}, which has to be written as %XX")]
    Character(char),
    /// A `%` that no byte follows, or bytes that are no text.
    #[error("'{0}' is not written as %XX of UTF-8 text, without NUL")]
    Escape(String),
    /// One of libvirt's that is not made here.
    #[error("the transport '{0}' is not supported here; use ssh, which runs the system's ssh")]
    OwnSsh(String),
    /// `ext`.
    #[error("the transport 'ext' is not supported here; use ssh, whose 'command=' names a program")]
    External,
    /// Nobody's.
    #[error("there is no transport '{0}'; there are unix, tls, ssh and tcp")]
    UnknownTransport(String),
    /// A daemon has to be asked for something.
    #[error("it has no path; /system is usual, as in {0}:///system")]
    NoPath(String),
    /// A socket of this host.
    #[error("the transport unix takes no host; 'socket=' names a socket")]
    HostForUnix,
    /// No host's name.
    #[error("'{0}' is not a host; IPv6 addresses stand in brackets")]
    Host(String),
    /// No port's number.
    #[error("'{0}' is not a port, of 1 to 65535")]
    Port(String),
    /// No user's name.
    #[error("'{0}' is not a user for ssh (and passwords are not given in URIs)")]
    User(String),
    /// Relative.
    #[error("'{parameter}=' has to be a path from the root, and not '{value}'")]
    Path {
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        value: String,
    },
    /// No program's name.
    #[error("'{parameter}=' has to name a program, and not '{value}'")]
    Program {
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        value: String,
    },
    /// Another `proxy`.
    #[error("'proxy=' is auto, netcat or native, and not '{0}'")]
    Proxy(String),
    /// A parameter that can't be followed, and that nobody would want to be ignored.
    #[error("'{parameter}=' is refused: {why}")]
    Refused {
        /// The parameter.
        parameter: &'static str,
        /// Why that is.
        why: &'static str,
    },
}
