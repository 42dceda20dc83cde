//! A guest's life, with a stand-in for QEMU.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
#[path = "guest/memory.rs"]
mod memory;
#[path = "guest/placement.rs"]
mod placement;
#[path = "guest/printing.rs"]
mod printing;
#[path = "guest/reconnecting.rs"]
mod reconnecting;
#[path = "guest/scope.rs"]
mod scope;
#[path = "guest/starting.rs"]
mod starting;

use std::time::Duration;

use common::{Bench, pid_in, runs};
use qemu::{
    Exit, ExitReason, ExitStatus, Guest, GuestEvent, GuestEvents, GuestState, LaunchError,
    Launched, Launcher, PauseReason, QmpError,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Not a test: what the stand-in's script becomes.
#[test]
#[ignore = "run by the stand-in for QEMU"]
fn stand_in() {
    common::serve();
}

/// Has the stand-in do something that QEMU has no command for.
async fn have(guest: &Guest, command: &str) -> Result<Value, QmpError> {
    let qmp = guest.qmp().unwrap();
    qmp.execute(command, Value::Null, Vec::new(), SOON).await
}

/// All that is left to happen, without QEMU's own words.
async fn rest(events: &mut GuestEvents) -> Vec<GuestEvent> {
    let mut all = Vec::new();
    while let Some(event) = tokio::time::timeout(SOON, events.recv()).await.unwrap() {
        let last = matches!(event, GuestEvent::Exited(_));
        if !matches!(event, GuestEvent::Qmp(_)) {
            all.push(event);
        }
        if last {
            break;
        }
    }
    all
}

/// Waits for a state.
async fn reach(events: &mut GuestEvents, wanted: GuestState) {
    loop {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap();
        if matches!(event.unwrap(), GuestEvent::State { to, .. } if to == wanted) {
            return;
        }
    }
}

fn exited(events: &[GuestEvent]) -> Exit {
    match events.last() {
        Some(GuestEvent::Exited(exit)) => *exit,
        other => panic!("the last event is {other:?}"),
    }
}

#[tokio::test]
async fn a_guest_starts_halted_runs_halts_and_is_destroyed() {
    let bench = Bench::serving();
    let mut spec = bench.spec();
    spec.paused = true;
    let Launched {
        guest,
        mut events,
        ptys,
    } = Launcher::Qemu.launch(spec).await.unwrap();
    assert_eq!(guest.state(), GuestState::Paused(PauseReason::Starting));
    assert_eq!(ptys["serial0"], "/dev/pts/99");
    let log = std::fs::read_to_string(bench.log()).unwrap();
    assert!(
        log.contains("-stand-in \\\n-name guest=web,debug-threads=on \\\n-S"),
        "{log}"
    );

    guest.resume().await.unwrap();
    assert_eq!(guest.state(), GuestState::Running);
    guest.suspend().await.unwrap();
    assert_eq!(guest.state(), GuestState::Paused(PauseReason::User));

    let exit = guest.destroy().await.unwrap();
    assert_eq!(exit.reason, ExitReason::Destroyed);
    assert_eq!(exit.status, Some(ExitStatus::Signal(15)));
    assert!(!runs(guest.pid().unwrap()));
    assert_eq!(exited(&rest(&mut events).await), exit);
    assert!(!bench.path("run/monitor.sock").exists());
    assert!(
        guest
            .resume()
            .await
            .unwrap_err()
            .to_string()
            .contains("not running")
    );
    assert_eq!(guest.destroy().await.unwrap(), exit, "twice is fine");
}

#[tokio::test]
async fn raw_commands_pass_through_in_both_languages() {
    let bench = Bench::serving();
    let guest = Launcher::Qemu.launch(bench.spec()).await.unwrap().guest;
    let qmp = guest.qmp().unwrap();

    let answer = qmp
        .pass_through(r#"{"execute":"query-status","id":"mine"}"#, SOON)
        .await;
    let answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    assert_eq!(answer["return"]["status"], "running");
    assert_eq!(answer["id"], "mine");

    let answer = qmp
        .pass_through(r#"{"execute":"fly"}"#, SOON)
        .await
        .unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["error"]["class"], "CommandNotFound");

    for text in ["", "info status", "{}", "[1]"] {
        let error = qmp.pass_through(text, SOON).await.unwrap_err();
        assert!(matches!(error, QmpError::NotACommand { .. }), "{error}");
    }
    assert_eq!(
        qmp.human("info status", SOON).await.unwrap(),
        "you said info status\r\n"
    );
    guest.destroy().await.unwrap();
}

#[tokio::test]
async fn strange_lines_and_dropped_calls_do_not_end_the_connection() {
    let bench = Bench::serving();
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(bench.spec()).await.unwrap();
    have(&guest, "say-strange-things").await.unwrap();
    let strange = loop {
        match events.recv().await.unwrap() {
            GuestEvent::Qmp(event) if event.name == "EVENT_OF_TOMORROW" => break event,
            _ => {}
        }
    };
    assert_eq!(strange.data["strange"], json!([1, 2]));

    tokio::select! {
        biased;
        answer = have(&guest, "query-status") => panic!("answered at once: {answer:?}"),
        () = std::future::ready(()) => {} // sent, and dropped before the answer
    }
    let qmp = guest.qmp().unwrap();
    let late = qmp
        .execute(
            "be-silent",
            Value::Null,
            Vec::new(),
            Duration::from_millis(50),
        )
        .await;
    assert!(matches!(late, Err(QmpError::Deadline { .. })), "{late:?}");
    assert_eq!(qmp.status().await.unwrap().to_string(), "running");
    guest.destroy().await.unwrap();
}

#[tokio::test]
async fn a_qemu_that_refuses_is_quoted() {
    let bench = Bench::with_script(
        "echo 'qemu: -device vfio-pci,host=03:10.1: vfio 0000:03:10.1: group is not viable' >&2\n\
         exit 1",
    );
    std::fs::write(bench.log(), "words of yesterday\n").unwrap();
    let error = Launcher::Qemu.launch(bench.spec()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "QEMU refused to start (exit status 1): \
         qemu: -device vfio-pci,host=03:10.1: vfio 0000:03:10.1: group is not viable"
    );
    let log = std::fs::read_to_string(bench.log()).unwrap();
    assert!(log.starts_with("words of yesterday\n"), "{log}");
    assert!(!bench.path("run").exists());
}

#[tokio::test]
async fn a_qemu_without_a_word_points_to_its_log() {
    let bench = Bench::with_script("kill -9 $$");
    let error = Launcher::Qemu
        .launch(bench.spec())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("QEMU refused to start (signal 9): it said nothing"),
        "{error}"
    );
    assert!(error.contains("web.log"), "{error}");
}

#[tokio::test]
async fn a_qemu_that_hangs_is_killed() {
    let bench = Bench::with_script("echo $$ >\"${0%/*}/pid\"\necho stuck >&2\nexec sleep 1000");
    let mut spec = bench.spec();
    spec.deadline = Duration::from_millis(500);
    let error = Launcher::Qemu.launch(spec).await.unwrap_err();
    assert!(matches!(error, LaunchError::Monitor { .. }), "{error}");
    assert!(error.to_string().contains("stuck"), "{error}");
    assert!(!runs(pid_in(&bench.path("pid"))));
}

#[tokio::test]
async fn a_missing_qemu_is_said_to_be_missing() {
    let bench = Bench::serving();
    let mut spec = bench.spec();
    spec.domain.devices.emulator = Some("/nonexistent/qemu".to_owned());
    let error = Launcher::Qemu.launch(spec).await.unwrap_err();
    assert!(matches!(error, LaunchError::NoEmulator { .. }));
    assert!(
        error
            .to_string()
            .starts_with("there is no emulator /nonexistent/qemu\n")
    );
}

#[tokio::test]
async fn a_qemu_that_dies_is_noticed_at_once() {
    let bench = Bench::serving();
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(bench.spec()).await.unwrap();
    let qmp = guest.qmp().unwrap();
    let lost = qmp
        .execute("exit", json!({ "code": 3 }), Vec::new(), SOON)
        .await;
    assert!(matches!(lost, Err(QmpError::Closed { .. })), "{lost:?}");
    let exit = exited(&rest(&mut events).await);
    assert_eq!(exit.reason, ExitReason::Died);
    assert_eq!(exit.status, Some(ExitStatus::Code(3)));
    assert_eq!(guest.state(), GuestState::Ended);
    assert_eq!(guest.exited().await, exit);
}

#[tokio::test]
async fn a_guest_that_switches_itself_off_ends() {
    let bench = Bench::serving();
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(bench.spec()).await.unwrap();
    guest.shutdown().await.unwrap();
    let happened = rest(&mut events).await;
    assert_eq!(
        happened[0],
        GuestEvent::State {
            from: GuestState::Running,
            to: GuestState::ShuttingDown
        }
    );
    assert_eq!(
        exited(&happened).reason,
        ExitReason::Shutdown { by_guest: true }
    );
    let by_guest = Some(true);
    assert_eq!(happened[1], GuestEvent::Shutdown { by_guest });
    assert_eq!(
        happened.len(),
        4,
        "shutting down, by whom, ended, exited: {happened:?}"
    );
}

#[tokio::test]
async fn who_switched_off_first_counts() {
    let bench = Bench::serving();
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(bench.spec()).await.unwrap();
    have(&guest, "shut-down-and-be-told-to-go").await.unwrap();
    let exit = exited(&rest(&mut events).await);
    assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: true });
}

