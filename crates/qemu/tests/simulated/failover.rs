//! Failover pairs: what QEMU does with a primary, and what it remembers of it.

use conf::{DeviceInfo, PciAddress, Teaming};
use qemu::{
    ControlError, Faults, GuestEvent, RefusalKind, Resources, SimulatedGuest, Unplugging,
    command_line,
};

use crate::{Bench, Started, deleted, free_port, next};

/// A pair as a document has it: `net0`, and `hostdev0` which is VF 03:10.1.
const PAIR: &str = "<interface type='user'><mac address='52:54:00:00:00:01'/>
       <model type='virtio'/><alias name='ua-standby'/><teaming type='persistent'/></interface>
     <interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:01'/>
       <source><address type='pci' domain='0' bus='3' slot='16' function='1'/></source>
       <alias name='ua-vf'/><teaming type='transient' persistent='ua-standby'/></interface>";

const STANDBY: &str = "ua-standby";

fn vf(number: u8) -> PciAddress {
    PciAddress::new(0, 3, 16, number).unwrap()
}

fn negotiated() -> GuestEvent {
    GuestEvent::FailoverNegotiated {
        alias: STANDBY.to_owned(),
    }
}

impl Started {
    /// Plugs a VF in as the pair's other half, under that alias.
    async fn plug_primary(&self, alias: &str, host: PciAddress) -> Result<(), ControlError> {
        let info = DeviceInfo {
            alias: Some(alias.to_owned()),
            address: free_port(&self.domain, 0),
            ..DeviceInfo::default()
        };
        let teaming = Teaming::Transient {
            persistent: STANDBY.to_owned(),
        };
        let guest = &self.guest;
        guest
            .plug_host_device(&self.domain, &info, Some(&teaming), host)
            .await
    }

    async fn unplugged(&mut self, alias: &str) {
        assert_eq!(self.guest.unplug(alias).await.unwrap(), Unplugging::Asked);
        assert_eq!(next(&mut self.events).await, deleted(alias));
    }
}

/// A pair whose VF half is not plugged in yet.
async fn withheld(bench: &Bench) -> Started {
    let mut spec = bench.spec_with("web", PAIR);
    spec.withheld = ["ua-vf".to_owned()].into();
    bench.launch(spec).await
}

fn has(guest: &SimulatedGuest, alias: &str) -> bool {
    guest.devices().iter().any(|device| device == alias)
}

#[tokio::test]
async fn a_primary_of_the_start_is_opened_when_the_guest_negotiates() {
    let bench = Bench::new();
    let mut web = bench.start_with(PAIR).await;
    assert!(web.beside.open_devices().is_empty());
    assert_eq!(web.beside.remembered_primary(STANDBY), Some(vf(1)));
    let gone = web.guest.unplug("ua-vf").await.unwrap();
    assert_eq!(gone, Unplugging::NotThere, "and yet it is remembered");

    let asked = web.guest.has_negotiated_failover(STANDBY).await.unwrap();
    assert_eq!(asked, Some(false));
    web.beside.negotiate_failover(STANDBY);
    assert_eq!(next(&mut web.events).await, negotiated());
    assert_eq!(web.beside.open_devices(), [vf(1)]);
    assert!(has(&web.beside, "ua-vf"));
    let asked = web.guest.has_negotiated_failover(STANDBY).await.unwrap();
    assert_eq!(asked, Some(true));
}

#[tokio::test]
async fn a_primary_that_is_withheld_is_neither_opened_nor_remembered() {
    let bench = Bench::new();
    let mut web = withheld(&bench).await;
    assert_eq!(web.beside.remembered_primary(STANDBY), None);
    web.beside.negotiate_failover(STANDBY);
    assert_eq!(next(&mut web.events).await, negotiated());
    assert!(web.beside.open_devices().is_empty());

    web.plug_primary("ua-vf", vf(1)).await.unwrap();
    assert_eq!(web.beside.open_devices(), [vf(1)]);
    web.beside.reboot();
    assert_eq!(
        next(&mut web.events).await,
        GuestEvent::Rebooted { by_guest: true }
    );
    assert_eq!(next(&mut web.events).await, negotiated());
    assert_eq!(web.beside.open_devices(), [vf(1)], "the one that is there");
}

