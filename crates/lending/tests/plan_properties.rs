//! What a plan says is what a start does, whatever guest, networks and host.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]

mod common;

use assign::LentKind;
use common::{Bench, read_guest, told};
use conf::PciAddress;
use host::{Fault, Host, Operation, Quirks, SimulatedHost, Usage};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const NETWORKS: [(&str, &str); 9] = [
    (
        "one",
        "<forward mode='hostdev' managed='yes'><pf dev='sim0'/></forward>",
    ),
    (
        "both",
        "<forward mode='hostdev' managed='yes'><pf dev='sim0'/><pf dev='sim1'/></forward>",
    ),
    (
        "unmanaged",
        "<forward mode='hostdev'><pf dev='sim1'/></forward>",
    ),
    (
        "pass",
        "<forward mode='passthrough'><pf dev='sim1'/></forward>",
    ),
    (
        "listed",
        "<forward mode='passthrough'><interface dev='sim0v0'/><interface dev='eth3'/></forward>",
    ),
    ("vepa", "<forward mode='vepa'><pf dev='sim0'/></forward>"),
    (
        "nics",
        "<forward mode='bridge'><interface dev='eth2'/><interface dev='eth3'/></forward>",
    ),
    ("bridge", "<forward mode='bridge'/><bridge name='br0'/>"),
    ("nowhere", "<forward mode='bridge'/><bridge name='br9'/>"),
];

/// What the host says of itself, from the moment when the networks run.
#[derive(Debug, Clone)]
enum Fact {
    Used(usize),
    PfDown(usize),
    NoIommu,
    Grouped(usize),
    GroupsShared(usize, usize),
    Unreadable(Operation, usize),
    OnVfio(usize),
    Gone(usize),
    NoTrust,
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let vf = 0..6_usize;
    let unreadable = select(vec![
        Operation::ReadVf,
        Operation::ReadUsage,
        Operation::ReadGroup,
        Operation::ReadInventory,
    ]);
    let fact = prop_oneof![
        4 => vf.clone().prop_map(Fact::Used),
        1 => (0..2_usize).prop_map(Fact::PfDown),
        1 => Just(Fact::NoIommu),
        2 => vf.clone().prop_map(Fact::Grouped),
        2 => (vf.clone(), vf.clone()).prop_map(|(one, other)| Fact::GroupsShared(one, other)),
        2 => (unreadable, vf.clone()).prop_map(|(operation, vf)| Fact::Unreadable(operation, vf)),
        2 => vf.clone().prop_map(Fact::OnVfio),
        2 => vf.prop_map(Fact::Gone),
        1 => Just(Fact::NoTrust),
    ];
    vec(fact, 0..4)
}

fn apply(fact: &Fact, host: &SimulatedHost, vfs: &[PciAddress], pfs: &[PciAddress]) {
    match *fact {
        Fact::Used(vf) => host.set_usage(
            vfs[vf],
            vec![Usage::Addressed {
                netdev: format!("vf{vf}"),
                address: "192.0.2.1/24".to_owned(),
            }],
        ),
        Fact::PfDown(pf) => host.set_pf_up(pfs[pf], false),
        Fact::NoIommu => host.set_iommu(false),
        Fact::Grouped(vf) => drop(host.add_group_member(vfs[vf], Some("e1000e"))),
        Fact::GroupsShared(one, other) => host.share_group(vfs[one], vfs[other]),
        Fact::Unreadable(operation, vf) => {
            host.fail(Fault::of(operation, 5).on(vfs[vf]).always());
        }
        Fact::OnVfio(vf) => host.bind_by_hand(vfs[vf], Some("vfio-pci")),
        Fact::Gone(vf) => host.remove_vf(vfs[vf]),
        Fact::NoTrust => host.set_quirks(Quirks {
            trust: false,
            ..Quirks::default()
        }),
    }
}

