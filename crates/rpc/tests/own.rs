//! virtnic's own calls: each survives the wire with every kind of value, and no more is taken than
//! a field admits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;

use proptest::prelude::*;
use rpc::xdr::{DecodeError, Reader, Writer, Xdr, from_bytes};
use rpc::{
    ChosenDevice, DeviceNote, Difference, DrainReport, GuestCounters, Holding, LINES_MAX, Lent,
    LentKind, NetworkReport, Nic, NicAbility, Obstacle, Outcome, PairHalf, PlanOf, PlanRefusal,
    PlanReport, PlannedChoice, PlannedDevice, PlannedHalf, PoolRow, Procedure, StaysOnPf, VfCount,
    VirtnicDemote, VirtnicDrain, VirtnicMigrateCheck, VirtnicMigrateResolve, VirtnicNetwork,
    VirtnicNics, VirtnicPlan, VirtnicPromote, VirtnicReconcile, VirtnicUndrain, VirtnicWho,
};
use uuid::Uuid;

fn encoded(encode: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    encode(&mut w);
    w.finish().unwrap()
}

fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn maybe<T: Debug + Clone>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop::option::of(value)
}

fn few<T: Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(value, 0..3)
}

fn kind() -> impl Strategy<Value = LentKind> {
    prop_oneof![
        Just(LentKind::Hostdev),
        Just(LentKind::Macvtap),
        Just(LentKind::Tap),
        Just(LentKind::Usb)
    ]
}

fn ability() -> impl Strategy<Value = NicAbility> {
    prop_oneof![
        (any::<u32>(), any::<u32>()).prop_map(|(vfs, max)| NicAbility::SrIov(VfCount { vfs, max })),
        Just(NicAbility::VirtualFunction),
        any::<bool>().prop_map(NicAbility::MacvlanOffload),
        Just(NicAbility::Ethernet),
    ]
}

fn counters() -> impl Strategy<Value = GuestCounters> {
    (any::<[u64; 6]>(), any::<[Option<u64>; 6]>()).prop_map(|(told, maybe)| GuestCounters {
        rx_bytes: told[0],
        rx_packets: told[1],
        rx_errors: maybe[0],
        rx_dropped: told[2],
        rx_multicast: maybe[1],
        rx_broadcast: maybe[2],
        tx_bytes: told[3],
        tx_packets: told[4],
        tx_errors: maybe[3],
        tx_dropped: told[5],
        tx_multicast: maybe[4],
        tx_broadcast: maybe[5],
    })
}

fn lent() -> impl Strategy<Value = Lent> {
    let texts = prop::array::uniform10(maybe(text()));
    let numbers = (any::<Option<u32>>(), any::<bool>(), any::<i64>());
    (
        kind(),
        texts,
        text(),
        numbers,
        any::<[u8; 16]>(),
        (maybe(counters()), maybe(half())),
    )
        .prop_map(
            |(kind, texts, state, (vf, vanished, since), uuid, (counters, half))| {
                let [
                    network,
                    guest,
                    mac,
                    pf,
                    pci_address,
                    driver,
                    host_netdev,
                    parent,
                    mode,
                    alias,
                ] = texts;
                Lent {
                    kind,
                    network,
                    guest_uuid: guest.is_some().then_some(Uuid::from_bytes(uuid)),
                    guest,
                    mac,
                    alias,
                    half,
                    pf,
                    vf,
                    pci_address,
                    driver,
                    host_netdev,
                    parent,
                    mode,
                    state,
                    vanished,
                    since,
                    port: Uuid::from_bytes(uuid),
                    counters,
                }
            },
        )
}

fn half() -> impl Strategy<Value = PairHalf> {
    let rest = (any::<Option<bool>>(), maybe(text()));
    (any::<[u8; 16]>(), text(), rest).prop_map(|(pair, role, (negotiated, advice))| PairHalf {
        pair: Uuid::from_bytes(pair),
        role,
        negotiated,
        advice,
    })
}

