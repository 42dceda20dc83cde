//! TLS as libvirt's clients and servers use it: both sides show certificates of one CA.

mod allow;
mod files;
mod names;

pub use self::allow::{AllowList, AllowPattern, PatternError};
pub use self::files::{CredentialsError, Files};
pub use self::names::{Attribute, ClientName, DistinguishedName};

pub(crate) use self::files::{client_config, server_config};

/// What a server sends, inside TLS, when it has let a client in: certificates are looked at after the
/// handshake, and a client could not tell otherwise.
pub(crate) const ADMITTED: u8 = 1;
