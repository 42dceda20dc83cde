//! The daemon is killed at every change that it makes, and starts again.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use common::scenes::Scene;
use common::{Machine, guest, lend, ordinary, until_crash};
use host::Host;

/// Lends, switches on and off, and gives back, until it is killed after that many changes of the
/// host.
fn killed_after(machine: &Machine, scene: Scene, effects: u64) -> bool {
    let assigner = machine.start();
    let claim = scene.claim(&assigner, machine, 1).unwrap();
    machine.host.crash_after(effects);
    let through = until_crash(|| {
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        assigner.set_link_state(lent.generation, true).unwrap();
        assigner.set_link_state(lent.generation, false).unwrap();
        assigner.give_back(lent.generation).unwrap();
    });
    // What a killed process does not do: unwinding's own work must not reach the journal.
    std::mem::forget(assigner);
    machine.host.restart_caller();
    through.is_none()
}

#[test]
fn after_a_crash_at_any_change_the_next_start_restores_all() {
    for scene in Scene::ALL {
        let mut crashes = 0;
        for effects in 1.. {
            let machine = scene.machine();
            let found = machine.host.snapshot();
            if !killed_after(&machine, scene, effects) {
                break;
            }
            crashes += 1;
            assert_eq!(
                machine.records().len(),
                1,
                "{scene:?}: a record before the first change"
            );
            let (assigner, findings) = machine.restart(|_| false);
            assert_eq!(findings.len(), 1, "{scene:?}: {findings:?}");
            assert_eq!(
                found.differences(&machine.host.snapshot()),
                [""; 0],
                "{scene:?}, after change {effects}"
            );
            assert!(assigner.list().is_empty() && machine.records().is_empty());
            let claim = scene.claim(&assigner, &machine, 2).unwrap();
            assert!(assigner.prepare(claim, &scene.preparation(2)).is_ok());
        }
        assert!(crashes >= 2, "{scene:?}: only {crashes} crashes");
        // Six settings, override, unbound, bound, granted; and back.
        assert!(
            crashes >= 20 || scene != Scene::Vfio,
            "only {crashes} crashes"
        );
    }
}

