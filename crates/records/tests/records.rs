//! What is written is read, and what can't be read is told.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use records::{Loaded, Records, Unreadable};
use rustix::fs::{FileType, Mode};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Thing {
    size: u32,
    #[serde(default)]
    colour: Option<String>,
}

const THING: Thing = Thing {
    size: 7,
    colour: None,
};

fn open(dir: &TempDir, boot: &str, format: u32) -> Records {
    Records::open(dir.path().join("things"), boot, format).unwrap()
}

fn path(records: &Records, id: &str) -> PathBuf {
    records.directory().join(format!("{id}.json"))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

/// The only record, which can't be read.
fn unreadable(records: &Records) -> Unreadable {
    let mut loaded = records.load::<Thing>().unwrap();
    assert_eq!(loaded.len(), 1, "{loaded:?}");
    match loaded.remove(0) {
        Loaded::Unreadable(unreadable) => unreadable,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_written_is_read_by_a_later_daemon_of_the_same_boot() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, "one", 3).write("a", &THING).unwrap();
    let records = open(&dir, "one", 3);
    let loaded = records.load::<Thing>().unwrap();
    assert!(
        matches!(&loaded[..], [Loaded::Good { id, record: THING, format: 3 }] if id == "a"),
        "{loaded:?}"
    );
    records.remove("a").unwrap();
    records.remove("a").unwrap();
    assert!(records.load::<Thing>().unwrap().is_empty());
}

#[test]
fn a_record_begins_with_its_format_and_its_boot_and_is_its_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3);
    records.write("a", &THING).unwrap();
    let text = fs::read_to_string(path(&records, "a")).unwrap();
    assert!(
        text.starts_with("{\n  \"format\": 3,\n  \"boot\": \"one\",\n  \"size\": 7"),
        "{text}"
    );
    for place in [records.directory(), &path(&records, "a")] {
        let mode = fs::metadata(place).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", place.display());
    }
}

#[test]
fn a_record_of_another_boot_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, "one", 3).write("a", &THING).unwrap();
    // Whatever release wrote it: its state is gone.
    open(&dir, "one", 9).write("b", &THING).unwrap();
    let records = open(&dir, "two", 3);
    let loaded = records.load::<Thing>().unwrap();
    assert!(
        matches!(&loaded[..], [
            Loaded::OtherBoot { id: a, record: Some(THING) },
            Loaded::OtherBoot { id: b, record: None },
        ] if a == "a" && b == "b"),
        "{loaded:?}"
    );
    assert_eq!(names(records.directory()), [""; 0]);
}

#[test]
fn a_record_without_a_format_has_the_first_one() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3);
    fs::write(path(&records, "a"), r#"{"boot": "one", "size": 7}"#).unwrap();
    let loaded = records.load::<Thing>().unwrap();
    let [Loaded::Good { record, format, .. }] = &loaded[..] else {
        panic!("{loaded:?}");
    };
    assert_eq!((record, *format), (&THING, 1));
}