#[tokio::test]
async fn a_link_that_is_down_is_not_set_of_what_is_withheld() {
    let bench = Bench::new();
    let pair = PAIR.replace(
        "<alias name='ua-vf'/>",
        "<alias name='ua-vf'/><link state='down'/>",
    );
    let mut spec = bench.spec_with("web", &pair);
    spec.withheld = ["ua-vf".to_owned()].into();
    // A primary that has no VF at all.
    spec.domain.devices.interfaces[1].source = conf::InterfaceSource::Network {
        network: "pool".to_owned(),
        port_group: None,
    };
    assert!(command_line(&spec.domain, &Resources::default()).is_err());
    let web = bench.launch(spec).await;
    assert!(!has(&web.beside, "ua-vf"));
    assert_eq!(web.beside.memory_lock(), None, "raised when the VF comes");
}

#[tokio::test]
async fn a_new_vf_under_the_same_name_is_opened_and_a_reboot_brings_the_first_back() {
    let bench = Bench::new();
    let mut web = withheld(&bench).await;
    web.beside.negotiate_failover(STANDBY);
    next(&mut web.events).await;
    web.plug_primary("ua-vf", vf(1)).await.unwrap();
    web.unplugged("ua-vf").await;
    assert!(web.beside.open_devices().is_empty());

    let error = web.plug_primary("ua-other", vf(2)).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::OtherPrimary), "{error}");
    assert!(web.beside.open_devices().is_empty());
    web.plug_primary("ua-vf", vf(2)).await.unwrap();
    assert_eq!(web.beside.open_devices(), [vf(2)]);
    assert_eq!(web.beside.remembered_primary(STANDBY), Some(vf(1)));

    web.unplugged("ua-vf").await;
    web.beside.reboot();
    next(&mut web.events).await;
    assert_eq!(next(&mut web.events).await, negotiated());
    assert_eq!(
        web.beside.open_devices(),
        [vf(1)],
        "the first, asked by nobody"
    );
}

#[tokio::test]
async fn what_may_not_be_opened_is_not_and_is_forgotten_then() {
    let bench = Bench::new();
    let mut web = withheld(&bench).await;
    web.beside.negotiate_failover(STANDBY);
    next(&mut web.events).await;
    web.plug_primary("ua-vf", vf(1)).await.unwrap();
    web.unplugged("ua-vf").await;

    // The VF is another guest's by now, be it open there or not yet.
    web.beside.set_may_open(vf(1), false);
    web.beside.reboot();
    next(&mut web.events).await;
    assert_eq!(next(&mut web.events).await, negotiated());
    assert!(web.beside.open_devices().is_empty() && !has(&web.beside, "ua-vf"));
    assert_eq!(web.beside.remembered_primary(STANDBY), None);
    web.plug_primary("ua-vf", vf(2)).await.unwrap();
    assert_eq!(web.beside.remembered_primary(STANDBY), Some(vf(2)));
}

#[tokio::test]
async fn a_plug_that_fails_is_remembered_all_the_same() {
    let bench = Bench::new();
    let mut web = withheld(&bench).await;
    web.beside.negotiate_failover(STANDBY);
    next(&mut web.events).await;
    web.beside.set_may_open(vf(1), false);
    let error = web.plug_primary("ua-vf", vf(1)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("Permission denied") && text.contains("0000:03:10.1"),
        "{text}"
    );
    web.beside.set_may_open(vf(1), true);
    web.beside.reboot();
    next(&mut web.events).await;
    assert_eq!(next(&mut web.events).await, negotiated());
    assert_eq!(
        web.beside.open_devices(),
        [vf(1)],
        "nobody asked for it again"
    );
}

#[tokio::test]
async fn it_is_forgotten_with_its_standby() {
    let bench = Bench::new();
    let mut web = bench.start_with(PAIR).await;
    web.unplugged(STANDBY).await;
    assert_eq!(web.beside.remembered_primary(STANDBY), None);
    web.beside.negotiate_failover(STANDBY);
    assert!(web.beside.open_devices().is_empty());
}

