//! Random walks: devices come and go, guests answer as they like, VFs vanish, steps fail, daemons follow
//! each other; and all is consistent whenever it is quiet.

use std::time::Duration;

use host::{Fault, Operation};
use qemu::{Faults, Unplug};
use rpc::*;
use tokio::task::JoinSet;

use crate::guest_links::{CONFIG, LIVE};
use crate::plug_bench::*;

const GUESTS: usize = 3;
const SLOTS: usize = 4;
const ROUNDS: usize = 4;
const STEPS: usize = 12;

/// What fails once.
const OPERATIONS: [Operation; 14] = [
    Operation::Bind,
    Operation::Unbind,
    Operation::SetMac,
    Operation::SetVlan,
    Operation::SetSpoofCheck,
    Operation::Reset,
    Operation::GrantVfio,
    Operation::MakeMacvlan,
    Operation::OpenTap,
    Operation::DeleteLink,
    Operation::SetUp,
    Operation::SetMtu,
    Operation::ReadNetdev,
    Operation::ReadUsage,
];
const COMMANDS: [&str; 8] = [
    "device_add",
    "device_del",
    "netdev_add",
    "netdev_del",
    "getfd",
    "closefd",
    "qom-list",
    "set_link",
];

/// The seeds of this run: `PLUG_SEED=7` is that one alone, `PLUG_SEEDS=500` so many.
fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("PLUG_SEED"), number("PLUG_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, many) => (0..many.unwrap_or(8)).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_and_goes_all_is_consistent_when_it_is_quiet() {
    for seed in seeds() {
        let walk = tokio::spawn(Walk::run(seed));
        assert!(walk.await.is_ok(), "seed {seed}");
    }
}

struct Walk {
    bench: Bench,
    dice: Dice,
    log: Vec<String>,
    /// The guest whose turn it is.
    of: String,
    /// Calls that wait for guests.
    calls: JoinSet<()>,
    /// What each slot of each guest was last asked to be.
    slots: [[Option<What>; SLOTS]; GUESTS],
    /// A guest let a device go without a word.
    is_silent: bool,
}

impl Walk {
    async fn run(seed: u64) {
        let mut walk = Self {
            bench: Bench::new(NARROW, GUESTS).await,
            dice: Dice::new(seed),
            log: Vec::new(),
            of: String::new(),
            calls: JoinSet::new(),
            slots: [[None; SLOTS]; GUESTS],
            is_silent: false,
        };
        for round in 0..ROUNDS {
            for _ in 0..STEPS {
                walk.step().await;
            }
            walk.settle(seed, round).await;
        }
        walk.bench
            .ends_clean(&format!("seed {seed}, {}", walk.log.join("\n")))
            .await;
    }

    fn note(&mut self, what: String) {
        self.log.push(what);
    }

