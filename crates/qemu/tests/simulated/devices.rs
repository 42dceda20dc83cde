//! Devices of a simulated guest: plugged in, let go, and what their drivers ask for.

use std::time::Duration;

use qemu::{Faults, GuestEvent, Unplug, Unplugging};
use serde_json::json;

use crate::{Bench, deleted, free_port, next};

#[tokio::test(start_paused = true)]
async fn a_device_goes_at_once_or_late_or_never_or_without_a_word() {
    let bench = Bench::new();
    let (guest, mut events, beside) = bench.start().await;
    let has = async || guest.device_aliases().await.unwrap().contains("hostdev0");
    let unplug = async |unplug| {
        beside.set_faults(Faults {
            unplug,
            ..Faults::default()
        });
        guest.unplug("hostdev0").await.unwrap()
    };
    assert!(has().await);
    assert_eq!(
        guest.unplug("hostdev9").await.unwrap(),
        Unplugging::NotThere
    );

    assert_eq!(unplug(Unplug::Refused).await, Unplugging::Asked);
    let alias = "hostdev0".to_owned();
    assert_eq!(next(&mut events).await, GuestEvent::UnplugRefused { alias });
    unplug(Unplug::WhenReleased).await;
    assert!(has().await);
    beside.release("hostdev0");
    assert_eq!(next(&mut events).await, deleted("hostdev0"));
    assert!(!has().await);

    for (how, is_told) in [
        (Unplug::AtOnce, true),
        (Unplug::After(Duration::from_secs(5)), true),
        (Unplug::Silently, false),
    ] {
        let (guest, mut events, beside) = bench.start().await;
        beside.set_faults(Faults {
            unplug: how,
            ..Faults::default()
        });
        guest.unplug("hostdev0").await.unwrap();
        if is_told {
            assert_eq!(next(&mut events).await, deleted("hostdev0"), "{how:?}");
        }
        let left = guest.device_aliases().await.unwrap();
        assert!(
            !left.contains("hostdev0") && left.contains("net0"),
            "{how:?}: {left:?}"
        );
    }
}

#[tokio::test]
async fn a_changed_filter_is_told_once_until_it_is_asked_for() {
    let bench = Bench::new();
    let (guest, mut events, beside) = bench.start().await;
    let change = |mac: &str| {
        let members = json!({ "main-mac": mac, "promiscuous": true });
        beside.change_filter("net0", members.as_object().unwrap());
    };
    change("52:54:00:00:00:02");
    change("52:54:00:00:00:03");
    let changed = GuestEvent::RxFilterChanged {
        alias: "net0".to_owned(),
    };
    assert_eq!(next(&mut events).await, changed);
    let asked = guest.rx_filter("net0").await.unwrap();
    assert_eq!(asked.mac, "52:54:00:00:00:03".parse().ok());
    assert!(asked.filter.promiscuous);
    assert!(guest.rx_filter("net7").await.is_err());
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv()).collect();
    assert!(!told.contains(&changed), "told once");
    change("52:54:00:00:00:04");
    assert_eq!(next(&mut events).await, changed);
    let all = guest.rx_filters().await.unwrap();
    assert_eq!(all.len(), 1, "the VF is no card of QEMU's: {all:?}");
}

#[tokio::test]
async fn a_card_that_can_not_be_plugged_in_leaves_nothing() {
    let bench = Bench::new();
    let spec = bench.spec("web");
    let mut card = spec.domain.devices.interfaces[0].clone();
    card.source = conf::InterfaceSource::Ethernet;
    card.info.alias = Some("net1".to_owned());
    card.info.address = free_port(&spec.domain, 0);
    let domain = spec.domain.clone();
    let guest = bench.launcher.launch(spec).await.unwrap().guest;
    let beside = bench.guests.guest(domain.uuid).unwrap();
    let plug = async || {
        let null = || vec![std::fs::File::open("/dev/null").unwrap().into()];
        let taps = qemu::TapFds {
            taps: null(),
            vhosts: null(),
        };
        guest.plug_interface(&domain, &card, 1, taps).await
    };
    let before = beside.devices();
    for refused in ["getfd", "netdev_add", "device_add"] {
        beside.set_faults(Faults {
            refused_commands: vec![refused.to_owned()],
            ..Faults::default()
        });
        let error = plug().await.unwrap_err();
        assert!(error.to_string().contains(refused), "{error}");
        assert_eq!(beside.devices(), before, "{refused}");
        assert_eq!(beside.netdevs(), ["hostnet0"], "{refused}");
        assert!(beside.descriptors().is_empty(), "{refused}");
    }
    beside.set_faults(Faults::default());
    plug().await.unwrap();
    assert!(guest.device_aliases().await.unwrap().contains("net1"));
    assert_eq!(beside.netdevs(), ["hostnet0", "hostnet1"]);
    assert!(beside.descriptors().is_empty(), "the card has them");

    guest.unplug("net1").await.unwrap();
    guest.remove_netdev("net1").await.unwrap();
    assert_eq!(beside.netdevs(), ["hostnet0"]);
}
