//! Where QEMU's stream goes: the places that a destination's QEMU may wait at.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;

use super::wrong;
use crate::fault::Result;

/// The ports that are taken where none is asked for: libvirt's own.
pub(super) const PORTS: std::ops::RangeInclusive<u16> = 49152..=49215;

/// Where a guest's stream may go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// For the destination's QEMU, of which the first that is free is taken.
    pub(super) listen: Vec<String>,
    /// What the source's QEMU is told, up to the port; `None`: exactly that.
    host: Option<String>,
}

impl Places {
    /// By what the user asks for, `reached` being the address at which the client reached this host, and
    /// `hostname` its name. Asks the resolver; blocks.
    ///
    /// # Errors
    /// It is none that QEMU could be told.
    pub(super) fn find(
        uri: Option<&str>,
        listen: Option<&str>,
        reached: Option<IpAddr>,
        hostname: &str,
    ) -> Result<Self> {
        if let Some(path) = uri.and_then(|uri| uri.strip_prefix("unix:")) {
            if listen.is_some() {
                return Err(wrong(
                    "an address to listen at is given beside a unix socket",
                ));
            }
            return Self::unix(path);
        }
        let (host, port) = match uri {
            None => (
                reached.map_or_else(|| hostname.to_owned(), |ip| ip.to_string()),
                None,
            ),
            Some(uri) => host_and_port(uri)?,
        };
        let at = match (listen, uri, reached) {
            (Some(listen), ..) => listen.parse().map_err(|_| {
                wrong(format!(
                    "the address to listen at, '{listen}', is no IP address"
                ))
            })?,
            (None, None, Some(reached)) => reached,
            (None, ..) => resolve(&host)?,
        };
        let ports = match port {
            Some(port) => port..=port,
            None => PORTS,
        };
        Ok(Self {
            listen: ports
                .map(|port| format!("tcp:{}:{port}", bracketed(&at.to_string())))
                .collect(),
            host: Some(host),
        })
    }

    fn unix(path: &str) -> Result<Self> {
        let path = match path.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            _ => path,
        };
        if !Path::new(path).is_absolute() || path.contains(['\n', ',']) {
            return Err(wrong(format!(
                "'unix:{path}' names no socket: unix:///PATH does"
            )));
        }
        Ok(Self {
            listen: vec![format!("unix:{path}")],
            host: None,
        })
    }

    /// What the source's QEMU is told, once the destination's waits at `taken`.
    pub(super) fn told(&self, taken: &str) -> String {
        match (&self.host, taken.rsplit_once(':')) {
            (Some(host), Some((_, port))) => format!("tcp:{}:{port}", bracketed(host)),
            _ => taken.to_owned(),
        }
    }
}

/// What a source's QEMU may be told.
///
/// # Errors
/// It is none of the kinds that there are.
pub(super) fn check_target(uri: &str) -> Result<String> {
    if let Some(path) = uri.strip_prefix("unix:") {
        let places = Places::unix(path)?;
        return Ok(places.listen.into_iter().next().unwrap_or_default());
    }
    match host_and_port(uri)? {
        (host, Some(port)) => Ok(format!("tcp:{}:{port}", bracketed(&host))),
        (_, None) => Err(wrong(format!("'{uri}' has no port"))),
    }
}

/// `tcp:HOST[:PORT]`, `tcp://HOST[:PORT]`; an IPv6 address in brackets.
fn host_and_port(uri: &str) -> Result<(String, Option<u16>)> {
    let wrong = |why: &str| wrong(format!("the migration URI '{uri}' {why}"));
    let Some(rest) = uri.strip_prefix("tcp:") else {
        return Err(wrong(
            "is of no kind that is known: tcp://HOST[:PORT], unix:///PATH",
        ));
    };
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (
            host,
            port.strip_prefix(':').or(port.is_empty().then_some("")),
        ),
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, Some("")),
        },
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    if host.is_empty() || !host.chars().all(is_name) {
        return Err(wrong("names no host"));
    }
    let port = match port {
        Some("") => None,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(wrong("has no port that could be")),
            Ok(port) => Some(port),
        },
        None => return Err(wrong("has something after the address")),
    };
    Ok((host.to_owned(), port))
}

/// The address of this host that a name stands for.
fn resolve(host: &str) -> Result<IpAddr> {
    let found = (host, 0).to_socket_addrs();
    let mut found: Vec<IpAddr> = found
        .into_iter()
        .flatten()
        .map(|found| found.ip())
        .collect();
    // Many a host has its own name for itself beside the one that others use.
    found.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    found.into_iter().next().ok_or_else(|| {
        wrong(format!(
            "'{host}' is no name that this host knows\nGive its address: --migrateuri tcp://ADDRESS"
        ))
    })
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(uri: Option<&str>, listen: Option<&str>, reached: Option<&str>) -> Result<Places> {
        Places::find(
            uri,
            listen,
            reached.map(|ip| ip.parse().unwrap()),
            "localhost",
        )
    }

    #[test]
    fn a_stream_goes_where_it_is_asked_to_or_where_the_client_came_from() {
        let places = find(None, None, Some("192.0.2.7")).unwrap();
        assert_eq!(places.listen.len(), 64);
        assert_eq!(places.listen[0], "tcp:192.0.2.7:49152");
        assert_eq!(places.told("tcp:192.0.2.7:49160"), "tcp:192.0.2.7:49160");
        let places = find(Some("tcp://localhost:7000"), None, None).unwrap();
        assert_eq!(places.listen, ["tcp:127.0.0.1:7000"]);
        assert_eq!(places.told("tcp:127.0.0.1:7000"), "tcp:localhost:7000");
        let places = find(Some("tcp:b.example"), Some("::1"), None).unwrap();
        assert_eq!(places.told("tcp:[::1]:49153"), "tcp:b.example:49153");
        let places = find(Some("tcp://[2001:db8::1]:9"), Some("::1"), None).unwrap();
        assert_eq!(places.listen, ["tcp:[::1]:9"]);
        assert_eq!(places.told("tcp:[::1]:9"), "tcp:[2001:db8::1]:9");
        let places = find(Some("unix:///run/x"), None, None).unwrap();
        assert_eq!(
            (places.listen[0].as_str(), &*places.told("unix:/run/x")),
            ("unix:/run/x", "unix:/run/x")
        );
        assert_eq!(check_target("tcp://h:1").unwrap(), "tcp:h:1");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for uri in [
            "",
            "tcp:",
            "tcp://",
            "tcp://a:0",
            "tcp://a:x",
            "tcp://[::1",
            "tcp://[::1]x",
            "tcp://a b",
            "exec:rm",
            "fd:3",
            "rdma://a",
            "unix:x",
            "unix:/a,b",
            "tcp://a;b:1",
            "tcp://-x:70000",
        ] {
            assert!(find(Some(uri), None, None).is_err(), "{uri}");
            assert!(check_target(uri).is_err(), "{uri}");
        }
        assert!(check_target("tcp://a").is_err());
        assert!(find(None, Some("all"), None).is_err());
        assert!(find(Some("unix:///x"), Some("::1"), None).is_err());
    }
}