#[test]
fn an_older_format_is_read_by_whoever_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 2);
    fs::write(path(&records, "a"), r#"{"boot": "one", "width": 7}"#).unwrap();
    fs::write(path(&records, "b"), r#"{"boot": "one", "width": "x"}"#).unwrap();
    #[derive(Deserialize)]
    struct First {
        width: u32,
    }
    let mut loaded = records
        .load_as(|format, text| match format {
            1 => serde_json::from_slice(text)
                .map(|First { width }| Thing {
                    size: width,
                    colour: None,
                })
                .map_err(Into::into),
            _ => Ok(serde_json::from_slice(text)?),
        })
        .unwrap();
    assert!(matches!(&loaded[1], Loaded::Unreadable(why) if why.id == "b"));
    assert!(matches!(
        loaded.swap_remove(0),
        Loaded::Good {
            record: THING,
            format: 1,
            ..
        }
    ));
}

#[test]
fn what_cannot_be_read_is_told_with_its_name_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3).at_most(200);
    records.write("a", &THING).unwrap();
    let good = fs::read_to_string(path(&records, "a")).unwrap();
    for (text, reason) in [
        (String::new(), "it is empty"),
        (
            good[..good.len() / 2].to_owned(),
            "it is cut short in line 3",
        ),
        ("x".to_owned(), "it is damaged in line 1, near column 1"),
        (
            good.replace('3', "99"),
            "a newer release wrote it: it has format 99, and this one reads up to 3",
        ),
        (
            good.replace("size", "sighs"),
            "it does not say what such a record says: missing field `size`",
        ),
        (
            good.replace("boot", "boat"),
            "it does not say what such a record says: missing field `boot`",
        ),
        (
            good.replace('7', "-7"),
            "it does not say what such a record says: invalid value: integer `-7`",
        ),
        (" ".repeat(201), "a record of 201 bytes is longer than 200"),
    ] {
        fs::write(path(&records, "a"), &text).unwrap();
        let found = unreadable(&records);
        assert_eq!(found.id, "a");
        assert!(found.reason.starts_with(reason), "{}", found.reason);
        assert!(text.len() > 200 || found.text == text);
        assert!(found.to_string().contains("things/a.json' can't be read: "));
        assert_eq!(fs::read_to_string(path(&records, "a")).unwrap(), text);
    }
}

#[test]
fn a_directory_a_fifo_and_a_link_are_no_records_and_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3);
    let place = path(&records, "a");
    let check = || assert_eq!(unreadable(&records).reason, "it is not a file");
    fs::create_dir(&place).unwrap();
    check();
    fs::remove_dir(&place).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &place,
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    check();
    fs::remove_file(&place).unwrap();
    std::os::unix::fs::symlink("/nowhere", &place).unwrap();
    check();
    records.remove("a").unwrap();
    assert_eq!(names(records.directory()), [""; 0]);
}

#[test]
fn its_text_helps_who_looks_for_a_process_and_stays_out_of_logs() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3);
    fs::write(path(&records, "a"), r#"{"boot": "one", "pid": 17, "#).unwrap();
    let found = unreadable(&records);
    assert!(found.text.contains("\"pid\": 17"));
    assert!(!format!("{found:?} {found}").contains("pid"));
}

#[test]
fn half_written_files_go_and_strange_ones_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3);
    for name in [
        "a.new",
        ".a.json.new",
        ".a.json.17.new",
        ".json",
        "notes.txt",
        "starts",
    ] {
        fs::write(records.directory().join(name), "{").unwrap();
    }
    assert!(records.load::<Thing>().unwrap().is_empty());
    assert_eq!(names(records.directory()), [".json", "notes.txt", "starts"]);
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3);
    for id in ["", ".", ".a", "../a", "a/b"] {
        assert!(records.write(id, &THING).is_err(), "{id}");
        assert!(records.remove(id).is_err(), "{id}");
    }
    assert_eq!(names(dir.path()), ["things"]);
}

#[test]
fn a_write_that_fails_leaves_the_older_record_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3).at_most(200);
    records.write("a", &THING).unwrap();
    let long = Thing {
        size: 8,
        colour: Some("x".repeat(200)),
    };
    assert!(records.write("a", &long).is_err());
    // The kernel's own refusal: a directory in its place.
    fs::create_dir(path(&records, "b")).unwrap();
    let refused = records.write("b", &THING).unwrap_err();
    assert!(refused.errno().is_some(), "{refused:?}");
    assert_eq!(names(records.directory()), ["a.json", "b.json"]);
    let text = fs::read_to_string(path(&records, "a")).unwrap();
    assert!(text.contains("\"size\": 7"), "{text}");
}