    /// A call, waited for or beside what follows.
    async fn call<P: Procedure + std::fmt::Debug + Send + Sync + 'static>(
        &mut self,
        waits: bool,
        args: P,
    ) where
        P::Reply: Send,
    {
        let what = format!("{args:?}");
        let what = what.split_once("}, ").map_or(&*what, |(_, rest)| rest);
        let what = format!("{} {what}", P::INFO.api);
        let of = self.of.clone();
        self.note(format!("{of}: {what}"));
        if waits {
            let answer = call(&self.bench.client, args).await;
            if let Err(error) = answer {
                self.note(format!("   {error}"));
            }
            return;
        }
        let client = self.bench.site.root.client().await;
        self.calls.spawn(async move {
            let _ = call(&client, args).await;
        });
    }

    fn mac(guest: usize, slot: usize, what: What) -> String {
        // One each, so that what is lent can be told apart.
        let kind = match what {
            What::PairOverPf => 0,
            What::Bond => 1,
            What::Pair => 2,
            What::Vf => 3,
            What::Macvtap | What::HostDevice(_) => 4,
        };
        format!("52:54:0{kind}:00:{guest:02x}:{slot:02x}")
    }

    async fn step(&mut self) {
        let number = self.dice.roll(GUESTS);
        let dom = self.bench.doms[number].clone();
        let name = dom.name.clone();
        let guest = self.bench.guest(number);
        let waits = self.dice.roll(2) == 0;
        self.of.clone_from(&name);
        match self.dice.roll(40) {
            0..12 => {
                let slot = self.dice.roll(SLOTS);
                let vf = *self.dice.pick(&self.bench.all_vfs());
                let kinds = [
                    What::Vf,
                    What::Macvtap,
                    What::HostDevice(vf),
                    What::PairOverPf,
                    What::Pair,
                    What::Pair,
                    What::Bond,
                    What::Bond,
                ];
                let what = *self.dice.pick(&kinds);
                let flags = *self.dice.pick(&[LIVE, LIVE, LIVE | CONFIG, CONFIG, 0]);
                self.slots[number][slot] = Some(what);
                let xml = what.xml(&Self::mac(number, slot, what));
                let flags = flags.into();
                self.call(waits, DomainAttachDeviceFlags { dom, xml, flags })
                    .await;
            }
            12..17 => {
                let slot = self.dice.roll(SLOTS);
                if let Some(what) = self.slots[number][slot] {
                    let flags = *self.dice.pick(&[LIVE, LIVE | CONFIG, CONFIG]);
                    let xml = what.xml(&Self::mac(number, slot, what));
                    let flags = flags.into();
                    self.call(false, DomainDetachDeviceFlags { dom, xml, flags })
                        .await;
                }
            }
            17..19 => self.detach_one(number).await,
            19..21 => {
                self.call(
                    false,
                    VirtnicDemote {
                        guest: name,
                        mac: None,
                    },
                )
                .await
            }
            21..23 => {
                self.call(
                    waits,
                    VirtnicPromote {
                        guest: name,
                        mac: None,
                    },
                )
                .await
            }
            23 => {
                let pf = *self.dice.pick(&PFS);
                let drains = self.dice.roll(2) == 0;
                match drains {
                    true => {
                        self.bench.drained.insert(pf);
                        self.call(false, VirtnicDrain { pf: pf.to_owned() }).await;
                    }
                    false => {
                        // Two at once would leave open which came last.
                        self.join().await;
                        self.bench.drained.remove(pf);
                        self.call(true, VirtnicUndrain { pf: pf.to_owned() }).await;
                    }
                }
            }
            24..27 => {
                if let Some(guest) = guest {
                    let unplug = *self.dice.pick(&[
                        Unplug::AtOnce,
                        Unplug::After(Duration::from_millis(3)),
                        Unplug::WhenReleased,
                        Unplug::Refused,
                        Unplug::Silently,
                    ]);
                    self.note(format!("{name} {unplug:?}"));
                    let faults = |unplug| Faults {
                        unplug,
                        ..Faults::default()
                    };
                    guest.set_faults(faults(unplug));
                    if unplug == Unplug::Silently {
                        self.is_silent = true;
                        self.detach_one(number).await;
                        guest.set_faults(Faults::default());
                    }
                }
            }
            27..30 => {
                if let Some(guest) = guest {
                    let devices = guest.devices();
                    let standby = devices
                        .iter()
                        .filter(|one| one.starts_with("ua-") && !one.ends_with("-vf"));
                    for standby in standby {
                        self.note(format!("{name} negotiates {standby}"));
                        guest.negotiate_failover(standby);
                    }
                }
            }
            30 => {
                if let Some(guest) = guest {
                    self.note(format!("{name} reboots"));
                    guest.reboot();
                }
            }
            31 => {
                let vf = *self.dice.pick(&self.bench.all_vfs());
                self.note(format!("{vf} vanishes"));
                self.bench.site.simulation.host.remove_vf(vf);
            }
            32 => {
                self.note("VFs are back".to_owned());
                for pf in self.bench.vfs.keys() {
                    for vf in 0..8 {
                        self.bench.site.simulation.host.restore_vf(*pf, vf);
                    }
                }
            }
            33 => {
                if let Some(guest) = guest {
                    let command = *self.dice.pick(&COMMANDS);
                    let delay = Duration::from_millis(5);
                    let how = self.dice.roll(2);
                    self.note(format!("{name} fails at {command}, {how}"));
                    guest.set_faults(match how {
                        0 => Faults::default().refuse(command),
                        _ => Faults::default().delay(command, delay),
                    });
                }
            }
            34 => {
                let operation = *self.dice.pick(&OPERATIONS);
                let errno = *self.dice.pick(&[5, 16, 95]);
                self.note(format!("{operation:?} fails"));
                self.bench
                    .site
                    .simulation
                    .host
                    .fail(Fault::of(operation, errno));
            }
            35 => match self.dice.roll(2) {
                0 => self.call(waits, DomainSuspend { dom }).await,
                _ => self.call(waits, DomainResume { dom }).await,
            },
            36 => match self.dice.roll(2) {
                0 => self.call(waits, DomainDestroy { dom }).await,
                _ => {
                    let flags = Default::default();
                    self.call(waits, DomainCreateWithFlags { dom, flags }).await;
                }
            },
            37 => {
                self.note("the next daemon".to_owned());
                self.bench.restart().await;
            }
            38 => {
                if let Some(guest) = guest {
                    let devices = guest.devices();
                    let vf = devices
                        .iter()
                        .filter(|one| one.ends_with("-vf") || one.starts_with("hostdev"));
                    let vf: Vec<_> = vf.collect();
                    if !vf.is_empty() {
                        let vf = *self.dice.pick(&vf);
                        self.note(format!("the kernel asks {name} for {vf}"));
                        guest.ask_back(vf);
                    }
                }
            }
            _ => {
                if let Some(guest) = guest {
                    self.note(format!("{name} dies"));
                    guest.kill();
                }
            }
        }
    }

    /// Asks for one of a guest's devices by its alias, which waits for nothing.
    async fn detach_one(&mut self, number: usize) {
        let dom = self.bench.doms[number].clone();
        let Some(guest) = self.bench.guest(number) else {
            return;
        };
        let is_ours = |alias: &&String| {
            ["net", "hostdev", "ua-"]
                .iter()
                .any(|prefix| alias.starts_with(prefix))
        };
        let devices = guest.devices();
        let devices: Vec<_> = devices.iter().filter(is_ours).collect();
        if devices.is_empty() {
            return;
        }
        let alias = (*self.dice.pick(&devices)).clone();
        let flags = LIVE.into();
        self.call(true, DomainDetachDeviceAlias { dom, alias, flags })
            .await;
    }

    /// Waits for all calls; guests let go meanwhile what they are asked for.
    async fn join(&mut self) {
        loop {
            self.bench.heal();
            let next = tokio::time::timeout(Duration::from_millis(2), self.calls.join_next());
            match next.await {
                Ok(None) => return,
                Ok(Some(joined)) => joined.unwrap(),
                Err(_) => {}
            }
        }
    }

    async fn settle(&mut self, seed: u64, round: usize) {
        self.join().await;
        if std::mem::take(&mut self.is_silent) {
            self.note("the next daemon, after a silence".to_owned());
            self.bench.restart().await;
        }
        self.bench.client.ok(VirtnicReconcile { apply: true }).await;
        self.bench.heal();
        let when = format!("seed {seed}, round {round}, {}", self.log.join("\n"));
        self.bench.is_consistent(&when).await;
    }
}
