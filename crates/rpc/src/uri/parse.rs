//! Taking a URI apart.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use super::{
    AbsolutePath, Host, HostKind, Proxy, Ssh, TCP_PORT, TLS_PORT, Transport, Uri, UriError,
    UriFault, User,
};

/// Longest URI, in bytes.
const LONGEST: usize = 4096;
/// How much of one an error shows, in characters.
const LONGEST_SHOWN: usize = 200;
/// Longest name of a host, in bytes, as in the DNS.
const LONGEST_HOST: usize = 253;
/// Longest name of a user, in bytes.
const LONGEST_USER: usize = 128;

/// What is for the client alone: the daemon isn't told.
const FOR_CLIENTS: [&str; 16] = [
    "auth",
    "authfile",
    "command",
    "keyfile",
    "known_hosts",
    "known_hosts_verify",
    "mode",
    "name",
    "netcat",
    "no_sanity",
    "no_tty",
    "no_verify",
    "pkipath",
    "proxy",
    "socket",
    "sshauth",
];

const OF_SSH: &str = "only ssh's own configuration says which hosts and keys are trusted";
const NO_SASL: &str = "virtnic knows clients by certificate or ssh, and has no SASL";

/// What would make a connection another than the URI asks for, if it were ignored.
const REFUSED: [(&str, &str); 7] = [
    (
        "no_verify",
        "whoever is in between could pose as the daemon, and a client has every right there",
    ),
    ("tls_priority", "ciphers are not chosen by connection here"),
    ("auth", NO_SASL),
    ("authfile", NO_SASL),
    ("sshauth", OF_SSH),
    ("known_hosts", OF_SSH),
    ("known_hosts_verify", OF_SSH),
];

pub(super) fn parse(text: &str) -> Result<Uri, UriError> {
    take_apart(text).map_err(|fault| UriError {
        uri: shown(text),
        fault,
    })
}

/// A URI as errors show it: of limited length, and without what may be a password.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(LONGEST_SHOWN).collect();
    let Some((scheme, rest)) = start.split_once("://") else {
        return start;
    };
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (user, place),
        None => return start,
    };
    match user.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{place}"),
        None => start,
    }
}

fn take_apart(text: &str) -> Result<Uri, UriFault> {
    if text.len() > LONGEST {
        return Err(UriFault::TooLong(LONGEST));
    }
    let is_wrong = |c: &char| c.is_control() || c.is_whitespace() || "#\"<>\\^`{|}".contains(*c);
    if let Some(wrong) = text.chars().find(is_wrong) {
        return Err(UriFault::Character(wrong));
    }
    let (scheme, rest) = text.split_once("://").ok_or(UriFault::NoUri)?;
    let (driver, transport) = match scheme.split_once('+') {
        Some((driver, transport)) => (driver, Some(transport)),
        None => (scheme, None),
    };
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if !is_word(driver) {
        return Err(UriFault::NoUri);
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let at_path = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(at_path);
    if path.len() < 2 {
        return Err(UriFault::NoPath(driver.to_owned()));
    }
    let parameters = Parameters::read(query)?;
    let authority = Authority::read(authority)?;
    let transport = match (transport, &authority.host) {
        (None, None) => "unix",
        (None, Some(_)) => "tls",
        (Some(named), _) => named,
    };
    let transport = match transport {
        "unix" if authority.host.is_some() => return Err(UriFault::HostForUnix),
        "unix" => Transport::Unix {
            socket: parameters.path("socket")?,
        },
        "tcp" => Transport::Tcp {
            port: authority.port.unwrap_or(TCP_PORT),
            host: authority.host_or_this(),
        },
        "tls" => Transport::Tls {
            port: authority.port.unwrap_or(TLS_PORT),
            host: authority.host_or_this(),
            pki: parameters.path("pkipath")?,
        },
        "ssh" => Transport::Ssh(ssh(authority, &parameters)?),
        "libssh" | "libssh2" => return Err(UriFault::OwnSsh(transport.to_owned())),
        "ext" => return Err(UriFault::External),
        other => return Err(UriFault::UnknownTransport(other.to_owned())),
    };
    let name = match parameters.get("name") {
        Some(name) => name.to_owned(),
        None if driver == "remote" => String::new(),
        None => format!("{driver}://{path}{}", parameters.for_daemon()),
    };
    Ok(Uri {
        text: text.to_owned(),
        name,
        transport,
    })
}

fn ssh(authority: Authority, parameters: &Parameters) -> Result<Ssh, UriFault> {
    let netcat = parameters.program("netcat")?;
    let proxy = match parameters.get("proxy") {
        // Who names a netcat wants it.
        None if netcat.is_some() => Proxy::Netcat,
        None | Some("auto") => Proxy::Auto,
        Some("netcat") => Proxy::Netcat,
        Some("native") => Proxy::Native,
        Some(other) => return Err(UriFault::Proxy(other.to_owned())),
    };
    Ok(Ssh {
        user: authority.user.as_deref().map(user).transpose()?,
        port: authority.port,
        host: authority.host_or_this(),
        socket: parameters.path("socket")?,
        netcat,
        command: parameters.program("command")?,
        key_file: parameters.path("keyfile")?,
        proxy,
    })
}

/// What stands between the scheme and the path.
struct Authority {
    user: Option<String>,
    host: Option<Host>,
    port: Option<u16>,
}

impl Authority {
    fn read(text: &str) -> Result<Authority, UriFault> {
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(unescape(user)?), place),
            None => (None, text),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let no_host = || UriFault::Host(place.to_owned());
                let (address, port) = rest.split_once(']').ok_or_else(no_host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| no_host())?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or_else(no_host)?),
                };
                let host = Host(HostKind::Address(IpAddr::V6(address)));
                (Some(host), port)
            }
            None => {
                let (name, port) = match place.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (place, None),
                };
                let is_nothing = name.is_empty() && port.is_none() && user.is_none();
                let host = (!is_nothing).then(|| host(name, place)).transpose()?;
                (host, port)
            }
        };
        Ok(Authority {
            user,
            host,
            port: port.map(self::port).transpose()?,
        })
    }

    /// As with libvirt, no host is this one.
    fn host_or_this(self) -> Host {
        self.host
            .unwrap_or_else(|| Host(HostKind::Name("localhost".to_owned())))
    }
}

