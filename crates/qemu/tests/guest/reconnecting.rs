//! Guests that an earlier daemon started; with a stand-in for QEMU.

use std::time::Duration;

use qemu::{ExitReason, GuestRecord, GuestState, Launched, Launcher, PauseReason, ReconnectError};

use crate::common::{Bench, Monitor, runs};
use crate::{SOON, exited, in_a_daemon_s_life, reach, rest};

#[test]
fn the_next_daemon_takes_the_guest_up() {
    let bench = Bench::serving();
    let record = in_a_daemon_s_life(async {
        let guest = Launcher::Qemu.launch(bench.spec()).await.unwrap().guest;
        serde_json::to_string(guest.record()).unwrap()
    });
    let record: GuestRecord = serde_json::from_str(&record).unwrap();
    assert!(runs(record.pid));
    in_a_daemon_s_life(async {
        let (guest, mut events) = Launcher::Qemu.reconnect(&record, SOON).await.unwrap();
        assert_eq!(guest.state(), GuestState::Running);
        guest.suspend().await.unwrap();
        let exit = guest.destroy().await.unwrap();
        assert_eq!(exit.reason, ExitReason::Destroyed);
        assert_eq!(exited(&rest(&mut events).await), exit);
        let gone = Launcher::Qemu.reconnect(&record, SOON).await.unwrap_err();
        assert!(matches!(gone, ReconnectError::Gone { .. }), "{gone}");
    });
}

#[test]
fn a_guest_whose_monitor_is_silent_is_neither_given_up_nor_killed() {
    let bench = Bench::serving();
    let record = in_a_daemon_s_life(async {
        let guest = Launcher::Qemu.launch(bench.spec()).await.unwrap().guest;
        guest.record().clone()
    });
    // It serves one at a time, as QEMU does.
    let other = Monitor::connect(&record.monitor);
    in_a_daemon_s_life(async {
        let patience = Duration::from_millis(100);
        let (guest, mut events) = Launcher::Qemu.reconnect(&record, patience).await.unwrap();
        assert_eq!(guest.state(), GuestState::Unknown);
        assert!(runs(record.pid));
        drop(other);
        reach(&mut events, GuestState::Running).await;
        guest.suspend().await.unwrap();
    });
    let hidden = record.monitor.with_extension("hidden");
    std::fs::rename(&record.monitor, &hidden).unwrap();
    in_a_daemon_s_life(async {
        let patience = Duration::from_millis(100);
        let (guest, mut events) = Launcher::Qemu.reconnect(&record, patience).await.unwrap();
        assert_eq!(guest.state(), GuestState::Unknown);
        std::fs::rename(&hidden, &record.monitor).unwrap();
        reach(&mut events, GuestState::Paused(PauseReason::User)).await;
    });
    std::fs::remove_file(&record.monitor).unwrap();
    in_a_daemon_s_life(async {
        let patience = Duration::from_millis(100);
        let (guest, mut events) = Launcher::Qemu.reconnect(&record, patience).await.unwrap();
        assert!(guest.suspend().await.is_err());
        let exit = guest.destroy().await.unwrap();
        assert_eq!(exit.reason, ExitReason::Destroyed);
        assert_eq!(exited(&rest(&mut events).await), exit);
    });
    assert!(!runs(record.pid));
}

#[test]
fn a_power_off_that_nobody_saw_is_followed_up() {
    let bench = Bench::serving();
    let mut record = in_a_daemon_s_life(async {
        let spec = bench.spec_with("<on_poweroff>preserve</on_poweroff>");
        let Launched {
            guest, mut events, ..
        } = Launcher::Qemu.launch(spec).await.unwrap();
        guest.shutdown().await.unwrap();
        reach(&mut events, GuestState::Paused(PauseReason::Preserved)).await;
        guest.record().clone()
    });
    record.lifecycle.on_poweroff = qemu::Action::Destroy;
    in_a_daemon_s_life(async {
        let (_guest, mut events) = Launcher::Qemu.reconnect(&record, SOON).await.unwrap();
        let exit = exited(&rest(&mut events).await);
        assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: true });
    });
}

#[test]
fn a_record_is_believed_only_about_its_own_process() {
    let bench = Bench::serving();
    let record = in_a_daemon_s_life(async {
        let guest = Launcher::Qemu.launch(bench.spec()).await.unwrap().guest;
        guest.record().clone()
    });
    in_a_daemon_s_life(async {
        let another_boot = GuestRecord {
            boot_id: "another".to_owned(),
            ..record.clone()
        };
        let error = Launcher::Qemu
            .reconnect(&another_boot, SOON)
            .await
            .unwrap_err();
        assert!(matches!(error, ReconnectError::AnotherBoot { .. }));

        let another_process = GuestRecord {
            start_time: record.start_time + 1,
            ..record.clone()
        };
        let error = Launcher::Qemu
            .reconnect(&another_process, SOON)
            .await
            .unwrap_err();
        assert!(matches!(error, ReconnectError::Impostor { pid, .. } if pid == record.pid));
        assert!(runs(record.pid), "not touched for another's record");

        let (guest, _events) = Launcher::Qemu.reconnect(&record, SOON).await.unwrap();
        guest.destroy().await.unwrap();
    });
    assert!(!runs(record.pid));
}
