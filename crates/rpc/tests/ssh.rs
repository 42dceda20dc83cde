//! A daemon behind an ssh, which is a script here: what it is told is read, and its input and output are
//! joined to a server of ours.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::Daemon;
use rpc::client::{Client, ConnectError, Connecting, Events};
use rpc::server::{Clients, Limits, serve};
use rpc::*;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::OpenOptions;

/// A program of a test's own.
fn program(dir: &Path, name: &str, script: &str) -> PathBuf {
    let path = dir.join(name);
    // Written elsewhere first: what another test forks must not hold it open for writing.
    let text = format!("#!/bin/sh\n{script}\n");
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .arg(text)
        .status();
    assert!(status.unwrap().success());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o755
    );
    path
}

async fn connect(query: &str) -> Result<(Client, Events), ConnectError> {
    let uri = format!("qemu+ssh://me@h1/system?{query}");
    let how = Connecting {
        time: Duration::from_secs(20),
        ..Connecting::default()
    };
    Client::connect(&uri.parse().unwrap(), &how).await
}

#[tokio::test]
async fn calls_go_through_it_and_it_ends_with_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [to_us, from_us] = ["to_us", "from_us"].map(|name| dir.join(name));
    for fifo in [&to_us, &from_us] {
        let made = std::process::Command::new("mkfifo").arg(fifo).status();
        assert!(made.unwrap().success());
    }
    let here = dir.display();
    let script =
        format!("printf '%s\\n' \"$@\" >{here}/told\ncat {here}/from_us & exec cat >{here}/to_us");
    let ssh = program(dir, "ssh", &script);

    let daemon = Arc::<Daemon>::default();
    let (stream, other) = UnixStream::pair().unwrap();
    // A pipe that nobody writes to yet would seem to have ended.
    let mut both = OpenOptions::new();
    let writer = both.read_write(true).open_sender(&to_us).unwrap();
    let mut input = OpenOptions::new().open_receiver(&to_us).unwrap();
    let mut output = both.open_sender(&from_us).unwrap();
    let (mut from_server, mut to_server) = other.into_split();
    let inward = tokio::spawn(async move { tokio::io::copy(&mut input, &mut to_server).await });
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut output).await });
    let clients = Clients::new(Limits::default());
    tokio::spawn(serve(Arc::clone(&daemon), stream, false, clients));

    let (client, _events) = connect(&format!("command={}&socket=/s", ssh.display()))
        .await
        .unwrap();
    drop(writer);
    assert_eq!(client.call(&ConnectGetHostname {}).await.unwrap(), "host");
    let told = fs::read_to_string(dir.join("told")).unwrap();
    assert!(told.contains("-l\nme\n--\nh1\nsh -c 'S=/s; "), "{told}");
    drop(client);
    daemon.closed.notified().await;
    // Its input has ended, so that it has.
    inward.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_it_printed_last_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = "for i in 1 2 3 4 5 6 7; do echo line $i >&2; done\n\
                  printf 'h1: \\033[1mPermission denied (publickey).\\n' >&2\nexit 255";
    let ssh = program(dir.path(), "ssh", script);
    let error = connect(&format!("command={}", ssh.display()))
        .await
        .unwrap_err();
    let ConnectError::Ssh { said, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(said.len(), 5);
    let told = error.to_string();
    assert!(
        told.contains("line 7; h1: \\u{1b}[1mPermission denied"),
        "{told}"
    );
    assert!(told.starts_with("ssh to h1 led to no daemon: "));

    let silent = program(dir.path(), "silent", "exit 1");
    let error = connect(&format!("command={}", silent.display()))
        .await
        .unwrap_err();
    assert!(error.to_string().ends_with("and said nothing"), "{error}");
}

#[tokio::test]
async fn none_at_all_is_told() {
    let error = connect("command=/nowhere/ssh").await.unwrap_err();
    assert_eq!(error.to_string(), "can't run '/nowhere/ssh'");
}