#[test]
fn threads_that_write_one_record_each_write_it_whole() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 3);
    std::thread::scope(|scope| {
        for size in 0..8 {
            let records = &records;
            scope.spawn(move || {
                for _ in 0..100 {
                    records.write("a", &Thing { size, ..THING }).unwrap();
                }
            });
        }
    });
    assert_eq!(names(records.directory()), ["a.json"]);
    let loaded = records.load::<Thing>().unwrap();
    assert!(matches!(&loaded[..], [Loaded::Good { .. }]), "{loaded:?}");
}

/// In place of a record's file: something that can't be removed like one.
fn block(records: &Records, id: &str) {
    fs::remove_file(path(records, id)).unwrap();
    fs::create_dir(path(records, id)).unwrap();
}

#[test]
fn what_is_discarded_and_stays_goes_later() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 1);
    for id in ["a", "b", "c"] {
        records.write(id, &THING).unwrap();
    }
    block(&records, "a");
    let refused = records.discard("a").unwrap_err();
    assert_eq!(refused.path, path(&records, "a"));
    // Still refused: told each time.
    let left = records.retry_owed();
    assert!(
        matches!(&left[..], [(id, error)] if id == "a" && error.errno() == refused.errno()),
        "{left:?}"
    );
    // As if the disk could be written again: it goes with the next one.
    fs::remove_dir(path(&records, "a")).unwrap();
    fs::write(path(&records, "a"), "{}").unwrap();
    records.discard("b").unwrap();
    assert_eq!(names(records.directory()), ["c.json"]);
    assert!(records.retry_owed().is_empty());
}

#[test]
fn what_was_discarded_and_is_written_again_stays() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 1);
    records.write("a", &THING).unwrap();
    block(&records, "a");
    records.discard("a").unwrap_err();
    fs::remove_dir(path(&records, "a")).unwrap();
    records.write("a", &THING).unwrap();
    assert!(records.retry_owed().is_empty());
    records.discard("b").unwrap();
    assert_eq!(names(records.directory()), ["a.json"]);
}

#[test]
fn a_record_beside_a_damaged_one_is_left_for_a_person() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Named {
        name: String,
    }
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 1);
    let name = "a".to_owned();
    records.write("a", &Named { name }).unwrap();
    fs::copy(path(&records, "a"), path(&records, "backup")).unwrap();
    fs::write(path(&records, "a"), "{").unwrap();
    let loaded = records.load_own(|one: &Named| one.name.clone()).unwrap();
    assert!(
        matches!(&loaded[..], [Loaded::Unreadable(error)] if error.id == "a"),
        "{loaded:?}"
    );
    assert_eq!(names(records.directory()), ["a.json", "backup.json"]);
}

#[test]
fn what_is_so_and_can_not_be_written_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 1);
    for id in ["a", "b"] {
        records.write(id, &THING).unwrap();
    }
    block(&records, "a");
    let larger = Thing { size: 8, ..THING };
    let refused = records.settle("a", &larger).unwrap_err();
    assert_eq!(refused.action, "write");
    assert_eq!(records.retry_owed().len(), 1);
    fs::remove_dir(path(&records, "a")).unwrap();
    records.settle("b", &THING).unwrap();
    assert!(records.retry_owed().is_empty());
    let loaded = records.load::<Thing>().unwrap();
    let sizes: Vec<_> = (loaded.into_iter())
        .map(|one| match one {
            Loaded::Good { record, .. } => record.size,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [8, 7]);
}

#[test]
fn a_directory_that_somebody_removed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 1);
    fs::remove_dir(records.directory()).unwrap();
    records.write("a", &THING).unwrap();
    assert_eq!(names(records.directory()), ["a.json"]);
    let mode = fs::metadata(records.directory())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn what_is_owed_is_not_written_after_it_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let records = open(&dir, "one", 1);
    records.write("a", &THING).unwrap();
    block(&records, "a");
    records.settle("a", &THING).unwrap_err();
    fs::remove_dir(path(&records, "a")).unwrap();
    records.remove("a").unwrap();
    assert!(records.retry_owed().is_empty());
    records.settle("b", &THING).unwrap();
    assert_eq!(names(records.directory()), ["b.json"]);
}