#[tokio::test]
async fn what_is_asked_for_after_a_power_off_is_done() {
    let bench = Bench::serving();
    let spec = bench.spec_with("<on_poweroff>restart</on_poweroff>");
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(spec).await.unwrap();
    guest.shutdown().await.unwrap();
    reach(&mut events, GuestState::ShuttingDown).await;
    reach(&mut events, GuestState::Running).await;
    assert_eq!(guest.destroy().await.unwrap().reason, ExitReason::Destroyed);

    let bench = Bench::serving();
    let spec = bench.spec_with("<on_poweroff>preserve</on_poweroff>");
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(spec).await.unwrap();
    guest.shutdown().await.unwrap();
    reach(&mut events, GuestState::Paused(PauseReason::Preserved)).await;
    assert_eq!(guest.exit(), None);
    guest.destroy().await.unwrap();
}

#[tokio::test]
async fn a_reboot_is_a_power_off_and_a_new_start() {
    let bench = Bench::serving();
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(bench.spec()).await.unwrap();
    guest.reboot().await.unwrap();
    reach(&mut events, GuestState::ShuttingDown).await;
    reach(&mut events, GuestState::Running).await;
    // Asked for once, done once.
    guest.shutdown().await.unwrap();
    let exit = exited(&rest(&mut events).await);
    assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: true });
}

