//! Plugging in and out, with each step failing and answering late.

use std::time::Duration;

use conf::{GuestAddress, Interface, PciAddress};
use host::MemoryLock;
use qemu::{
    ControlError, Faults, GuestEvent, Leftovers, Plugged, RefusalKind, TapFds, Unplug, Unplugging,
};

use crate::kinds::{ALL, Card, GUEST, Kind, ScsiDisk, Vf, VirtioDisk, card, files, stock, vf};
use crate::{Bench, Started, deleted, free_port, next};

/// Longer than QEMU has to answer.
const LATE: Duration = Duration::from_secs(40);

impl Started {
    /// Takes a device out, and what it stood on.
    async fn take_out(&mut self, kind: Kind) {
        let asked = self.guest.unplug(kind.alias()).await.unwrap();
        assert_eq!(asked, Unplugging::Asked, "{kind:?}");
        assert_eq!(next(&mut self.events).await, deleted(kind.alias()));
        self.clear(kind).await;
    }

    async fn clear(&self, kind: Kind) {
        let cleared = self.guest.clear_leftovers(kind.alias(), kind.plugged());
        assert_eq!(cleared.await.unwrap(), Leftovers::None, "{kind:?}");
    }
}

#[tokio::test]
async fn what_is_plugged_in_is_there_and_goes_whole() {
    let bench = Bench::new();
    let mut web = bench.start_with(GUEST).await;
    let before = stock(&web.beside);
    for kind in ALL {
        kind.plug(&web).await.unwrap();
        let error = kind.plug(&web).await.unwrap_err();
        assert!(
            error.refusal().is_some() && !error.is_uncertain(),
            "{error}"
        );
        assert!(
            web.beside.devices().contains(&kind.alias().to_owned()),
            "{kind:?}"
        );
    }
    assert_eq!(web.beside.open_devices(), [vf()]);
    assert_eq!(web.beside.netdevs(), ["hostnet7"]);
    assert_eq!(
        web.beside.medium("virtio-disk7").unwrap(),
        "virtio-disk7-format"
    );
    assert!(web.beside.descriptors().is_empty(), "the card has them");
    for kind in ALL {
        web.take_out(kind).await;
    }
    assert_eq!(stock(&web.beside), before);
}