#[tokio::test]
async fn one_device_is_open_in_one_guest_by_the_rule_of_the_host() {
    let bench = Bench::new();
    let mut a = bench.start_with(PAIR).await;
    a.beside.negotiate_failover(STANDBY);
    assert_eq!(next(&mut a.events).await, negotiated());
    let second = bench.spec_with("b", PAIR);
    let mut b = bench.launch(second).await;
    b.beside.negotiate_failover(STANDBY);
    assert_eq!(next(&mut b.events).await, negotiated());
    assert!(
        b.beside.open_devices().is_empty(),
        "it is open in the first"
    );

    let owner = b.domain.uuid;
    bench.guests.set_opening_rule(move |guest, _| {
        let refusal = || "Permission denied".to_owned();
        (guest == owner).then_some(()).ok_or_else(refusal)
    });
    let error = a.plug_primary("ua-vf2", vf(2)).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::OtherPrimary));
    a.beside.kill();
    b.plug_primary("ua-vf", vf(1)).await.unwrap();
    assert_eq!(b.beside.open_devices(), [vf(1)]);

    // A QEMU that may not open what its command line names ends.
    let vf = "<hostdev mode='subsystem' type='pci' managed='yes'>
       <source><address domain='0' bus='3' slot='16' function='3'/></source></hostdev>";
    let error = bench.launcher.launch(bench.spec_with("c", vf)).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("Permission denied"), "{text}");
}

#[tokio::test]
async fn an_older_qemu_does_not_tell_whether_it_was_negotiated() {
    let bench = Bench::new();
    let web = bench.start_with(PAIR).await;
    let asked = web.guest.has_negotiated_failover("ua-none").await.unwrap();
    assert_eq!(asked, None);
    web.beside.set_faults(Faults {
        unknown_commands: vec!["x-query-virtio-status".to_owned()],
        ..Faults::default()
    });
    let asked = web.guest.has_negotiated_failover(STANDBY).await.unwrap();
    assert_eq!(asked, None);
}

#[tokio::test]
async fn what_qemu_says_of_pairs_is_told_by_alias() {
    let bench = Bench::new();
    let mut web = bench.start_with(PAIR).await;
    let say = |event: &str, alias: &str| {
        let data = serde_json::json!({ "device-id": alias });
        web.beside.say(event, data);
    };
    for alias in ["a", "b"] {
        say("FAILOVER_NEGOTIATED", alias);
        say("UNPLUG_PRIMARY", alias);
    }
    for alias in ["a", "b"] {
        let alias = alias.to_owned();
        let told = next(&mut web.events).await;
        assert_eq!(
            told,
            GuestEvent::FailoverNegotiated {
                alias: alias.clone()
            }
        );
        assert_eq!(
            next(&mut web.events).await,
            GuestEvent::UnplugPrimary { alias }
        );
    }
    say("FAILOVER_NEGOTIATED", &"x".repeat(300));
    assert_eq!(next(&mut web.events).await, GuestEvent::DevicesChanged);
}

/// The guest started anew between the grant and the plug: QEMU was quicker.
#[tokio::test]
async fn a_primary_that_qemu_made_by_itself_is_the_one_that_was_to_be_plugged_in() {
    let bench = Bench::new();
    let mut web = withheld(&bench).await;
    web.beside.negotiate_failover(STANDBY);
    assert_eq!(next(&mut web.events).await, negotiated());
    web.plug_primary("ua-vf", vf(1)).await.unwrap();
    web.unplugged("ua-vf").await;
    web.beside.reboot();
    assert_eq!(web.beside.open_devices(), [vf(1)]);
    web.plug_primary("ua-vf", vf(1)).await.unwrap();
    assert!(has(&web.beside, "ua-vf"));
    // Another one is not.
    let error = web.plug_primary("ua-vf", vf(2)).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalKind::NameTaken), "{error}");
    assert_eq!(web.beside.open_devices(), [vf(1)]);
}