/// A host that stands in no brackets.
fn host(name: &str, place: &str) -> Result<Host, UriFault> {
    let no_host = || UriFault::Host(place.to_owned());
    // More than one colon is an IPv6 address without brackets.
    if place.matches(':').count() > 1 {
        return Err(no_host());
    }
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(Host(HostKind::Address(address)));
    }
    let is_fine = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !begins_well || name.len() > LONGEST_HOST || !name.chars().all(is_fine) {
        return Err(no_host());
    }
    Ok(Host(HostKind::Name(name.to_owned())))
}

fn port(text: &str) -> Result<u16, UriFault> {
    let port = text.bytes().all(|b| b.is_ascii_digit()).then_some(text);
    port.and_then(|digits| digits.parse().ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| UriFault::Port(text.to_owned()))
}

fn user(name: &str) -> Result<User, UriFault> {
    let is_fine = |c: char| c.is_alphanumeric() || "._-+@".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    if !begins_well || name.len() > LONGEST_USER || !name.chars().all(is_fine) {
        // What follows a colon may be a password.
        let shown = name.split_once(':').map_or(name, |(user, _)| user);
        return Err(UriFault::User(shown.to_owned()));
    }
    Ok(User(name.to_owned()))
}

/// What stands behind the question mark.
struct Parameters {
    /// As it is written, its name and its value.
    all: Vec<(String, String, String)>,
}

impl Parameters {
    fn read(query: &str) -> Result<Parameters, UriFault> {
        let pieces = query.split(['&', ';']).filter(|piece| !piece.is_empty());
        let all = pieces.map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            Ok((piece.to_owned(), unescape(name)?, unescape(value)?))
        });
        let parameters = Parameters {
            all: all.collect::<Result<_, UriFault>>()?,
        };
        for (parameter, why) in REFUSED {
            match parameters.get(parameter) {
                None => {}
                Some("0") if parameter == "no_verify" => {}
                Some(_) => return Err(UriFault::Refused { parameter, why }),
            }
        }
        Ok(parameters)
    }

    /// A value; the last one, as with libvirt.
    fn get(&self, wanted: &str) -> Option<&str> {
        let mut found = self.all.iter().rev().filter(|(_, name, _)| name == wanted);
        found.next().map(|(_, _, value)| value.as_str())
    }

    fn path(&self, parameter: &'static str) -> Result<Option<AbsolutePath>, UriFault> {
        let Some(value) = self.get(parameter) else {
            return Ok(None);
        };
        if !value.starts_with('/') {
            let value = value.to_owned();
            return Err(UriFault::Path { parameter, value });
        }
        Ok(Some(AbsolutePath(PathBuf::from(value))))
    }

    fn program(&self, parameter: &'static str) -> Result<Option<String>, UriFault> {
        let Some(value) = self.get(parameter) else {
            return Ok(None);
        };
        if value.is_empty() || value.starts_with('-') || value.contains(char::is_control) {
            let value = value.escape_debug().to_string();
            return Err(UriFault::Program { parameter, value });
        }
        Ok(Some(value.to_owned()))
    }

    /// What the daemon is told of them: what is unknown here.
    fn for_daemon(&self) -> String {
        let unknown = |(piece, name, _): &(String, String, String)| {
            (!FOR_CLIENTS.contains(&name.as_str())).then(|| piece.clone())
        };
        let told: Vec<String> = self.all.iter().filter_map(unknown).collect();
        if told.is_empty() {
            String::new()
        } else {
            format!("?{}", told.join("&"))
        }
    }
}

/// Text without its `%XX`. NUL ends a C string, so that others would read less than we do.
fn unescape(text: &str) -> Result<String, UriFault> {
    let fault = || UriFault::Escape(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or_else(fault)?, digit().ok_or_else(fault)?);
        let value = u8::try_from(high * 16 + low).map_err(|_| fault())?;
        if value == 0 {
            return Err(fault());
        }
        bytes.push(value);
    }
    String::from_utf8(bytes).map_err(|_| fault())
}
