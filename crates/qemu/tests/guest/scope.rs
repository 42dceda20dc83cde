//! A start under systemd, with stand-ins for QEMU and `busctl`.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use qemu::{GuestState, LaunchError, LaunchSpec, Launcher, Scopes};

use crate::SOON;
use crate::common::{Bench, pid_in, runs, wait_for_end};

/// A start on a host of systemd's, whose `busctl` is this shell script.
fn under_systemd(bench: &Bench, script: &str) -> LaunchSpec {
    let busctl = bench.path("busctl");
    // By another process: one of ours that is open for writing might reach another test's child,
    // and can't be executed then.
    let written = Command::new("bash")
        .args(["-c", "printf '%s\\n' \"$1\" >\"$0\" && chmod +x \"$0\""])
        .arg(&busctl)
        .arg(format!("#!/bin/sh\nhere=${{0%/*}}\n{script}"))
        .status();
    assert!(written.unwrap().success());
    let mut spec = bench.spec();
    let mut scopes = Scopes::under_systemd(&bench.path("")).unwrap();
    scopes.busctl = busctl;
    spec.scopes = Some(scopes);
    spec
}

#[tokio::test]
async fn systemd_has_its_process_before_the_guest_runs() {
    let bench = Bench::serving();
    let script = "printf '%s\\n' \"$@\" >\"$here/words\"; sleep 0.3; echo >\"$here/done\"; exit 1";
    let guest = Launcher::Qemu
        .launch(under_systemd(&bench, script))
        .await
        .unwrap()
        .guest;
    // That it was refused in the end does not matter.
    assert_eq!(guest.state(), GuestState::Running);
    assert!(bench.path("done").exists(), "it ran before that");
    let words = fs::read_to_string(bench.path("words")).unwrap();
    let pid = guest.pid().unwrap();
    let unit = format!("\nvirtnic-1ccfd97d-5eb4-478a-bbe6-88d254c16db7-{pid}.scope\n");
    assert!(words.contains(&unit), "{words}");
    assert!(
        words.contains(&format!("\nPIDs\nau\n1\n{pid}\n")),
        "{words}"
    );
    assert!(words.contains("\nguest web of virtnicd\n"), "{words}");
    guest.destroy().await.unwrap();
}

#[tokio::test]
async fn a_systemd_that_hangs_delays_a_start_by_its_deadline_only() {
    let bench = Bench::serving();
    let mut spec = under_systemd(&bench, "echo $$ >\"$here/busctl.pid\"; exec sleep 1000");
    if let Some(scopes) = &mut spec.scopes {
        scopes.deadline = Duration::from_millis(500);
    }
    let begun = Instant::now();
    let guest = Launcher::Qemu.launch(spec).await.unwrap().guest;
    assert!(begun.elapsed() < SOON);
    assert_eq!(guest.state(), GuestState::Running);
    let pid = pid_in(&bench.path("busctl.pid"));
    tokio::task::spawn_blocking(move || wait_for_end(pid))
        .await
        .unwrap();
    guest.destroy().await.unwrap();
}

#[tokio::test]
async fn a_start_that_is_given_up_takes_its_call_along() {
    let bench = Bench::serving();
    let spec = under_systemd(
        &bench,
        "echo $$ >\"$here/new\"; mv \"$here/new\" \"$here/busctl.pid\"; exec sleep 1000",
    );
    let mark = bench.path("busctl.pid");
    let called = async {
        while !mark.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let begun = Instant::now();
    let given_up = Launcher::Qemu.launch_until(spec, called).await;
    assert!(
        matches!(given_up, Err(LaunchError::GivenUp)),
        "{given_up:?}"
    );
    assert!(begun.elapsed() < SOON);
    let pid = pid_in(&mark);
    tokio::task::spawn_blocking(move || wait_for_end(pid))
        .await
        .unwrap();
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_qemu_that_refuses_is_not_kept_waiting_for() {
    let bench = Bench::with_script("echo 'no such machine' >&2; exit 1");
    let spec = under_systemd(&bench, "exec sleep 1000");
    let begun = Instant::now();
    let error = Launcher::Qemu.launch(spec).await.unwrap_err();
    assert!(matches!(error, LaunchError::Refused { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4));
}
