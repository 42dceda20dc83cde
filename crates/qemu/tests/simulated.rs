//! A guest's life where the guest is simulated: what no stand-in does at will.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "simulated/devices.rs"]
mod devices;
#[path = "simulated/drives.rs"]
mod drives;
#[path = "simulated/failover.rs"]
mod failover;
#[path = "simulated/kinds.rs"]
mod kinds;
#[path = "simulated/migration.rs"]
mod migration;
#[path = "simulated/plugging.rs"]
mod plugging;
#[path = "simulated/sequences.rs"]
mod sequences;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use conf::{Domain, GuestAddress, HostSource, PciAddress};
use qemu::{
    Answers, ControlError, Exit, ExitReason, Faults, Guest, GuestEvent, GuestEvents, GuestState,
    LaunchError, LaunchSpec, Launched, Launcher, PauseReason, ReconnectError, Scopes,
    SimulatedGuest, SimulatedGuests, Unplug,
};
use serde_json::json;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

struct Bench {
    root: TempDir,
    guests: SimulatedGuests,
    launcher: Launcher,
}

impl Bench {
    fn new() -> Self {
        let guests = SimulatedGuests::new();
        Self {
            root: tempfile::tempdir().unwrap(),
            launcher: Launcher::Simulated(guests.clone()),
            guests,
        }
    }

    fn with(faults: Faults) -> Self {
        let bench = Self::new();
        bench.guests.set_faults(faults);
        bench
    }

    fn spec(&self, name: &str) -> LaunchSpec {
        self.spec_with(
            name,
            "<interface type='user'><mac address='52:54:00:00:00:01'/>
               <model type='virtio'/></interface>
             <hostdev mode='subsystem' type='pci' managed='yes'>
               <source><address domain='0' bus='3' slot='16' function='1'/></source></hostdev>",
        )
    }

    /// A start of a guest with these devices, and nine ports.
    fn spec_with(&self, name: &str, devices: &str) -> LaunchSpec {
        let port =
            |index| format!("<controller type='pci' index='{index}' model='pcie-root-port'/>");
        let ports: String = (1..=9).map(port).collect();
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory>131072</memory>
               <os><type arch='x86_64' machine='q35'>hvm</type></os>
               <devices>
                 <controller type='pci' index='0' model='pcie-root'/>{ports}
                 {devices}<memballoon model='none'/>
               </devices></domain>"
        );
        let mut domain = Domain::parse(&xml).unwrap();
        domain.fill_defaults();
        domain.assign_addresses(&|_| true).unwrap();
        domain.assign_aliases();
        let run_dir = self.root.path().join(domain.uuid.to_string());
        LaunchSpec::new(domain, run_dir, self.root.path().join("log"))
    }

    /// Starts a guest with these devices.
    async fn start_with(&self, devices: &str) -> Started {
        self.launch(self.spec_with("web", devices)).await
    }

    async fn launch(&self, spec: LaunchSpec) -> Started {
        let domain = spec.domain.clone();
        let Launched { guest, events, .. } = self.launcher.launch(spec).await.unwrap();
        let beside = self.guests.guest(domain.uuid).unwrap();
        Started {
            domain,
            guest,
            events,
            beside,
        }
    }

    async fn start(&self) -> (Guest, GuestEvents, SimulatedGuest) {
        let spec = self.spec("web");
        let uuid = spec.domain.uuid;
        let Launched { guest, events, .. } = self.launcher.launch(spec).await.unwrap();
        (guest, events, self.guests.guest(uuid).unwrap())
    }

    fn directories(&self) -> usize {
        std::fs::read_dir(self.root.path()).unwrap().count()
    }
}

/// A guest that runs.
struct Started {
    domain: Domain,
    guest: Guest,
    events: GuestEvents,
    beside: SimulatedGuest,
}

/// A place on the `number`-th of the guest's last ports, from 0: no device is there.
fn free_port(domain: &Domain, number: u32) -> Option<GuestAddress> {
    let ports = domain.devices.controllers.iter();
    let ports = ports.filter(|c| c.model.as_deref() == Some("pcie-root-port"));
    let last = ports.map(|port| port.index).max().unwrap();
    Some(GuestAddress::Pci {
        address: PciAddress::new(0, u8::try_from(last - number).unwrap(), 0, 0).unwrap(),
        multifunction: None,
    })
}

async fn next(events: &mut GuestEvents) -> GuestEvent {
    loop {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap();
        match event.unwrap() {
            GuestEvent::Qmp(_) => {}
            event => return event,
        }
    }
}

