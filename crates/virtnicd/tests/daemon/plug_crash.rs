//! Daemons that are killed, and steps that fail or are answered late, at every point of plugging and
//! unplugging: done or undone, nothing is left over.

use std::time::Duration;

use host::Fault;
use qemu::{Faults, SimulatedGuest};
use rpc::*;
use tokio::runtime::{Builder, Runtime};

use crate::guest_links::{CONFIG, LIVE};
use crate::plug_bench::*;

const MAC: &str = "52:54:00:00:00:01";
const BOND_MAC: &str = "52:54:01:00:00:01";
const STANDBY: &str = "ua-hybrid-525400000001";

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Attach(What),
    Detach(What),
    Promote,
    Demote,
    /// Its driver negotiates, so that it gets the VF that is reserved for it.
    Negotiate,
}

const ALL: [Doing; 13] = [
    Doing::Attach(What::Vf),
    Doing::Attach(What::Macvtap),
    Doing::Attach(What::PairOverPf),
    Doing::Attach(What::Pair),
    Doing::Attach(What::Bond),
    Doing::Detach(What::Vf),
    Doing::Detach(What::Macvtap),
    Doing::Detach(What::PairOverPf),
    Doing::Detach(What::Pair),
    Doing::Detach(What::Bond),
    Doing::Promote,
    Doing::Demote,
    Doing::Negotiate,
];

impl Doing {
    fn what(self) -> What {
        match self {
            Self::Attach(what) | Self::Detach(what) => what,
            Self::Promote | Self::Demote | Self::Negotiate => What::Pair,
        }
    }

    fn xml(self) -> String {
        let what = self.what();
        what.xml(if what == What::Bond { BOND_MAC } else { MAC })
    }

    /// Brings the guest to where it begins.
    async fn prepare(self, bench: &Bench) {
        if matches!(self, Self::Attach(_)) {
            return;
        }
        let (dom, xml, flags) = (bench.doms[0].clone(), self.xml(), (LIVE | CONFIG).into());
        bench
            .client
            .ok(DomainAttachDeviceFlags { dom, xml, flags })
            .await;
        if self != Self::Negotiate {
            bench.guest(0).unwrap().negotiate_failover(STANDBY);
        }
        bench.is_consistent("before").await;
        if self == Self::Promote {
            let (guest, mac) = ("g0".to_owned(), None);
            bench.client.ok(VirtnicDemote { guest, mac }).await;
        }
    }

    async fn carry_out(
        self,
        client: &crate::harness::Client,
        dom: Dom,
        qemu: &SimulatedGuest,
    ) -> Result<(), String> {
        let (xml, flags) = (self.xml(), (LIVE | CONFIG).into());
        let (guest, mac) = ("g0".to_owned(), None);
        match self {
            Self::Attach(_) => call(client, DomainAttachDeviceFlags { dom, xml, flags }).await,
            Self::Detach(_) => call(client, DomainDetachDeviceFlags { dom, xml, flags }).await,
            Self::Promote => call(client, VirtnicPromote { guest, mac }).await.map(drop),
            Self::Demote => call(client, VirtnicDemote { guest, mac }).await.map(drop),
            Self::Negotiate => {
                qemu.negotiate_failover(STANDBY);
                let who = || VirtnicWho {
                    filter: None,
                    counters: false,
                };
                while qemu.open_devices().is_empty() {
                    call(client, who()).await?;
                }
                Ok(())
            }
        }
    }

    /// The guest's driver starts as soon as it has a standby.
    fn negotiate(guest: &SimulatedGuest) {
        guest.negotiate_failover(STANDBY);
    }
}

/// How far from one point to the next: `PLUG_ALL=1` looks at each.
fn stride(usual: u64) -> u64 {
    if std::env::var_os("PLUG_ALL").is_some() {
        1
    } else {
        usual
    }
}

/// Waits, for a while, until something is so or something else has ended.
async fn until_or_done(is_so: impl Fn() -> bool, task: &tokio::task::JoinHandle<()>) -> bool {
    loop {
        if is_so() {
            return true;
        }
        if task.is_finished() {
            return is_so();
        }
        tokio::task::yield_now().await;
    }
}

/// A daemon in a runtime of its own, which ends with all that it does.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// As SIGKILL: nothing that it did goes on.
pub(crate) async fn kill(bench: &mut Bench, runtime: Runtime) {
    let daemon = bench.daemon.take();
    tokio::task::spawn_blocking(move || {
        runtime.shutdown_timeout(Duration::from_millis(20));
        drop(daemon);
    })
    .await
    .unwrap();
}

