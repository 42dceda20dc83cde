//! Where a daemon is, as its URI says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use rpc::uri::{Proxy, Ssh, Transport, Uri, UriFault};

fn uri(text: &str) -> Uri {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn fault(text: &str) -> UriFault {
    let error = text.parse::<Uri>().unwrap_err();
    assert!(text.starts_with(&error.uri) || text.contains("secret"));
    let (said, fault) = (error.to_string(), error.fault.to_string());
    assert!(
        said.ends_with(&fault) && said.matches(&fault).count() == 1,
        "{said}"
    );
    error.fault
}

/// Host, port and whether that is TLS.
fn place(text: &str) -> (String, u16, bool) {
    match uri(text).transport() {
        Transport::Tls { host, port, .. } => (host.to_string(), *port, true),
        Transport::Tcp { host, port } => (host.to_string(), *port, false),
        other => panic!("{text}: {other:?}"),
    }
}

fn ssh(text: &str) -> Ssh {
    match uri(text).transport() {
        Transport::Ssh(ssh) => ssh.clone(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn sockets_of_this_host() {
    for (text, path) in [
        ("qemu:///system", None),
        ("qemu+unix:///system", None),
        ("qemu:///system?socket=/a/b", Some("/a/b")),
        ("qemu+unix:///system?socket=/a%20b", Some("/a b")),
        ("qemu+unix:///system?mode=direct;socket=/x", Some("/x")),
        ("qemu:///system?socket=/first&socket=/last", Some("/last")),
    ] {
        let Transport::Unix { socket } = uri(text).transport().clone() else {
            panic!("{text}");
        };
        assert_eq!(socket.as_ref().map(AsRef::as_ref), path.map(str::as_ref));
        assert_eq!(uri(text).name(), "qemu:///system");
        assert_eq!(uri(text).to_string(), text);
    }
}

#[test]
fn hosts_by_tls_and_tcp() {
    let name = |host: &str, port, tls| (host.to_owned(), port, tls);
    for (text, expected) in [
        ("qemu://h1/system", name("h1", 16514, true)),
        (
            "qemu+tls://h1.example.org:1234/system",
            name("h1.example.org", 1234, true),
        ),
        (
            "qemu+tls://[2001:db8::1]/system",
            name("2001:db8::1", 16514, true),
        ),
        ("qemu+tls://[::1]:99/system", name("::1", 99, true)),
        ("qemu+tls:///system", name("localhost", 16514, true)),
        ("qemu+tls://user@h1/system", name("h1", 16514, true)),
        (
            "qemu+tcp://192.0.2.1/system",
            name("192.0.2.1", 16509, false),
        ),
        ("qemu+tcp://h1:7/system", name("h1", 7, false)),
    ] {
        assert_eq!(place(text), expected, "{text}");
    }
    let Transport::Tls { host, pki, .. } = uri("qemu://192.0.2.1/system?pkipath=/etc/my")
        .transport()
        .clone()
    else {
        panic!();
    };
    assert!(host.address().is_some());
    assert_eq!(pki.unwrap().as_ref(), std::path::Path::new("/etc/my"));
}

#[test]
fn hosts_by_ssh() {
    let plain = ssh("qemu+ssh://h1/system");
    assert_eq!(
        (plain.user, plain.port, plain.proxy),
        (None, None, Proxy::Auto)
    );
    let full = ssh(
        "qemu+ssh://ad.min@h1:22/system?socket=/s&netcat=/bin/nc&command=/bin/ssh&keyfile=/k&proxy=auto",
    );
    assert_eq!(full.user.unwrap().as_str(), "ad.min");
    assert_eq!(
        (full.host.to_string().as_str(), full.port),
        ("h1", Some(22))
    );
    assert_eq!(full.netcat.as_deref(), Some("/bin/nc"));
    assert_eq!(full.command.as_deref(), Some("/bin/ssh"));
    assert!(full.socket.is_some() && full.key_file.is_some());
    assert_eq!(full.proxy, Proxy::Auto);
    assert_eq!(ssh("qemu+ssh://h/system?netcat=nc").proxy, Proxy::Netcat);
    assert_eq!(ssh("qemu+ssh://h/system?proxy=native").proxy, Proxy::Native);
}

#[test]
fn the_daemon_is_told_what_is_not_about_the_way_to_it() {
    for (text, name) in [
        ("qemu+ssh://h/system?no_tty=1&socket=/s", "qemu:///system"),
        (
            "qemu+tcp://h/session?x=%2f&no_sanity=1&y",
            "qemu:///session?x=%2f&y",
        ),
        ("remote+tls://h/system", ""),
        (
            "qemu+tls://h/system?name=network:///system",
            "network:///system",
        ),
        ("network://h/system?no_verify=0", "network:///system"),
    ] {
        assert_eq!(uri(text).name(), name, "{text}");
    }
}

#[test]
fn what_would_weaken_a_connection_is_refused_by_name() {
    for refused in [
        "no_verify=1",
        "no_verify",
        "no_verify=yes",
        "no%5fverify=1",
        "tls_priority=NORMAL",
        "auth=sasl",
        "authfile=/x",
        "sshauth=agent",
        "known_hosts=/dev/null",
        "known_hosts_verify=auto",
    ] {
        for transport in ["tls", "ssh", "tcp"] {
            let text = format!("qemu+{transport}://h/system?{refused}");
            let UriFault::Refused { parameter, .. } = fault(&text) else {
                panic!("{text}");
            };
            let named = refused.replace("%5f", "_");
            assert_eq!(named.split('=').next(), Some(parameter));
        }
    }
}

#[test]
fn faults_are_told() {
    let is = |text: &str, part: &str| {
        let said = fault(text).to_string();
        assert!(said.contains(part), "{text}: {said}");
    };
    is("", "no connection URI");
    is("system", "no connection URI");
    is("-qemu:///system", "no connection URI");
    is("qemu://system", "qemu:///system");
    is("qemu+ssh://h", "has no path");
    is("qemu+libssh://h/system", "'libssh' is not supported");
    is("qemu+libssh2://h/system", "'libssh2' is not supported");
    is("qemu+ext://h/system", "'ext' is not supported");
    is("qemu+udp://h/system", "no transport 'udp'");
    is("qemu+unix://h/system", "takes no host");
    is("qemu+ssh://-oProxyCommand=x/system", "is not a host");
    is("qemu+ssh://h;x/system", "is not a host");
    is("qemu+ssh://$(x)/system", "is not a host");
    is("qemu+tls://2001:db8::1/system", "brackets");
    is("qemu+tls://[fe80::1%25eth0]/system", "is not a host");
    is("qemu+tls://[::1]x/system", "is not a host");
    is("qemu+tls://[::1/system", "is not a host");
    is("qemu+tls://:99/system", "is not a host");
    is("qemu+tls://h:/system", "is not a port");
    is("qemu+tls://h:0/system", "is not a port");
    is("qemu+tls://h:+1/system", "is not a port");
    is("qemu+tls://h:65536/system", "is not a port");
    is("qemu+ssh://-l@h/system", "not a user");
    is("qemu+ssh://me:secret@h/system", "passwords");
    let told = "qemu+ssh://me:secret@h/system".parse::<Uri>().unwrap_err();
    assert!(!told.to_string().contains("secret"), "{told}");
    is("qemu:///system?socket=run/x", "path from the root");
    is("qemu+ssh://h/system?netcat=-x", "name a program");
    is("qemu+ssh://h/system?command=", "name a program");
    is("qemu+ssh://h/system?proxy=none", "auto, netcat or native");
    is("qemu:///system?socket=/a%00", "without NUL");
    is("qemu:///system?socket=/a%4", "%XX");
    is("qemu:///system?socket=/a%ff", "%XX");
    is("qemu:///system?socket=/a b", "' '");
    is("qemu:///system\n", "'\\n'");
    is(&format!("qemu:///{}", "x".repeat(4096)), "longer");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
        let _ = text.parse::<Uri>();
    }

    #[test]
    fn what_looks_like_a_uri_never_gives_an_option(
        transport in "tls|tcp|ssh", user in "[-a-z@:%$]{0,6}", host in "[-a-z0-9.:\\[\\]%;]{0,12}",
    ) {
        let text = format!("qemu+{transport}://{user}@{host}/system");
        if let Ok(uri) = text.parse::<Uri>() {
            let host = match uri.transport() {
                Transport::Ssh(ssh) => {
                    prop_assert!(ssh.user.as_ref().is_none_or(|user| !user.as_str().starts_with('-')));
                    ssh.host.to_string()
                }
                Transport::Tls { host, .. } | Transport::Tcp { host, .. } => host.to_string(),
                Transport::Unix { .. } => String::new(),
            };
            prop_assert!(!host.starts_with('-') && !host.contains([';', '$', '%', '@']));
            prop_assert_eq!(uri.name(), "qemu:///system");
        }
    }

    #[test]
    fn hosts_and_ports_come_out_as_they_went_in(host in "[a-z][a-z0-9-]{0,20}", port in 1u16..) {
        prop_assert_eq!(place(&format!("qemu+tls://{host}:{port}/system")), (host, port, true));
    }
}
