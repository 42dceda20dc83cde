//! Records of running guests as each release wrote them: every later one reads them.
//!
//! A file here is never changed. A record that gains a member gets a new file, and the member a
//! default for the older ones.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use qemu::{Action, GuestRecord, Lifecycle};

fn golden(name: &str) -> String {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    std::fs::read_to_string(directory.join(name)).unwrap()
}

/// What the newest release writes.
fn newest() -> GuestRecord {
    let run_dir = Path::new("/run/virtnic/guests/1ccfd97d-5eb4-478a-bbe6-88d254c16db7");
    GuestRecord {
        name: "web".to_owned(),
        pid: 4242,
        start_time: 123_456,
        boot_id: "9c4f5a8e-2f62-4c5b-8f52-1d9e3f3f0a11".to_owned(),
        monitor: run_dir.join("monitor.sock"),
        log: "/var/log/virtnic/qemu/web.log".into(),
        output: Some(run_dir.join("output")),
        own_group: Some(2_013_265_921.try_into().unwrap()),
        lifecycle: Lifecycle {
            on_poweroff: Action::Destroy,
            on_reboot: Action::Restart,
            on_crash: Action::Preserve,
        },
    }
}

#[test]
fn records_of_earlier_releases_are_read() {
    let first: GuestRecord = serde_json::from_str(&golden("guest-record-1.json")).unwrap();
    let older = GuestRecord {
        own_group: None,
        ..newest()
    };
    let output = None;
    assert_eq!(
        first,
        GuestRecord {
            output,
            ..older.clone()
        }
    );
    let second: GuestRecord = serde_json::from_str(&golden("guest-record-2.json")).unwrap();
    assert_eq!(second, older);
    let third: GuestRecord = serde_json::from_str(&golden("guest-record-3.json")).unwrap();
    assert_eq!(third, newest());
}

#[test]
fn a_group_that_is_no_guests_is_not_believed() {
    let mut record: serde_json::Value =
        serde_json::from_str(&golden("guest-record-3.json")).unwrap();
    record["own_group"] = 0.into();
    let error = serde_json::from_value::<GuestRecord>(record).unwrap_err();
    assert!(
        error.to_string().starts_with("0 is no guest's group"),
        "{error}"
    );
}

#[test]
fn a_record_is_written_as_the_newest_file_has_it() {
    let written = serde_json::to_string_pretty(&newest()).unwrap();
    assert_eq!(written, golden("guest-record-3.json").trim_end());
}

#[test]
fn what_a_later_release_adds_is_no_obstacle() {
    let mut later: serde_json::Value =
        serde_json::from_str(&golden("guest-record-3.json")).unwrap();
    later["of_tomorrow"] = true.into();
    let read: GuestRecord = serde_json::from_value(later).unwrap();
    assert_eq!(read, newest());
}