async fn exited(events: &mut GuestEvents) -> Exit {
    loop {
        if let GuestEvent::Exited(exit) = next(events).await {
            return exit;
        }
    }
}

fn deleted(alias: &str) -> GuestEvent {
    GuestEvent::DeviceDeleted {
        alias: alias.to_owned(),
    }
}

#[tokio::test]
async fn a_simulated_guest_lives_as_a_real_one_does() {
    let bench = Bench::new();
    let mut spec = bench.spec("web");
    spec.paused = true;
    let uuid = spec.domain.uuid;
    let Launched {
        guest, mut events, ..
    } = bench.launcher.launch(spec).await.unwrap();
    assert_eq!(guest.state(), GuestState::Paused(PauseReason::Starting));
    assert_eq!(guest.pid(), None, "the kernel doesn't know it");
    guest.resume().await.unwrap();
    guest.suspend().await.unwrap();
    assert_eq!(guest.state(), GuestState::Paused(PauseReason::User));
    guest.resume().await.unwrap();
    guest.reset().await.unwrap();
    guest.set_link("net0", false).await.unwrap();
    let beside = bench.guests.guest(uuid).unwrap();
    assert_eq!(beside.link("net0"), Some(false));
    assert!(guest.set_link("net7", true).await.is_err());
    let said = guest.human("info status", SOON).await.unwrap();
    assert!(said.contains("info status"), "{said}");
    guest.shutdown().await.unwrap();
    let exit = exited(&mut events).await;
    assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: true });
    assert!(guest.suspend().await.is_err());
    assert_eq!(events.recv().await, None, "nothing follows its end");
    assert!(bench.guests.guest(uuid).is_none());
    assert_eq!(bench.directories(), 0, "its directory goes with it");
}