#[tokio::test]
async fn a_step_that_is_refused_leaves_nothing() {
    let bench = Bench::new();
    let web = bench.start_with(GUEST).await;
    let before = stock(&web.beside);
    for kind in ALL {
        for step in kind.steps() {
            web.beside.set_faults(Faults::default().refuse(step));
            let error = kind.plug(&web).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("'{step}' is refused")), "{text}");
            assert_eq!(stock(&web.beside), before, "{kind:?} {step}");
        }
    }
    // The second of two is as good as the first.
    for (kind, step) in [
        (Card, "getfd"),
        (ScsiDisk, "blockdev-add"),
        (ScsiDisk, "add-fd"),
    ] {
        web.beside
            .set_faults(Faults::default().refuse_after(1, step));
        kind.plug(&web).await.unwrap_err();
        assert_eq!(stock(&web.beside), before, "{kind:?} {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_answered_late_is_uncertain_and_can_be_cleared() {
    let bench = Bench::new();
    for kind in ALL {
        for step in kind.steps() {
            let mut web = bench.start_with(GUEST).await;
            let before = stock(&web.beside);
            web.beside.set_faults(Faults {
                unplug: Unplug::WhenReleased,
                ..Faults::default().delay(step, LATE)
            });
            let error = kind.plug(&web).await.unwrap_err();
            assert!(error.is_uncertain(), "{kind:?} {step}: {error}");

            // Once it answers again, what it did after all is taken back.
            let clear = || web.guest.clear_leftovers(kind.alias(), kind.plugged());
            let cleared = loop {
                match clear().await {
                    Ok(cleared) => break cleared,
                    Err(error) => assert!(error.is_uncertain(), "{error}"),
                }
            };
            if let Leftovers::Device(asked) = cleared {
                assert_eq!(*step, "device_add", "{kind:?}");
                assert!(asked != Unplugging::NotThere);
                web.beside.release(kind.alias());
                assert_eq!(next(&mut web.events).await, deleted(kind.alias()));
            }
            web.clear(kind).await;
            assert_eq!(stock(&web.beside), before, "{kind:?} {step}");
            web.clear(kind).await;
            kind.plug(&web).await.unwrap();
            web.beside.kill();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_plug_that_is_dropped_at_any_step_can_be_cleared() {
    let bench = Bench::new();
    for kind in ALL {
        for step in kind.steps() {
            let mut web = bench.start_with(GUEST).await;
            let before = stock(&web.beside);
            let faults = Faults::default().delay(step, Duration::from_secs(5));
            web.beside.set_faults(faults);
            let dropped = tokio::time::timeout(Duration::from_secs(1), kind.plug(&web)).await;
            assert!(dropped.is_err(), "{kind:?} {step}");
            let asked = web
                .guest
                .clear_leftovers(kind.alias(), kind.plugged())
                .await;
            assert_eq!(asked.unwrap(), Leftovers::None, "{kind:?} {step}");
            assert_eq!(stock(&web.beside), before, "{kind:?} {step}");
            if *step == "device_add" {
                assert_eq!(next(&mut web.events).await, deleted(kind.alias()));
            }
            web.beside.kill();
        }
    }
}

#[tokio::test]
async fn each_step_of_clearing_can_fail_and_be_done_again() {
    let bench = Bench::new();
    let web = bench.start_with(GUEST).await;
    let before = stock(&web.beside);
    for (kind, steps) in [
        (Card, &["qom-list", "device_del", "netdev_del"][..]),
        (Vf, &["qom-list", "device_del"]),
        (
            VirtioDisk,
            &[
                "device_del",
                "query-named-block-nodes",
                "blockdev-del",
                "query-fdsets",
                "remove-fd",
            ],
        ),
    ] {
        for step in steps {
            kind.plug(&web).await.unwrap();
            web.beside.set_faults(Faults::default().refuse(step));
            let failed = web
                .guest
                .clear_leftovers(kind.alias(), kind.plugged())
                .await;
            assert!(failed.unwrap_err().to_string().contains(step));
            web.clear(kind).await;
            assert_eq!(stock(&web.beside), before, "{kind:?} {step}");
        }
    }
}

#[tokio::test]
async fn memory_may_be_locked_before_a_device_is_plugged_in() {
    let bench = Bench::new();
    let web = bench.start_with(GUEST).await;
    assert_eq!(web.beside.memory_lock(), None, "it was started without one");
    // As QEMU would refuse it.
    let bare = serde_json::json!({ "driver": "vfio-pci", "host": vf().to_string(), "id": "bare" });
    let error = web.guest.qmp().unwrap().device_add(bare).await.unwrap_err();
    assert!(
        error.to_string().contains("Cannot allocate memory"),
        "{error}"
    );

    web.beside.set_faults(Faults {
        keeps_memory_lock: true,
        ..Faults::default()
    });
    let error = Vf.plug(&web).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("'web'") && text.contains("1152 MiB"),
        "{text}"
    );
    assert!(matches!(error, ControlError::MemoryLock { .. }));
    assert!(web.beside.open_devices().is_empty());

    web.beside.set_faults(Faults::default());
    Vf.plug(&web).await.unwrap();
    let wanted = MemoryLock::AtLeast((128 << 20) + (1 << 30));
    assert_eq!(web.beside.memory_lock(), Some(wanted));
    web.guest.raise_memory_lock(&web.domain).unwrap();
    assert_eq!(web.beside.memory_lock(), Some(wanted));
}

#[tokio::test]
async fn a_place_that_is_taken_or_not_there_is_told_in_qemus_words() {
    let bench = Bench::new();
    let web = bench.start_with(GUEST).await;
    Card.plug(&web).await.unwrap();
    let mut second = card(&web.domain);
    second.info.alias = Some("net8".to_owned());
    let plug = async |card: &Interface| {
        let taps = TapFds {
            taps: files(1),
            vhosts: Vec::new(),
        };
        web.guest.plug_interface(&web.domain, card, 8, taps).await
    };
    let error = plug(&second).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::SlotInUse));
    assert!(
        error
            .to_string()
            .contains("in use by virtio-net-pci,id=net7"),
        "{error}"
    );
    second.info.address = Some(GuestAddress::Pci {
        address: PciAddress::new(0, 0, 9, 0).unwrap(),
        multifunction: None,
    });
    let error = plug(&second).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::BusTakesNone), "{error}");
    let nowhere = serde_json::json!({ "driver": "virtio-net-pci", "id": "x", "bus": "pci.77" });
    let error = web
        .guest
        .qmp()
        .unwrap()
        .device_add(nowhere)
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::BusNotFound), "{error}");
    assert_eq!(web.beside.netdevs(), ["hostnet7"]);
}

