//! Everything that can go wrong, at each step of a move: the guest never runs on both hosts, and is whole on one
//! of them afterwards, or halted where a person is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qemu::{Faults, SimulatedGuests, Unplug};
use rpc::flags::MigrateParams as Flags;
use rpc::*;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::journey::*;
use crate::in_process::until;
use crate::plug_bench::*;
use crate::plug_crash::{kill, killable};

/// How far the move is when it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its client has its document.
    Begun,
    /// The other host waits for it.
    Prepared,
    /// It is asked for its VFs.
    Unplugging,
    /// Its memory is on its way.
    Sending,
    /// It is halted, and the other host loads it.
    Loading,
    /// Its client knows that all was sent.
    Sent,
    /// The other host is about to let it run.
    Finishing,
    /// Its client knows that it runs there.
    Finished,
    /// Its client has told that.
    Confirmed,
}

const STEPS: [Step; 9] = [
    Step::Begun,
    Step::Prepared,
    Step::Unplugging,
    Step::Sending,
    Step::Loading,
    Step::Sent,
    Step::Finishing,
    Step::Finished,
    Step::Confirmed,
];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Its client goes away, from both hosts.
    ClientGone,
    /// Somebody aborts it.
    Abort,
    /// The daemon that it leaves is killed, and comes back.
    SourceDaemon,
    /// The daemon that it goes to is killed, and comes back.
    DestinationDaemon,
    /// The QEMU that it leaves is killed.
    SourceQemu,
    /// The QEMU that it goes to is killed.
    DestinationQemu,
}

const ALL_WRONG: [Wrong; 6] = [
    Wrong::ClientGone,
    Wrong::Abort,
    Wrong::SourceDaemon,
    Wrong::DestinationDaemon,
    Wrong::SourceQemu,
    Wrong::DestinationQemu,
];

/// What has to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It goes on where it was.
    Here,
    /// It is on the other host.
    There,
    /// It is halted where it was, and a person is asked.
    Unknown,
    /// It is gone: its process was killed where it was.
    Nowhere,
}

/// The table.
fn fate(step: Step, wrong: Wrong) -> Fate {
    use Fate::{Here, Nowhere, There, Unknown};
    use Step::{Confirmed, Finished, Finishing, Sent};
    match (wrong, step) {
        (_, Confirmed) if wrong != Wrong::DestinationQemu => There,

        (Wrong::ClientGone, Sent) => Unknown,
        // It came, and nobody told where it was that it is there.
        (Wrong::ClientGone, Finishing | Finished) => Unknown,
        (Wrong::ClientGone, _) => Here,

        // Nobody is asked any more.
        (Wrong::Abort, Sent | Finishing | Finished) => There,
        (Wrong::Abort, _) => Here,

        (Wrong::SourceDaemon, Sent | Finishing | Finished) => Unknown,
        (Wrong::SourceDaemon, _) => Here,

        // Its client has the source go on, or was told already.
        (Wrong::DestinationDaemon, Finished) => There,
        (Wrong::DestinationDaemon, _) => Here,

        (Wrong::SourceQemu, Sent | Finishing | Finished) => There,
        (Wrong::SourceQemu, _) => Nowhere,

        // There is none yet.
        (Wrong::DestinationQemu, Step::Begun) => There,
        (Wrong::DestinationQemu, Finished | Confirmed) => Nowhere,
        (Wrong::DestinationQemu, _) => Here,
    }
}

/// Watches that the guest never runs on both hosts.
struct Watch {
    over: Arc<AtomicBool>,
    watching: JoinHandle<()>,
}

impl Watch {
    fn of(hosts: &Hosts, when: String) -> Self {
        let guests = [&hosts.here, &hosts.there].map(|bench| bench.site.simulation.guests.clone());
        let (over, uuid) = (Arc::new(AtomicBool::new(false)), hosts.dom.uuid);
        let its = Arc::clone(&over);
        let watching = tokio::spawn(async move {
            let runs =
                |guests: &SimulatedGuests| guests.guest(uuid).is_some_and(|guest| guest.runs());
            while !its.load(Ordering::Relaxed) {
                assert!(!guests.iter().all(runs), "{when}: it runs on both hosts");
                tokio::task::yield_now().await;
            }
        });
        Self { over, watching }
    }

    async fn ends(self) {
        self.over.store(true, Ordering::Relaxed);
        self.watching.await.unwrap();
    }
}

/// For whatever goes wrong to go wrong meanwhile.
const LONG: Duration = Duration::from_millis(300);

/// A move that stands still at a step.
struct Still {
    /// The client's call that is under way, or what it got.
    going: JoinHandle<Option<Mover>>,
}