#[tokio::test]
async fn what_happens_inside_is_told() {
    let bench = Bench::new();
    let (_guest, mut events, beside) = bench.start().await;
    beside.reboot();
    let expected = GuestEvent::Rebooted { by_guest: true };
    assert_eq!(next(&mut events).await, expected);
    beside.fail_disk();
    let to = GuestState::Paused(PauseReason::IoError);
    assert!(matches!(next(&mut events).await, GuestEvent::State { to: now, .. } if now == to));
    beside.panic();
    assert_eq!(exited(&mut events).await.reason, ExitReason::Crashed);

    let (_guest, mut events, beside) = bench.start().await;
    beside.die(3);
    assert_eq!(exited(&mut events).await.reason, ExitReason::Died);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ignores_sigterm_is_killed_and_one_that_ignores_both_is_told() {
    let stubborn = Faults {
        ignores_sigterm: true,
        ..Faults::default()
    };
    let bench = Bench::with(stubborn.clone());
    let (guest, _events, _) = bench.start().await;
    let error = guest.destroy_gracefully().await.unwrap_err();
    assert!(matches!(error, ControlError::StillThere { .. }), "{error}");
    let exit = guest.destroy().await.unwrap();
    assert_eq!(exit.reason, ExitReason::Destroyed);

    bench.guests.set_faults(Faults {
        ignores_sigkill: true,
        ..stubborn
    });
    let (guest, _events, beside) = bench.start().await;
    let error = guest.destroy().await.unwrap_err();
    assert!(matches!(error, ControlError::StillThere { .. }), "{error}");
    assert_eq!(guest.exit(), None);
    beside.kill();
    assert_eq!(guest.exited().await.reason, ExitReason::Destroyed);
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_is_slow_or_mute_holds_up_only_who_asks() {
    let bench = Bench::with(Faults {
        monitor: Answers::After(Duration::from_secs(2)),
        ..Faults::default()
    });
    let (guest, _events, beside) = bench.start().await;
    guest.suspend().await.unwrap();
    beside.set_faults(Faults {
        monitor: Answers::Never,
        ..Faults::default()
    });
    let error = guest.resume().await.unwrap_err();
    assert!(
        error.to_string().contains("did not answer 'cont'"),
        "{error}"
    );
    assert_eq!(guest.destroy().await.unwrap().reason, ExitReason::Destroyed);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_ends_at_its_deadline_and_one_that_is_refused_is_quoted() {
    let bench = Bench::with(Faults {
        monitor: Answers::Never,
        ..Faults::default()
    });
    let error = bench.launcher.launch(bench.spec("web")).await.unwrap_err();
    assert!(matches!(error, LaunchError::Monitor { .. }), "{error}");
    bench.guests.set_faults(Faults {
        refuses_to_start: Some("qemu: group is not viable".to_owned()),
        ..Faults::default()
    });
    let error = bench.launcher.launch(bench.spec("web")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "QEMU refused to start (exit status 1): qemu: group is not viable"
    );
    bench.guests.set_faults(Faults::default());
    let mut spec = bench.spec("web");
    spec.domain.os.machine = "isapc".to_owned();
    let error = bench.launcher.launch(spec).await.unwrap_err();
    assert!(matches!(error, LaunchError::CommandLine(_)), "{error}");
    assert_eq!((bench.guests.running(), bench.directories()), (0, 0));
}

#[tokio::test]
async fn a_dropped_start_leaves_nothing() {
    let bench = Bench::with(Faults {
        start_takes: Duration::from_secs(3600),
        ..Faults::default()
    });
    let spec = bench.spec("web");
    let uuid = spec.domain.uuid;
    let starting = tokio::spawn({
        let launcher = bench.launcher.clone();
        async move { launcher.launch(spec).await }
    });
    while bench.guests.guest(uuid).is_none() {
        tokio::task::yield_now().await;
    }
    starting.abort();
    assert!(starting.await.unwrap_err().is_cancelled());
    // The thread that starts it may have it in hand yet.
    while (bench.guests.running(), bench.directories()) != (0, 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_given_up_has_ended_when_that_is_told() {
    let bench = Bench::with(Faults {
        start_takes: Duration::from_secs(3600),
        ..Faults::default()
    });
    let runs = async |uuid| {
        while bench.guests.guest(uuid).is_none() {
            tokio::task::yield_now().await;
        }
    };
    let spec = bench.spec("web");
    let uuid = spec.domain.uuid;
    let starting = bench.launcher.launch_until(spec, runs(uuid));
    let error = starting.await.unwrap_err();
    assert!(matches!(error, LaunchError::GivenUp), "{error}");
    assert_eq!((bench.guests.running(), bench.directories()), (0, 0));

    let at_once = bench.launcher.launch_until(bench.spec("web"), async {});
    assert!(matches!(at_once.await, Err(LaunchError::GivenUp)));
    // One that nothing ends is not said to have ended.
    bench.guests.set_faults(Faults {
        start_takes: Duration::from_secs(3600),
        ignores_sigkill: true,
        ..Faults::default()
    });
    let spec = bench.spec("web");
    let uuid = spec.domain.uuid;
    let error = bench
        .launcher
        .launch_until(spec, runs(uuid))
        .await
        .unwrap_err();
    assert!(matches!(error, LaunchError::StillThere { .. }), "{error}");
    bench.guests.guest(uuid).unwrap().kill();
}

#[test]
fn the_next_daemon_takes_up_what_is_there() {
    let bench = Bench::new();
    let first = tokio::runtime::Runtime::new().unwrap();
    let (guest, _events, beside) = first.block_on(bench.start());
    let record = guest.record().clone();
    first.shutdown_background();
    // Nobody hears of it.
    beside.set_faults(Faults {
        unplug: Unplug::Silently,
        ..Faults::default()
    });
    let second = tokio::runtime::Runtime::new().unwrap();
    second.block_on(async {
        let (guest, mut events) = bench.launcher.reconnect(&record, SOON).await.unwrap();
        let from = GuestState::Unknown;
        let to = GuestState::Running;
        assert_eq!(next(&mut events).await, GuestEvent::State { from, to });
        guest.unplug("hostdev0").await.unwrap();
    });
    second.shutdown_background();
    let third = tokio::runtime::Runtime::new().unwrap();
    third.block_on(async {
        let (guest, mut events) = bench.launcher.reconnect(&record, SOON).await.unwrap();
        let devices = guest.device_aliases().await.unwrap();
        assert!(!devices.contains("hostdev0") && devices.contains("net0"));
        // The events are armed again.
        guest.rx_filters().await.unwrap();
        let members = json!({ "promiscuous": true });
        beside.change_filter("net0", members.as_object().unwrap());
        assert_eq!(
            next(&mut events).await,
            GuestEvent::State {
                from: GuestState::Unknown,
                to: GuestState::Running
            }
        );
        assert!(matches!(
            next(&mut events).await,
            GuestEvent::RxFilterChanged { .. }
        ));
        guest.destroy().await.unwrap();
        let gone = bench.launcher.reconnect(&record, SOON).await.unwrap_err();
        assert!(matches!(gone, ReconnectError::Gone { .. }), "{gone}");
        let elsewhere = Launcher::Simulated(SimulatedGuests::new());
        assert!(elsewhere.reconnect(&record, SOON).await.is_err());
        assert!(Launcher::Qemu.reconnect(&record, SOON).await.is_err());
    });
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_is_unknown_until_it_answers_and_can_be_ended() {
    let bench = Bench::new();
    let (guest, _events, beside) = bench.start().await;
    let record = guest.record().clone();
    let mute = Faults {
        monitor: Answers::Never,
        ..Faults::default()
    };
    beside.set_faults(mute.clone());
    let patience = Duration::from_secs(5);
    let (guest, mut events) = bench.launcher.reconnect(&record, patience).await.unwrap();
    assert_eq!(guest.state(), GuestState::Unknown);
    let error = guest.suspend().await.unwrap_err();
    assert!(matches!(error, ControlError::Silent { .. }), "{error}");
    assert_eq!(events.try_recv(), None);

    beside.set_faults(Faults::default());
    let (from, to) = (GuestState::Unknown, GuestState::Running);
    assert_eq!(next(&mut events).await, GuestEvent::State { from, to });
    guest.suspend().await.unwrap();

    beside.set_faults(mute);
    let (guest, mut events) = bench.launcher.reconnect(&record, patience).await.unwrap();
    assert_eq!(guest.state(), GuestState::Unknown);
    assert_eq!(guest.destroy().await.unwrap().reason, ExitReason::Destroyed);
    exited(&mut events).await;
}

#[tokio::test(start_paused = true)]
async fn events_without_end_neither_pile_up_nor_hold_commands_up() {
    let bench = Bench::new();
    let (guest, mut events, beside) = bench.start().await;
    let (long, longer) = ("x".repeat(50_000), "x".repeat(1_000_000));
    for number in 0..20 {
        beside.say(&format!("NEWS_{}", number % 2), json!({ "text": long }));
        beside.say("NEWS", json!({ "text": longer }));
        for _ in 0..20 {
            beside.say("STOP", json!({}));
            beside.say("RESUME", json!({}));
            beside.say("NIC_RX_FILTER_CHANGED", json!({ "name": "net0" }));
            beside.say("DEVICE_DELETED", json!({ "device": format!("d{number}") }));
        }
    }
    // Its answer comes after all that.
    guest.suspend().await.unwrap();
    assert!(guest.dropped_events() >= 18);
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv()).collect();
    assert!(told.len() < 400, "{}", told.len());
    let count = |event: &GuestEvent| told.iter().filter(|told| *told == event).count();
    let alias = "net0".to_owned();
    assert_eq!(count(&GuestEvent::RxFilterChanged { alias }), 1);
    assert_eq!(count(&deleted("d7")), 1);
    let last = told.iter().rev().find_map(|event| match event {
        GuestEvent::State { to, .. } => Some(*to),
        _ => None,
    });
    assert_eq!(last, Some(GuestState::Paused(PauseReason::User)));
}

#[tokio::test]
async fn five_hundred_guests_are_taken_up_at_once() {
    let bench = Bench::new();
    let mut records = Vec::new();
    for number in 0..500 {
        let mut spec = bench.spec(&format!("guest{number}"));
        let host = PciAddress::new(number, 3, 16, 1).unwrap();
        spec.domain.devices.hostdevs[0].source = HostSource::Pci(host);
        let launched = bench.launcher.launch(spec).await.unwrap();
        records.push(launched.guest.record().clone());
    }
    let mut taking_up = tokio::task::JoinSet::new();
    for record in records {
        let launcher = bench.launcher.clone();
        taking_up.spawn(async move { launcher.reconnect(&record, SOON).await.unwrap().0 });
    }
    let guests = taking_up.join_all().await;
    assert_eq!(guests.len(), 500);
    assert!(
        guests
            .iter()
            .all(|guest| guest.state() == GuestState::Running)
    );
    assert_eq!(bench.guests.running(), 500);
}

#[tokio::test]
async fn it_has_no_process_that_systemd_could_move() {
    let bench = Bench::new();
    let busctl = bench.root.path().join("busctl");
    let script = "#!/bin/sh\necho >\"${0%/*}/called\"\n";
    std::fs::write(&busctl, script).unwrap();
    std::fs::set_permissions(&busctl, PermissionsExt::from_mode(0o755)).unwrap();
    let mut spec = bench.spec("web");
    spec.scopes = Scopes::under_systemd(bench.root.path());
    spec.scopes.as_mut().unwrap().busctl = busctl;
    bench.launcher.launch(spec).await.unwrap();
    assert!(!bench.root.path().join("called").exists());
}
