//! Any order of plugs, unplugs, faults and guests' answers: nothing is left in the end.

use std::time::Duration;

use proptest::prelude::*;
use qemu::{Answers, Faults, Leftovers, Unplug};

use crate::kinds::{ALL, GUEST, Kind, stock};
use crate::{Bench, SOON};

/// What happens next.
#[derive(Debug, Clone)]
enum Move {
    Plug(Kind),
    /// A plug of which a command is refused.
    Fail(Kind, usize),
    /// A plug that is given up while QEMU is slow with a command.
    Drop(Kind, usize),
    Unplug(Kind),
    Clear(Kind),
    /// The guest lets go what it was asked for.
    Release(Kind),
    /// The host's kernel asks for it.
    AskBack(Kind),
    Answer(Unplug),
    Reboot,
    /// The next daemon comes.
    Reconnect,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let kind = || prop::sample::select(ALL.to_vec());
    let answers = vec![
        Unplug::AtOnce,
        Unplug::After(Duration::from_millis(20)),
        Unplug::WhenReleased,
        Unplug::Refused,
        Unplug::Silently,
    ];
    let one = prop_oneof![
        3 => kind().prop_map(Move::Plug),
        1 => (kind(), 0..3_usize).prop_map(|(kind, step)| Move::Fail(kind, step)),
        1 => (kind(), 0..3_usize).prop_map(|(kind, step)| Move::Drop(kind, step)),
        2 => kind().prop_map(Move::Unplug),
        1 => kind().prop_map(Move::Clear),
        1 => kind().prop_map(Move::Release),
        1 => kind().prop_map(Move::AskBack),
        1 => prop::sample::select(answers).prop_map(Move::Answer),
        1 => Just(Move::Reboot),
        1 => Just(Move::Reconnect),
    ];
    prop::collection::vec(one, 1..40)
}

async fn play(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let bench = Bench::new();
    let mut web = bench.start_with(GUEST).await;
    let before = stock(&web.beside);
    let mut unplug = Unplug::default();
    for one in moves {
        let faults = Faults {
            unplug,
            ..Faults::default()
        };
        let step = |kind: Kind, step: usize| kind.steps()[step % kind.steps().len()];
        match one {
            // It may be there already, or what is left of it.
            Move::Plug(kind) => drop(kind.plug(&web).await),
            Move::Fail(kind, number) => {
                web.beside.set_faults(faults.refuse(step(kind, number)));
                // What was dropped before may have been refused instead.
                drop(kind.plug(&web).await);
            }
            Move::Drop(kind, number) => {
                let slow = faults.delay(step(kind, number), Duration::from_millis(20));
                web.beside.set_faults(slow);
                let little = Duration::from_millis(10);
                drop(tokio::time::timeout(little, kind.plug(&web)).await);
            }
            Move::Unplug(kind) => drop(web.guest.unplug(kind.alias()).await.unwrap()),
            Move::Clear(kind) => {
                let cleared = web.guest.clear_leftovers(kind.alias(), kind.plugged());
                cleared.await.unwrap();
            }
            Move::Release(kind) => web.beside.release(kind.alias()),
            Move::AskBack(kind) => web.beside.ask_back(kind.alias()),
            Move::Answer(answer) => unplug = answer,
            Move::Reboot => web.beside.reboot(),
            Move::Reconnect => {
                let record = web.guest.record().clone();
                let next = bench.launcher.reconnect(&record, SOON).await.unwrap();
                (web.guest, web.events) = next;
            }
        }
        web.beside.set_faults(Faults {
            unplug,
            monitor: Answers::AtOnce,
            ..Faults::default()
        });
    }
    web.beside.set_faults(Faults::default());
    web.beside.reboot();
    for kind in ALL {
        let cleared = web.guest.clear_leftovers(kind.alias(), kind.plugged());
        prop_assert_eq!(cleared.await.unwrap(), Leftovers::None, "{:?}", kind);
    }
    prop_assert_eq!(stock(&web.beside), before);
    for kind in ALL {
        kind.plug(&web).await.unwrap();
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_left_in_the_end(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(moves))?;
    }
}