/// Brings a move to a step, and has a client go on from there as virsh does.
///
/// Where it would go on by itself it waits for `go_on`, and then goes away, if it `goes`.
async fn bring_to(
    (step, wrong): (Step, Wrong),
    hosts: &Hosts,
    mover: Mover,
    go_on: Arc<AtomicBool>,
) -> Still {
    let goes = wrong == Wrong::ClientGone;
    let (reached, is_reached) = tokio::sync::oneshot::channel();
    let here = hosts.here.guest(0).unwrap();
    let there = hosts.there.site.simulation.guests.clone();
    match step {
        Step::Unplugging => here.set_faults(Faults {
            unplug: Unplug::WhenReleased,
            ..Faults::default()
        }),
        Step::Sending => here.set_faults(Faults {
            migration_stays: true,
            ..Faults::default()
        }),
        Step::Loading => there.set_faults(Faults {
            load_stays: true,
            ..Faults::default()
        }),
        // It runs, and the daemon that told it to does not hear that.
        Step::Finishing if wrong == Wrong::DestinationDaemon => {
            there.set_faults(Faults::default().swallow("cont"));
        }
        Step::Finishing => there.set_faults(Faults::default().delay("cont", LONG)),
        _ => {}
    }
    let going = tokio::spawn(async move {
        let mut reached = Some(reached);
        // What is held stands still by itself; the others wait here.
        macro_rules! at {
            ($this:expr) => {
                if step == $this {
                    let _ = reached.take().unwrap().send(());
                    while !go_on.load(Ordering::Relaxed) {
                        tokio::task::yield_now().await;
                    }
                    if goes {
                        return None;
                    }
                }
            };
        }
        let Ok(begun) = mover.begin().await else {
            return Some(mover);
        };
        at!(Step::Begun);
        let Ok(prepared) = mover.prepare(&begun).await else {
            let _ = mover.confirm(&[], true).await;
            return Some(mover);
        };
        at!(Step::Prepared);
        if matches!(step, Step::Unplugging | Step::Sending | Step::Loading) {
            let _ = reached.take().unwrap().send(());
        }
        let Ok(sent) = mover.perform(&prepared).await else {
            let _ = mover.finish(&[], true).await;
            return Some(mover);
        };
        at!(Step::Sent);
        if step == Step::Finishing {
            let _ = reached.take().unwrap().send(());
        }
        let Ok(finished) = mover.finish(&sent, false).await else {
            let _ = mover.confirm(&[], true).await;
            return Some(mover);
        };
        at!(Step::Finished);
        let _ = mover.confirm(&finished.cookie_out, false).await;
        at!(Step::Confirmed);
        Some(mover)
    });
    is_reached.await.unwrap();
    // It stands still where it is meant to.
    let uuid = hosts.dom.uuid;
    let guest = || there.guest(uuid);
    match step {
        Step::Unplugging => {
            until("it is asked for a VF", async || {
                let who = hosts.here.client.who().await;
                who.iter().any(|row| row.state == "pending")
            })
            .await;
        }
        Step::Sending => {
            until("its memory goes", async || {
                let dom = hosts.dom.clone();
                hosts
                    .here
                    .client
                    .ok(DomainGetJobInfo { dom })
                    .await
                    .data_total
                    > 0
            })
            .await;
        }
        Step::Loading => until("it is halted", async || hosts.runs() == (false, false)).await,
        Step::Finishing => {
            until("it is told to run", async || {
                guest().is_some_and(|guest| guest.waiting_faults() == 0)
            })
            .await;
        }
        _ => {}
    }
    Still { going }
}

async fn killed(bench: &mut Bench, runtime: &mut Option<Runtime>) {
    bench.site.simulation.guests.daemon_ends();
    kill(bench, runtime.take().unwrap()).await;
    bench.site.simulation.guests.daemon_ends();
}

