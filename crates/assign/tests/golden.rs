//! The journal of each earlier release, as files, is read by this one.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use assign::{Assignment, Item, Kind, Origin, Phase};
use common::Machine;
use conf::Uuid;

/// The guest of all of them.
const GUEST: &str = "3f21ee7f-b581-4214-8ea4-24a0316ef815";

/// What is on the list of a daemon that finds the records of that release.
fn list(format: u32) -> Vec<Assignment> {
    let machine = Machine::new("pfs=2,vfs=8");
    let golden = format!(
        "{}/tests/golden/format-{format}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::create_dir(machine.journal()).unwrap();
    for entry in std::fs::read_dir(golden).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), machine.journal().join(entry.file_name())).unwrap();
    }
    let (assigner, recovery) = machine.open();
    assert!(recovery.findings.is_empty(), "{:?}", recovery.findings);
    assigner.list()
}

fn lines(list: &[Assignment]) -> Vec<(String, Option<Kind>, Origin, Option<String>)> {
    for line in list {
        let guest: Uuid = GUEST.parse().unwrap();
        assert_eq!((line.holder.guest, &line.phase), (guest, &Phase::Lent));
    }
    let lines = list.iter().map(|line| {
        let netdev = line.netdev.map(|netdev| netdev.to_string());
        (line.item.to_string(), line.kind, line.origin, netdev)
    });
    lines.collect()
}

#[test]
fn the_first_format_is_read() {
    let list = list(1);
    assert_eq!(
        lines(&list),
        [(
            "0000:02:00.1".into(),
            Some(Kind::Hostdev),
            Origin::PoolPort,
            None
        )]
    );
    assert_eq!(list[0].host_driver.as_deref(), Some("simvf"));
    assert_eq!(list[0].vf.as_ref().unwrap().number, 1);
}

#[test]
fn the_second_format_is_read() {
    let list = list(2);
    let macvtap = |name: &str| Some(name.to_owned());
    assert_eq!(
        lines(&list),
        [
            (
                "0000:02:00.1".into(),
                Some(Kind::Hostdev),
                Origin::PoolPort,
                None
            ),
            (
                "0000:04:00.0".into(),
                Some(Kind::Macvtap),
                Origin::Interface,
                macvtap("macvtap1")
            ),
            (
                "link-1.3".into(),
                Some(Kind::Macvtap),
                Origin::PoolPort,
                macvtap("macvtap0")
            ),
        ]
    );
    assert_eq!(list[2].parent.unwrap().to_string(), "0000:03:00.0");
}

#[test]
fn a_function_that_was_detached_is_read() {
    let list = list(3);
    let [line] = &list[..] else {
        panic!("{list:?}")
    };
    let address = "0000:02:00.1".parse().unwrap();
    assert_eq!(
        (line.item, line.origin),
        (Item::Detached(address), Origin::Detached)
    );
    assert_eq!(
        (&line.phase, line.driver.as_deref()),
        (&Phase::Lent, Some("vfio-pci"))
    );
    assert_eq!(line.host_driver.as_deref(), Some("simvf"));
    assert_eq!(line.vf.as_ref().unwrap().number, 1);
}