fn row() -> impl Strategy<Value = PoolRow> {
    let holding = (text(), text(), maybe(text())).prop_map(|(device, guest, network)| Holding {
        device,
        guest,
        network,
    });
    let note = || (text(), text()).prop_map(|(device, note)| DeviceNote { device, note });
    (
        (
            text(),
            maybe(ability()),
            any::<Option<u32>>(),
            any::<([u32; 4], bool)>(),
        ),
        (few(holding), few(note()), few(note()), maybe(text())),
    )
        .prop_map(
            |(
                (name, ability, numa_node, (numbers, drained)),
                (lent, busy, kept_back, obstacle),
            )| PoolRow {
                name,
                ability,
                numa_node,
                total: numbers[0],
                free: numbers[1],
                connections: numbers[2],
                promised: numbers[3],
                drained,
                lent,
                busy,
                kept_back,
                obstacle,
            },
        )
}

fn network() -> impl Strategy<Value = NetworkReport> {
    let words = (text(), text(), maybe(text()), few(text()), few(text()));
    let rest = (
        any::<[bool; 2]>(),
        any::<u32>(),
        any::<[u8; 16]>(),
        few(row()),
    );
    (words, rest).prop_map(
        |((name, mode, bridge, modes, missing), (flags, connections, uuid, rows))| NetworkReport {
            name,
            uuid: Uuid::from_bytes(uuid),
            active: flags[0],
            mode,
            bridge,
            modes,
            exclusive: flags[1],
            connections,
            rows,
            missing,
        },
    )
}

fn nic() -> impl Strategy<Value = Nic> {
    let texts = prop::array::uniform5(maybe(text()));
    let rest = (any::<[bool; 3]>(), any::<(Option<u32>, u32)>(), few(text()));
    (text(), ability(), texts, rest).prop_map(
        |(name, ability, texts, ([up, carrier, drained], (numa_node, mtu), networks))| {
            let [mac, kind, pci_address, driver, master] = texts;
            Nic {
                name,
                ability,
                mac,
                kind,
                pci_address,
                driver,
                numa_node,
                up,
                carrier,
                mtu,
                master,
                networks,
                drained,
            }
        },
    )
}

fn difference() -> impl Strategy<Value = Difference> {
    let outcome = prop_oneof![
        Just(Outcome::Left),
        Just(Outcome::Mended),
        text().prop_map(Outcome::Failed),
    ];
    let told = prop::array::uniform3(text());
    (maybe(text()), maybe(text()), told, any::<bool>(), outcome).prop_map(
        |(device, guest, [what, cause, remedy], safe, outcome)| Difference {
            device,
            guest,
            what,
            cause,
            remedy,
            safe,
            outcome,
        },
    )
}

fn choice() -> impl Strategy<Value = PlannedChoice> {
    let chosen = (kind(), text(), maybe(text()), text());
    let refusal = (text(), maybe(text()), few(row()));
    prop_oneof![
        chosen.prop_map(
            |(kind, device, pci_address, why)| PlannedChoice::Device(ChosenDevice {
                kind,
                device,
                pci_address,
                why,
            })
        ),
        text().prop_map(PlannedChoice::None),
        text().prop_map(PlannedChoice::Owed),
        refusal.prop_map(|(error, advice, rows)| PlannedChoice::Refused(PlanRefusal {
            error,
            advice,
            rows,
        })),
    ]
}

fn plan() -> impl Strategy<Value = PlanReport> {
    let texts = prop::array::uniform3(maybe(text()));
    let half =
        (any::<[u8; 16]>(), text(), maybe(text())).prop_map(|(pair, role, pf)| PlannedHalf {
            pair: Uuid::from_bytes(pair),
            role,
            pf,
        });
    let choice = (choice(), maybe(half));
    let device = (text(), text(), texts, choice, few(text()), few(text())).prop_map(
        |(element, r#type, [mac, alias, network], (choice, half), steps, notes)| PlannedDevice {
            element,
            r#type,
            mac,
            alias,
            network,
            half,
            choice,
            steps,
            notes,
        },
    );
    let lists = (few(text()), few(text()), few(device));
    (text(), any::<[u8; 16]>(), any::<[bool; 2]>(), lists).prop_map(
        |(guest, uuid, [running, would_start], (obstacles, notes, devices))| PlanReport {
            guest,
            guest_uuid: Uuid::from_bytes(uuid),
            running,
            would_start,
            obstacles,
            notes,
            devices,
        },
    )
}