/// The daemon of a bench is one that can be killed.
pub(crate) async fn killable(bench: &mut Bench) -> Runtime {
    bench.daemon.take().unwrap().stop().await;
    let runtime = runtime();
    let (root, simulation) = (bench.site.root.path(""), bench.site.simulation.clone());
    let started =
        runtime.spawn(async move { crate::in_process::start_when_free(&root, simulation).await });
    bench.daemon = Some(started.await.unwrap());
    bench.client = bench.site.root.client().await;
    runtime
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_at_any_step_of_the_kernel_leaves_nothing() {
    for doing in ALL {
        let mut point = 1;
        loop {
            let when = format!("{doing:?}, killed after {point} changes");
            let mut bench = Bench::new(NARROW, 1).await;
            let runtime = killable(&mut bench).await;
            doing.prepare(&bench).await;
            let frozen = bench.site.simulation.host.freeze_after(point);
            let (client, dom) = (bench.site.root.client().await, bench.doms[0].clone());
            let qemu = bench.guest(0).unwrap();
            let calling =
                tokio::spawn(async move { drop(doing.carry_out(&client, dom, &qemu).await) });
            let is_reached = until_or_done(|| frozen.is_reached(), &calling).await;
            kill(&mut bench, runtime).await;
            drop(frozen);
            calling.await.unwrap();
            bench.site.simulation.host.restart_caller();
            bench.restart().await;
            let guest = bench.guest(0).unwrap();
            Doing::negotiate(&guest);
            bench.is_consistent(&when).await;
            bench.ends_clean(&when).await;
            if !is_reached {
                break;
            }
            point += stride(3);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_at_any_command_leaves_nothing() {
    for doing in ALL {
        for command in [
            "getfd",
            "netdev_add",
            "device_add",
            "device_del",
            "netdev_del",
            "qom-list",
        ] {
            let when = format!("{doing:?}, killed at {command}");
            let mut bench = Bench::new(NARROW, 1).await;
            let runtime = killable(&mut bench).await;
            doing.prepare(&bench).await;
            let guest = bench.guest(0).unwrap();
            guest.set_faults(Faults::default().swallow(command));
            let (client, dom) = (bench.site.root.client().await, bench.doms[0].clone());
            let qemu = bench.guest(0).unwrap();
            let calling =
                tokio::spawn(async move { drop(doing.carry_out(&client, dom, &qemu).await) });
            let is_done = || guest.waiting_faults() == 0;
            until_or_done(is_done, &calling).await;
            kill(&mut bench, runtime).await;
            calling.await.unwrap();
            guest.set_faults(Faults::default());
            bench.restart().await;
            Doing::negotiate(&guest);
            bench.is_consistent(&when).await;
            bench.ends_clean(&when).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_the_kernel_that_fails_is_undone_or_finished() {
    for doing in ALL {
        let mut bench = Bench::new(NARROW, 1).await;
        let mut point = 1;
        loop {
            let partial = point % 2 == 0;
            let when = format!("{doing:?}, step {point} fails, in part: {partial}");
            doing.prepare(&bench).await;
            let host = bench.site.simulation.host.clone();
            let fault = Fault::any(16).nth(point);
            host.fail(if partial { fault.partial() } else { fault });
            let dom = bench.doms[0].clone();
            let qemu = bench.guest(0).unwrap();
            let _ = doing.carry_out(&bench.client, dom, &qemu).await;
            let is_hit = host.waiting_faults() == 0;
            host.heal();
            Doing::negotiate(&bench.guest(0).unwrap());
            bench.client.ok(VirtnicReconcile { apply: true }).await;
            bench.is_consistent(&when).await;
            bench = bench.begun_anew(&when).await;
            if !is_hit {
                break;
            }
            point += stride(9);
        }
        bench.ends_clean(&format!("{doing:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_or_is_answered_late_is_undone_or_finished() {
    let commands = [
        "getfd",
        "netdev_add",
        "device_add",
        "device_del",
        "netdev_del",
        "closefd",
        "qom-list",
    ];
    let late = Duration::from_millis(20);
    for doing in ALL {
        let mut bench = Bench::new(NARROW, 1).await;
        for command in commands {
            for (how, faults) in [
                ("refused", Faults::default().refuse(command)),
                (
                    "refused the second time",
                    Faults::default().refuse_after(1, command),
                ),
                ("late", Faults::default().delay(command, late)),
            ] {
                let when = format!("{doing:?}, {command} {how}");
                doing.prepare(&bench).await;
                let guest = bench.guest(0).unwrap();
                guest.set_faults(faults);
                let dom = bench.doms[0].clone();
                let qemu = bench.guest(0).unwrap();
                let _ = doing.carry_out(&bench.client, dom, &qemu).await;
                Doing::negotiate(&guest);
                guest.set_faults(Faults::default());
                bench.is_consistent(&when).await;
                bench = bench.begun_anew(&when).await;
            }
        }
        bench.ends_clean(&format!("{doing:?}")).await;
    }
}