#[tokio::test]
async fn a_guest_s_own_reboot_can_be_its_end() {
    let bench = Bench::serving();
    let spec = bench.spec_with("<on_reboot>destroy</on_reboot>");
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(spec).await.unwrap();
    assert!(
        std::fs::read_to_string(bench.log())
            .unwrap()
            .contains("-no-reboot")
    );
    have(&guest, "guest-reboots").await.unwrap();
    let exit = exited(&rest(&mut events).await);
    assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: true });
}

#[tokio::test]
async fn a_panic_is_a_crash() {
    let bench = Bench::serving();
    let spec = bench.spec_with("<on_crash>destroy</on_crash>");
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(spec).await.unwrap();
    have(&guest, "guest-panics").await.unwrap();
    let happened = rest(&mut events).await;
    assert!(matches!(
        happened[0],
        GuestEvent::State {
            to: GuestState::Crashed,
            ..
        }
    ));
    assert_eq!(exited(&happened).reason, ExitReason::Crashed);

    let bench = Bench::serving();
    let spec = bench.spec_with("<on_crash>preserve</on_crash>");
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(spec).await.unwrap();
    have(&guest, "guest-panics").await.unwrap();
    reach(&mut events, GuestState::Crashed).await;
    guest.destroy().await.unwrap();
}

#[tokio::test]
async fn a_failing_disk_explains_the_halt() {
    let bench = Bench::serving();
    let Launched {
        guest, mut events, ..
    } = Launcher::Qemu.launch(bench.spec()).await.unwrap();
    have(&guest, "disk-fails").await.unwrap();
    reach(&mut events, GuestState::Paused(PauseReason::IoError)).await;
    guest.destroy().await.unwrap();
}

/// Runs something as a daemon would that is killed afterwards: nothing of it goes on.
fn in_a_daemon_s_life<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}