fn drained() -> impl Strategy<Value = DrainReport> {
    let stays =
        || (text(), text(), text()).prop_map(|(what, guest, why)| StaysOnPf { what, guest, why });
    (text(), text(), few(stays()), few(stays())).prop_map(|(pf, pci_address, vfs, macvtaps)| {
        DrainReport {
            pf,
            pci_address,
            vfs,
            macvtaps,
        }
    })
}

/// Arguments or a reply that comes out of the bytes as it went in.
fn assert_call<P: Procedure + Debug + PartialEq>(args: &P, reply: &P::Reply)
where
    P::Reply: Debug + PartialEq,
{
    let bytes = encoded(|w| args.encode(w));
    assert_eq!(&from_bytes::<P>(&bytes).unwrap(), args);
    let bytes = encoded(|w| P::encode_reply(reply, w));
    let mut r = Reader::new(&bytes);
    assert_eq!(&P::decode_reply(&mut r).unwrap(), reply);
    assert_eq!(r.rest(), [0_u8; 0]);
    // A message that was cut short is an error, never a shorter list.
    if let Some(cut) = bytes.len().checked_sub(1) {
        assert!(P::decode_reply(&mut Reader::new(&bytes[..cut])).is_err());
    }
}

proptest! {
    #[test]
    fn every_reply_survives(
        lent in few(lent()),
        networks in few(network()),
        nics in few(nic()),
        differences in few(difference()),
        plan in plan(),
        drained in drained(),
        filter in maybe(text()),
        word in text(),
        flag in any::<bool>(),
    ) {
        assert_call(&VirtnicWho { filter: filter.clone(), counters: flag }, &lent);
        assert_call(&VirtnicNetwork { name: filter.clone() }, &networks);
        assert_call(&VirtnicNics {}, &nics);
        assert_call(&VirtnicReconcile { apply: flag }, &differences);
        assert_call(&VirtnicDrain { pf: word.clone() }, &drained);
        assert_call(&VirtnicUndrain { pf: word.clone() }, &());
        let (guest, here) = (word.clone(), true);
        assert_call(&VirtnicMigrateResolve { guest, here }, &());
        let (guest, destination) = (word.clone(), Some(word.clone()));
        let obstacle = Obstacle {
            there: true,
            what: word.clone(),
            why: String::new(),
            advice: word.clone(),
        };
        assert_call(&VirtnicMigrateCheck { guest, destination }, &vec![obstacle]);
        let (guest, mac, aliases) = (word.clone(), filter.clone(), vec![word.clone()]);
        assert_call(&VirtnicPromote { guest: guest.clone(), mac: mac.clone() }, &aliases);
        assert_call(&VirtnicDemote { guest, mac }, &aliases);
        let of = if flag { PlanOf::Guest(word) } else { PlanOf::Document(word) };
        assert_call(&VirtnicPlan { of }, &plan);
    }
}

#[test]
fn choices_have_their_numbers() {
    let words =
        |value: &[u32]| -> Vec<u8> { value.iter().flat_map(|word| word.to_be_bytes()).collect() };
    let ability = NicAbility::SrIov(VfCount { vfs: 7, max: 8 });
    assert_eq!(encoded(|w| ability.encode(w)), words(&[0, 7, 8]));
    let on = NicAbility::MacvlanOffload(true);
    assert_eq!(encoded(|w| on.encode(w)), words(&[2, 1]));
    assert_eq!(encoded(|w| LentKind::Tap.encode(w)), words(&[2]));
    assert_eq!(encoded(|w| LentKind::Usb.encode(w)), words(&[3]));
    assert_eq!(
        from_bytes::<LentKind>(&words(&[4])),
        Err(DecodeError::UnknownChoice {
            what: "kind of lent device",
            value: 4
        })
    );
}

#[test]
fn more_lines_than_a_plan_may_have_do_not_leave() {
    let plan = PlanReport {
        guest: "web".into(),
        guest_uuid: Uuid::nil(),
        running: false,
        would_start: true,
        obstacles: Vec::new(),
        notes: vec![String::new(); LINES_MAX + 1],
        devices: Vec::new(),
    };
    let mut w = Writer::default();
    plan.encode(&mut w);
    let error = w.finish().unwrap_err();
    assert_eq!((error.count, error.max), (LINES_MAX + 1, LINES_MAX));
}