async fn try_out(step: Step, wrong: Wrong) {
    let when = format!("{wrong:?} at {step:?}");
    let mut hosts = Hosts::new().await;
    let mut here = Some(killable(&mut hosts.here).await);
    let mut there = Some(killable(&mut hosts.there).await);
    hosts.here.guest(0).unwrap().negotiate_failover(STANDBY);
    hosts.here.is_consistent(&when).await;
    until("its monitor answers", async || {
        hosts.state_here().await.state == 1
    })
    .await;
    let watch = Watch::of(&hosts, when.clone());
    let mut mover = Mover::new(&hosts).await;
    mover.flags = Flags::LIVE | Flags::PERSIST_DEST;
    let go_on = Arc::new(AtomicBool::new(false));
    let still = bring_to((step, wrong), &hosts, mover, Arc::clone(&go_on)).await;

    let uuid = hosts.dom.uuid;
    match wrong {
        Wrong::ClientGone => {
            if matches!(
                step,
                Step::Unplugging | Step::Sending | Step::Loading | Step::Finishing
            ) {
                still.going.abort();
            }
        }
        Wrong::Abort => {
            let dom = hosts.dom.clone();
            let _ = call(&hosts.here.client, DomainAbortJob { dom }).await;
        }
        Wrong::SourceDaemon => killed(&mut hosts.here, &mut here).await,
        Wrong::DestinationDaemon => killed(&mut hosts.there, &mut there).await,
        Wrong::SourceQemu => hosts
            .here
            .site
            .simulation
            .guests
            .guest(uuid)
            .iter()
            .for_each(|guest| guest.kill()),
        Wrong::DestinationQemu => hosts
            .there
            .site
            .simulation
            .guests
            .guest(uuid)
            .iter()
            .for_each(|guest| guest.kill()),
    }
    go_on.store(true, Ordering::Relaxed);
    if wrong != Wrong::ClientGone {
        // Guests and hosts are well from here on; what the client does it does with them.
        heal(&hosts);
    }
    // A client that lives has gone through it now.
    let _ = still.going.await;
    heal(&hosts);
    if hosts.here.daemon.is_none() {
        hosts.here.restart().await;
    }
    if hosts.there.daemon.is_none() {
        hosts.there.restart().await;
    }
    came_to(fate(step, wrong), &mut hosts, &when).await;
    watch.ends().await;
    for bench in [hosts.here, hosts.there] {
        bench.ends_clean(&when).await;
    }
    for runtime in [here, there].into_iter().flatten() {
        runtime.shutdown_background();
    }
}

/// Nothing fails any more on either host.
fn heal(hosts: &Hosts) {
    for bench in [&hosts.here, &hosts.there] {
        bench.site.simulation.guests.set_faults(Faults::default());
        if let Some(guest) = bench.site.simulation.guests.guest(hosts.dom.uuid) {
            guest.set_faults(Faults::default());
            for alias in guest.devices() {
                guest.release(&alias);
            }
        }
    }
}

async fn came_to(fate: Fate, hosts: &mut Hosts, when: &str) {
    let gone = async |hosts: &mut Hosts| {
        until(&format!("{when}: nothing is there"), async || {
            hosts.there.client.guest_names(0).await.is_empty()
        })
        .await;
        hosts.nothing_there(when).await;
    };
    match fate {
        Fate::Here => {
            gone(hosts).await;
            hosts.is_here(when).await;
        }
        Fate::There => {
            if hosts.there.site.root.records("moves") == 1 && hosts.runs() == (false, false) {
                // Its daemon was killed before it had heard that the client knows.
                let resolve = VirtnicMigrateResolve {
                    guest: hosts.dom.name.clone(),
                    here: true,
                };
                hosts.there.client.ok(resolve).await;
            }
            let dom = hosts.dom.clone();
            hosts.is_there(dom, when).await;
        }
        Fate::Nowhere => {
            until(&format!("{when}: it runs nowhere"), async || {
                hosts.runs() == (false, false)
            })
            .await;
            hosts.here.is_consistent(when).await;
            hosts.there.is_consistent(when).await;
        }
        Fate::Unknown => {
            until(&format!("{when}: it is halted here"), async || {
                let state = hosts.state_here().await;
                (state.state, state.reason) == (3, 2) && !hosts.runs().0
            })
            .await;
            // The person looks at the other host, too, when that is at rest.
            until(&format!("{when}: it is there, or not"), async || {
                hosts.there.site.root.records("moves") == 0
            })
            .await;
            let is_there = hosts.runs().1;
            let resolve = VirtnicMigrateResolve {
                guest: hosts.dom.name.clone(),
                here: !is_there,
            };
            // Until its client is known to be gone it is the client's.
            until(&format!("{when}: a person is heard"), async || {
                call(&hosts.here.client, resolve.clone()).await.is_ok()
            })
            .await;
            if is_there {
                let dom = hosts.dom.clone();
                hosts.is_there(dom, when).await;
            } else {
                gone(hosts).await;
                hosts.is_here(when).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_at_any_step_the_guest_runs_once_and_whole() {
    let only = std::env::var("MOVE_ONLY").unwrap_or_default();
    for wrong in ALL_WRONG {
        for step in STEPS {
            if format!("{wrong:?} {step:?}").contains(&only) {
                try_out(step, wrong).await;
            }
        }
    }
}