/// An interface's or host device's element.
fn element() -> impl Strategy<Value = String> {
    let network =
        select((NETWORKS.iter().map(|(name, _)| *name).chain(["stopped"])).collect::<Vec<_>>());
    let device = select(vec![
        "sim0", "sim1", "sim0v0", "sim0v1", "sim1v0", "eth2", "eth3", "eth9",
    ]);
    let mode = select(vec!["bridge", "vepa", "private", "passthrough"]);
    // NICs are on bus 0, PF 0 on bus 1, and its VFs on bus 2.
    let address = |bus: std::ops::Range<u8>| {
        (bus, 0..4_u8).prop_map(|(bus, function)| {
            format!("<address type='pci' domain='0' bus='{bus}' slot='0' function='{function}'/>")
        })
    };
    let source = prop_oneof![
        8 => network.prop_map(|name| ("network", format!("<source network='{name}'/>"))),
        4 => (device, mode).prop_map(|(device, mode)| {
            ("direct", format!("<source dev='{device}' mode='{mode}'/>"))
        }),
        3 => address(1..3).prop_map(|address| {
            ("hostdev", format!("<source>{address}</source>"))
        }),
        2 => select(vec!["br0", "br9"]).prop_map(|bridge| {
            ("bridge", format!("<source bridge='{bridge}'/>"))
        }),
        1 => Just(("ethernet", String::new())),
        1 => Just(("user", String::new())),
    ];
    let extras = [
        "<mtu size='1400'/>",
        "<mtu size='9000'/>",
        "<vlan><tag id='42'/></vlan>",
        "<target dev='tap7'/>",
        "<target dev='macvtap0'/>",
        "<target dev='vnet0'/>",
        "<bandwidth><inbound average='1000'/></bandwidth>",
        "<virtnic:vf trust='on'/>",
        "<virtnic:direct mode='private'/>",
        "<port isolated='yes'/>",
        "<link state='down'/>",
        "<model type='virtio'/><driver queues='4'/>",
        "<model type='e1000'/><driver name='vhost'/>",
    ];
    let interface = (source, 1..5_u8, vec(select(extras.to_vec()), 0..2)).prop_map(
        |((kind, source), mac, extras)| {
            let managed = if kind == "hostdev" {
                " managed='yes'"
            } else {
                ""
            };
            let extras = extras.concat();
            format!(
                "<interface type='{kind}'{managed}><mac address='52:54:00:00:00:0{mac}'/>\
                 {source}{extras}</interface>"
            )
        },
    );
    // The driver of a simulated PF does not let it go.
    let function = prop_oneof![address(0..1), address(2..3)];
    let hostdev = (function, select(vec!["yes", "no"])).prop_map(|(address, managed)| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='{managed}'><source>{address}</source>\
             </hostdev>"
        )
    });
    prop_oneof![8 => interface, 1 => hostdev]
}

fn bench() -> (Bench, Vec<PciAddress>, Vec<PciAddress>) {
    let mut bench = Bench::new("pfs=2,vfs=6");
    for nic in ["eth2", "eth3"] {
        bench.host.add_nic(nic).unwrap();
    }
    bench.host.add_bridge("br0").unwrap();
    for (name, inside) in NETWORKS {
        bench.run(name, inside);
    }
    let (mut vfs, mut pfs) = (Vec::new(), Vec::new());
    for pf in bench.host.physical_functions().unwrap() {
        let its = bench.host.virtual_functions(&pf).unwrap();
        vfs.extend(its.iter().map(|vf| vf.address));
        pfs.push(pf.address);
    }
    (bench, vfs, pfs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn a_plan_says_would_start_exactly_when_the_start_succeeds(
        facts in facts(),
        other in option::of(vec(element(), 1..3)),
        elements in vec(element(), 1..6),
    ) {
        let (bench, vfs, pfs) = bench();
        let other = other.and_then(|other| read_guest("other", &other.concat()).ok());
        let others = other.and_then(|other| {
            let plan = bench.plan(&other);
            if plan.refusal().is_some() {
                plan.release(&bench.ledger);
                return None;
            }
            bench.carry_out(&plan).ok()
        });
        for fact in &facts {
            apply(fact, &bench.host, &vfs, &pfs);
        }
        let Ok(guest) = read_guest("guest", &elements.concat()) else {
            return Ok(());
        };
        let (list, accounts) = (bench.list(), bench.accounts());

        let tried = bench.try_plan(&guest);
        prop_assert_eq!(&bench.list(), &list, "a trial claims nothing");
        let plan = bench.plan(&guest);
        prop_assert_eq!(told(&tried), told(&plan));
        let would_start = tried.refusal().is_none();
        if would_start {
            let effects = bench.host.effect_count();
            match bench.carry_out(&plan) {
                Ok(lent) => {
                    for (lent, (_, _, planned)) in lent.iter().zip(plan.planned()) {
                        match &lent.kind {
                            LentKind::Vfio { address, .. } => {
                                prop_assert_eq!(Some(*address), planned.function());
                            }
                            LentKind::Usb { address } => {
                                prop_assert_eq!(Some(*address), planned.usb());
                            }
                            LentKind::Link { netdev, .. } => {
                                prop_assert_eq!(Some(netdev.name), planned.netdev);
                            }
                        }
                    }
                    bench.give_back(lent);
                }
                Err(error) => {
                    let error = lending::chain(&error);
                    prop_assert!(false, "{error}, after {:#?}", told(&plan));
                }
            }
            let takes = plan.planned().any(|(_, _, planned)| !planned.steps.is_empty());
            prop_assert!(!takes || bench.host.effect_count() > effects);
        } else {
            plan.release(&bench.ledger);
        }
        prop_assert_eq!(bench.list(), list, "nothing is claimed any more");
        prop_assert_eq!(bench.accounts(), accounts, "nor on account");
        prop_assert_eq!(told(&bench.try_plan(&guest)), told(&tried));
        drop(others);
    }
}