#[test]
fn a_second_crash_while_recovering_from_the_first_loses_nothing() {
    for scene in Scene::ALL {
        let whole = {
            let machine = scene.machine();
            let before = machine.host.effect_count();
            assert!(!killed_after(&machine, scene, u64::MAX));
            machine.host.effect_count() - before
        };
        for first in 1..=whole {
            for second in 1.. {
                let machine = scene.machine();
                let found = machine.host.snapshot();
                assert!(killed_after(&machine, scene, first));
                let (assigner, _) = machine.open();
                machine.host.crash_after(second);
                let through = until_crash(|| assigner.recover(|_| false)).is_some();
                std::mem::forget(assigner);
                let (assigner, _) = machine.restart(|_| false);
                assert_eq!(
                    found.differences(&machine.host.snapshot()),
                    [""; 0],
                    "{scene:?}, after changes {first} and {second}"
                );
                assert!(assigner.list().is_empty() && machine.records().is_empty());
                if through {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_running_guest_keeps_whatever_it_has_over_a_restart() {
    for scene in Scene::ALL {
        let machine = scene.machine();
        let assigner = machine.start();
        let found = machine.host.snapshot();
        let claim = scene.claim(&assigner, &machine, 1).unwrap();
        let lent = assigner.prepare(claim, &scene.preparation(1)).unwrap();
        assigner.set_link_state(lent.generation, true).unwrap();
        let (before, as_lent) = (assigner.list(), machine.host.snapshot());
        drop(assigner);
        let (assigner, findings) = machine.restart(|id| id == guest(1).guest);
        assert_eq!(findings.len(), 0, "{scene:?}: {findings:?}");
        assert_eq!(assigner.list(), before, "{scene:?}");
        assert_eq!(as_lent.differences(&machine.host.snapshot()), [""; 0]);
        assigner.give_back(lent.generation).unwrap();
        assert_eq!(
            found.differences(&machine.host.snapshot()),
            [""; 0],
            "{scene:?}"
        );
    }
}

#[test]
fn a_running_guest_keeps_its_device_over_a_restart() {
    let machine = Machine::new("vfs=2");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let kept = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    let _gone = lend(&assigner, machine.vf(1), 2, &ordinary(2)).unwrap();
    let before = assigner.list();
    drop(assigner);
    let (assigner, findings) = machine.restart(|id| id == guest(1).guest);
    assert_eq!(assigner.list(), before[..1]);
    let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [format!(
            "{} was given back: guest 'web2' is gone",
            machine.vf(1)
        )]
    );
    assigner.give_back(kept.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_device_that_is_still_open_is_not_touched_though_its_guest_is_said_to_be_gone() {
    let machine = Machine::new("vfs=1");
    let assigner = machine.start();
    let found = machine.host.snapshot();
    let lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    let as_lent = machine.host.snapshot();
    drop(assigner);
    machine.host.hold_vfio(machine.vf(0), true);
    let (assigner, findings) = machine.restart(|_| false);
    let text = findings[0].to_string();
    assert!(text.contains("process 4711 has its vfio group"), "{text}");
    assert_eq!(as_lent.differences(&machine.host.snapshot()), [""; 0]);
    machine.host.hold_vfio(machine.vf(0), false);
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn what_is_not_as_it_was_lent_is_told_and_not_papered_over() {
    let machine = Machine::new("vfs=2");
    let assigner = machine.start();
    let _lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    let _lost = lend(&assigner, machine.vf(1), 2, &ordinary(2)).unwrap();
    drop(assigner);
    let device = machine.host.virtual_function(machine.vf(0)).unwrap();
    machine
        .host
        .set_vf(&device, host::VfSetting::Trust(true))
        .unwrap();
    let (vf, lost) = (machine.vf(0), machine.vf(1));
    machine.host.remove_vf(lost);
    let (assigner, findings) = machine.restart(|_| true);
    let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            format!("{vf}, lent to guest 'web1', should have trust off, and has trust on"),
            format!("{lost}, lent to guest 'web2', is not there any more"),
        ]
    );
    assert_eq!(assigner.list().len(), 2);
    assert_eq!(machine.host.vf_state(&device).unwrap().trust, Some(true));
}

#[test]
fn a_record_from_before_a_reboot_is_not_believed() {
    let machine = Machine::new("vfs=1");
    let assigner = machine.start();
    let _lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
    drop(assigner);
    machine.host.reboot();
    let found = machine.host.snapshot();
    let (assigner, recovery) = machine.open();
    assert!(
        recovery.findings[0]
            .to_string()
            .contains("before the last boot")
    );
    assert!(assigner.recover(|_| true).is_empty());
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_record_that_cannot_be_read_keeps_its_device_back() {
    let good = {
        let machine = Machine::new("vfs=1");
        let assigner = machine.start();
        let _lent = lend(&assigner, machine.vf(0), 1, &ordinary(1)).unwrap();
        std::fs::read_to_string(machine.journal().join(&machine.records()[0])).unwrap()
    };
    for text in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"format\": 3", "\"format\": 99"),
        good.replace(":10.0", ":10.7").replace(":00.0", ":00.7"),
        " ".repeat(70_000),
    ] {
        let machine = Machine::new("vfs=1");
        let vf = machine.vf(0);
        std::fs::create_dir(machine.journal()).unwrap();
        let path = machine.journal().join(format!("{vf}.json"));
        std::fs::write(&path, text).unwrap();
        let (assigner, recovery) = machine.open();
        let said = recovery.findings[0].to_string();
        assert!(
            said.contains(&format!("{vf}.json' can't be read")),
            "{said}"
        );
        assert!(assigner.recover(|_| false).is_empty());
        assert!(common::claim(&assigner, vf, 1).is_err());
        assert_eq!(assigner.barred().len(), 1);
        assert!(path.exists());
    }
}

/// As the version before wrote it.
#[test]
fn a_record_of_the_first_format_is_read() {
    let machine = Machine::new("vfs=1");
    let vf = machine.vf(0);
    let found = machine.host.snapshot();
    let state = {
        let vf = machine.host.virtual_function(vf).unwrap();
        serde_json::to_string(&machine.host.vf_state(&vf).unwrap()).unwrap()
    };
    let record = format!(
        r#"{{"format": 1, "boot": "{boot}", "device": {{"pci": "{vf}"}}, "generation": "1.1",
            "stage": "lent", "since": 1, "owner": {{"guest": "{guest}", "name": "web1",
            "network": "vfs", "port": null, "mac": "52:54:00:00:00:01", "alias": null}},
            "origin": "pool-port", "group": 20, "vf": {{"address": "{vf}",
            "pf_address": "{pf}", "pf_netdev": "sim0", "pf_ifindex": 2, "number": 0,
            "numa_node": 0}}, "driver": "vfio-pci", "bind": true, "host_driver": "simvf",
            "original": {state}, "settings": []}}"#,
        boot = machine.host.boot_id().unwrap(),
        guest = guest(1).guest,
        pf = machine.pf(),
    );
    machine.host.bind(vf, "vfio-pci").unwrap();
    std::fs::create_dir(machine.journal()).unwrap();
    std::fs::write(machine.journal().join(format!("{vf}.json")), record).unwrap();
    let (assigner, findings) = machine.restart(|_| true);
    assert_eq!(findings.len(), 0, "{findings:?}");
    let line = &assigner.list()[0];
    assert_eq!(
        (&*line.holder.name, line.host_driver.as_deref()),
        ("web1", Some("simvf"))
    );
    assigner.give_back(line.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_half_written_record_means_nothing() {
    let machine = Machine::new("vfs=1");
    std::fs::create_dir(machine.journal()).unwrap();
    let path = machine
        .journal()
        .join(format!(".{}.json.new", machine.vf(0)));
    std::fs::write(&path, "{").unwrap();
    let assigner = machine.start();
    assert!(!path.exists());
    assert!(lend(&assigner, machine.vf(0), 1, &ordinary(1)).is_ok());
}