#[tokio::test]
async fn a_second_wish_meanwhile_is_told_from_the_first() {
    let bench = Bench::new();
    let mut web = bench.start_with(GUEST).await;
    Vf.plug(&web).await.unwrap();
    let unplug = async || web.guest.unplug("hostdev7").await.unwrap();
    web.beside.set_faults(Faults {
        unplug: Unplug::WhenReleased,
        ..Faults::default()
    });
    assert_eq!(unplug().await, Unplugging::Asked);
    assert_eq!(unplug().await, Unplugging::InProgress);
    let cleared = web.guest.clear_leftovers("hostdev7", Plugged::HostDevice);
    let expected = Leftovers::Device(Unplugging::InProgress);
    assert_eq!(cleared.await.unwrap(), expected);
    assert_eq!(web.beside.open_devices(), [vf()]);
    // The guest starts anew before its driver has let it go.
    web.beside.reboot();
    let reboot = GuestEvent::Rebooted { by_guest: true };
    assert_eq!(next(&mut web.events).await, reboot);
    assert_eq!(next(&mut web.events).await, deleted("hostdev7"));
    assert!(web.beside.open_devices().is_empty());
    assert_eq!(unplug().await, Unplugging::NotThere);
}

#[tokio::test]
async fn a_device_that_the_kernel_asks_for_goes_unasked_by_us() {
    let bench = Bench::new();
    let mut web = bench.start_with(GUEST).await;
    Vf.plug(&web).await.unwrap();
    web.beside.ask_back("hostdev7");
    assert_eq!(next(&mut web.events).await, deleted("hostdev7"));
    assert!(web.beside.open_devices().is_empty());
}

#[tokio::test]
async fn a_tap_that_was_plugged_in_lasts_as_long_as_its_card() {
    use std::io::Read;

    let bench = Bench::new();
    let mut web = bench.start_with(GUEST).await;
    let (mut reader, writer) = std::io::pipe().unwrap();
    let taps = TapFds {
        taps: vec![writer.into()],
        vhosts: Vec::new(),
    };
    let card = card(&web.domain);
    web.guest
        .plug_interface(&web.domain, &card, 7, taps)
        .await
        .unwrap();
    let ended = tokio::task::spawn_blocking(move || reader.read(&mut [0]).unwrap());
    web.guest.unplug("net7").await.unwrap();
    assert_eq!(next(&mut web.events).await, deleted("net7"));
    assert!(!ended.is_finished(), "the host's side has it");
    web.guest.remove_netdev("net7").await.unwrap();
    assert_eq!(ended.await.unwrap(), 0);
}

#[tokio::test]
async fn five_hundred_cycles_leave_nothing() {
    let bench = Bench::new();
    let mut web = bench.start_with(GUEST).await;
    let before = stock(&web.beside);
    let (mut reader, writer) = std::io::pipe().unwrap();
    for number in 0..500 {
        let copy = || vec![writer.try_clone().unwrap().into()];
        let taps = TapFds {
            taps: copy(),
            vhosts: copy(),
        };
        let card = card(&web.domain);
        web.guest
            .plug_interface(&web.domain, &card, 7, taps)
            .await
            .unwrap();
        let disk = VirtioDisk.disk(&web.domain);
        web.guest
            .plug_disk(&web.domain, &disk, copy())
            .await
            .unwrap();
        Vf.plug(&web).await.unwrap();
        // And one that fails on the way.
        let step = ["getfd", "netdev_add", "device_add"][number % 3];
        web.beside.set_faults(Faults::default().refuse(step));
        let mut second = card.clone();
        second.info.alias = Some("net8".to_owned());
        second.info.address = free_port(&web.domain, 3);
        let taps = TapFds {
            taps: copy(),
            vhosts: copy(),
        };
        let failed = web
            .guest
            .plug_interface(&web.domain, &second, 8, taps)
            .await;
        failed.unwrap_err();
        for kind in [Vf, VirtioDisk, Card] {
            web.take_out(kind).await;
        }
    }
    assert_eq!(stock(&web.beside), before);
    // The last of all descriptors is closed, whoever had one.
    drop(writer);
    let ended = tokio::task::spawn_blocking(move || std::io::Read::read(&mut reader, &mut [0]));
    let ended = tokio::time::timeout(crate::SOON, ended).await.unwrap();
    assert_eq!(ended.unwrap().unwrap(), 0);
}
