//! Networks on a simulated host, without a daemon around.

use std::cell::RefCell;

use std::collections::BTreeMap;
use std::sync::Arc;

use assign::{Holder, MacvtapPreparation, Origin, Preparation, Profile, ProfileId, Vhost};
use conf::{MacAddress, Network, PciAddress, Plug, Uuid};
use host::{Fault, Host, HostEvent, Links, Operation, PortAction, SimulatedHost, TapQueues, Usage};
use tempfile::TempDir;

use super::*;
use crate::changes::HostChanges;

/// A ledger on a host of that shape, and where its journal is.
struct Bench {
    host: SimulatedHost,
    ledger: Ledger,
    _journal: TempDir,
}

impl Bench {
    fn new(shape: &str) -> Self {
        let host = SimulatedHost::new(shape.parse().unwrap());
        let journal = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(Arc::new(host.clone()), journal.path().to_owned(), None);
        Self {
            host,
            ledger: ledger.unwrap(),
            _journal: journal,
        }
    }

    fn open(&self, network: &Network) {
        let forward = network.forward.as_ref().unwrap();
        self.ledger.open_pool(network, forward).unwrap();
    }

    fn choose(&self, network: &Network, guest: u8) -> Result<Chosen, ChooseError> {
        let request = PoolRequest {
            network,
            mode: network.default_direct_mode(),
            holder: &holder(network, guest),
            numa_nodes: &[],
            from: pool::Source::Anywhere,
            is_promised: false,
        };
        (self.ledger).choose(&request, &mut BTreeMap::new())
    }

    fn vf(&self, pf: &str, number: u16) -> PciAddress {
        let pf = self.host.physical_function(pf).unwrap();
        let vfs = self.host.virtual_functions(&pf).unwrap();
        vfs.into_iter()
            .find(|vf| vf.number == number)
            .unwrap()
            .address
    }

    /// Works an event of the host off; the guests that were told of a vanished device.
    fn hear(&self, event: HostEvent) -> Vec<String> {
        let told = RefCell::new(Vec::new());
        let mut changes = HostChanges::default();
        self.ledger.sort(event, &mut changes);
        (self.ledger).work_off(changes, &|vanished: Vanished| {
            told.borrow_mut().push(vanished.holder.name);
        });
        told.into_inner()
    }
}

fn network(name: &str, mode: &str, members: &str) -> Network {
    let xml = format!(
        "<network xmlns:virtnic='urn:virtnic:1'><name>{name}</name>\
         <forward mode='{mode}'>{members}</forward></network>"
    );
    Network::parse(&xml).unwrap()
}

fn holder(network: &Network, guest: u8) -> Holder {
    Holder {
        guest: Uuid::from_u128(guest.into()),
        name: format!("g{guest}"),
        network: Some(network.name.clone()),
        port: Some(Uuid::from_u128(1000 + u128::from(guest))),
        mac: Some(MacAddress::new([0x52, 0x54, 0, 0, 0, guest])),
        alias: None,
        attachment: None,
    }
}

fn address(chosen: &Chosen) -> PciAddress {
    match &chosen.plug {
        Plug::HostdevPci { address, .. } => *address,
        other => panic!("{other:?}"),
    }
}

fn parent(chosen: &Chosen) -> &str {
    match &chosen.plug {
        Plug::Direct { dev, .. } => dev,
        other => panic!("{other:?}"),
    }
}

#[test]
fn weakness_02_vfs_that_come_and_go_are_noticed() {
    let bench = Bench::new("pfs=1,vfs=2");
    let net = network("n", "hostdev", "<pf dev='sim0'/>");
    bench.open(&net);
    let (first, second) = (bench.vf("sim0", 0), bench.vf("sim0", 1));
    bench.host.remove_vf(first);
    bench.hear(HostEvent::PciRemoved(first));
    assert_eq!(address(&bench.choose(&net, 1).unwrap()), second);
    assert!(bench.choose(&net, 2).is_err());
    let pf = bench.host.physical_function("sim0").unwrap();
    bench.host.restore_vf(pf.address, 0);
    bench.hear(HostEvent::PciAdded(first));
    assert_eq!(address(&bench.choose(&net, 2).unwrap()), first);
}

#[test]
fn a_lent_vf_that_vanishes_is_told_and_stays_on_the_list() {
    let bench = Bench::new("pfs=1,vfs=2");
    let net = network("n", "hostdev", "<pf dev='sim0'/>");
    bench.open(&net);
    let device = address(&bench.choose(&net, 1).unwrap());
    bench.host.remove_vf(device);
    assert_eq!(bench.hear(HostEvent::PciRemoved(device)), ["g1"]);
    assert!(bench.ledger.is_vanished(device.into()));
    assert_eq!(bench.ledger.list().len(), 1);
    assert_eq!(
        bench.hear(HostEvent::Lost),
        Vec::<String>::new(),
        "told once"
    );
}

#[test]
fn weakness_04_a_device_of_two_networks_is_lent_once() {
    let bench = Bench::new("pfs=1,vfs=2");
    let whole = network("whole", "hostdev", "<pf dev='sim0'/>");
    let by_name = network(
        "by-name",
        "passthrough",
        "<interface dev='sim0v0'/><interface dev='sim0v1'/>",
    );
    let shared = network("shared", "bridge", "<interface dev='sim0v1'/>");
    for net in [&whole, &by_name, &shared] {
        bench.open(net);
    }
    let first = bench.choose(&whole, 1).unwrap();
    assert_eq!(address(&first), bench.vf("sim0", 0));
    assert_eq!(parent(&bench.choose(&by_name, 2).unwrap()), "sim0v1");
    for net in [&whole, &by_name, &shared] {
        let error = bench.choose(net, 3).unwrap_err();
        assert!(chain(&error).contains("g2"), "{error}");
    }
    // A guest that names the device itself meets the same list.
    let own = holder(&whole, 4);
    let device = Share::Whole(address(&first).into());
    let taken = bench.ledger.claim(device, &own, Origin::Interface);
    assert!(taken.unwrap_err().to_string().contains("g1"));
}

#[test]
fn parents_are_shared_evenly_and_not_lent_whole_meanwhile() {
    let bench = Bench::new("pfs=1,vfs=2");
    let shared = network("shared", "vepa", "<pf dev='sim0'/>");
    let whole = network("whole", "hostdev", "<pf dev='sim0'/>");
    bench.open(&shared);
    bench.open(&whole);
    let chosen: Vec<_> = (1..=3).map(|g| bench.choose(&shared, g).unwrap()).collect();
    let parents: Vec<_> = chosen.iter().map(parent).collect();
    assert_eq!(parents, ["sim0v0", "sim0v1", "sim0v0"]);
    assert!(bench.choose(&whole, 4).is_err());
    bench.ledger.drop_claim(chosen[1].claim);
    let free = bench.choose(&whole, 4).unwrap();
    assert_eq!(address(&free), bench.vf("sim0", 1));
}

#[test]
fn weakness_03_what_the_host_uses_is_passed_over() {
    let bench = Bench::new("pfs=1,vfs=2");
    let net = network("n", "hostdev", "<pf dev='sim0'/>");
    bench.open(&net);
    let used = Usage::Addressed {
        netdev: "sim0v0".to_owned(),
        address: "192.0.2.1/24".to_owned(),
    };
    bench.host.set_usage(bench.vf("sim0", 0), vec![used]);
    assert_eq!(
        address(&bench.choose(&net, 1).unwrap()),
        bench.vf("sim0", 1)
    );
    let refused = bench.choose(&net, 2).unwrap_err();
    assert!(chain(&refused).contains("192.0.2.1/24"), "{refused}");
}

#[test]
fn what_is_just_being_detached_or_given_back_is_passed_over() {
    let bench = Bench::new("pfs=1,vfs=2");
    let net = network("n", "hostdev", "<pf dev='sim0'/>");
    bench.open(&net);
    let (busy, free) = (bench.vf("sim0", 0), bench.vf("sim0", 1));
    let check = |held: host::Held| {
        held.reached();
        let chosen = bench.choose(&net, 1).unwrap();
        assert_eq!(address(&chosen), free);
        let refused = chain(&bench.choose(&net, 2).unwrap_err());
        assert!(refused.contains("just being"), "{refused}");
        bench.ledger.drop_claim(chosen.claim);
        let own = holder(&net, 3);
        let request = PoolRequest {
            network: &net,
            mode: None,
            holder: &own,
            numa_nodes: &[],
            from: pool::Source::Anywhere,
            is_promised: false,
        };
        let mut trial = bench.ledger.trial(own.guest);
        let tried = trial.choose(&request, &mut BTreeMap::new()).unwrap();
        assert_eq!(tried.choice.device, free.into());
        let at_rest = (bench.ledger).choose_at_rest(&request, &BTreeMap::new());
        assert!(at_rest.unwrap().is_none(), "it takes a second look");
    };
    std::thread::scope(|scope| {
        let held = bench.host.hold(Operation::Bind);
        scope.spawn(|| bench.ledger.detach(busy, None).unwrap());
        check(held);
    });
    std::thread::scope(|scope| {
        let held = bench.host.hold(Operation::Unbind);
        scope.spawn(|| bench.ledger.reattach(busy).unwrap());
        check(held);
    });
}

#[test]
fn a_vf_at_rest_is_chosen_at_once_and_another_leaves_no_claim() {
    let bench = Bench::new("pfs=1,vfs=2");
    let net = network("n", "hostdev", "<pf dev='sim0'/>");
    bench.open(&net);
    let (first, second) = (holder(&net, 1), holder(&net, 2));
    let request = PoolRequest {
        network: &net,
        mode: None,
        holder: &first,
        numa_nodes: &[],
        from: pool::Source::Anywhere,
        is_promised: false,
    };
    let none = BTreeMap::new();
    let chosen = bench.ledger.choose_at_rest(&request, &none).unwrap();
    assert_eq!(address(&chosen.unwrap()), bench.vf("sim0", 0));

    let used = Usage::OtherNamespace;
    bench.host.set_usage(bench.vf("sim0", 1), vec![used]);
    let request = PoolRequest {
        holder: &second,
        ..request
    };
    let before = bench.ledger.list();
    let other = bench.ledger.choose_at_rest(&request, &none);
    assert!(other.unwrap().is_none());
    assert_eq!(bench.ledger.list(), before);
    assert!(bench.ledger.choose(&request, &mut BTreeMap::new()).is_err());
}

const ON_DEMAND: &str = "<pf dev='sim0'><virtnic:vfs count='3'/></pf>";

#[test]
fn vfs_are_made_on_demand_without_drivers() {
    let bench = Bench::new("pfs=1,vfs=4");
    let pf = bench.host.physical_function("sim0").unwrap();
    bench.host.set_vf_count(&pf, 0).unwrap();
    bench.open(&network("n", "hostdev", ON_DEMAND));
    let made = bench.host.physical_function("sim0").unwrap();
    assert_eq!(made.vf_count, 3);
    let device = bench.host.pci_device(bench.vf("sim0", 0)).unwrap();
    assert_eq!(device.driver, None);
    assert!(bench.host.autoprobe(&pf).unwrap());
    // And never again while there are any.
    let more = network("more", "hostdev", &ON_DEMAND.replace('3', "4"));
    bench.open(&more);
    assert_eq!(bench.host.physical_function("sim0").unwrap().vf_count, 3);
}

#[test]
fn vfs_that_can_t_be_made_are_explained_and_the_driver_s_setting_is_put_back() {
    for (operation, errno) in [(Operation::SetVfCount, 12), (Operation::SetAutoprobe, 13)] {
        let bench = Bench::new("pfs=1,vfs=4");
        let pf = bench.host.physical_function("sim0").unwrap();
        bench.host.set_vf_count(&pf, 0).unwrap();
        bench.host.fail(Fault::of(operation, errno));
        let net = network("n", "hostdev", ON_DEMAND);
        let forward = net.forward.as_ref().unwrap();
        let refused = bench.ledger.open_pool(&net, forward).unwrap_err();
        assert!(
            chain(&refused).contains("can't make 3 VFs of 'sim0'"),
            "{refused}"
        );
        assert!(bench.host.autoprobe(&pf).unwrap(), "{operation}");
        assert_eq!(bench.host.physical_function("sim0").unwrap().vf_count, 0);
        assert!(bench.choose(&net, 1).is_err());
    }
    let bench = Bench::new("pfs=1,vfs=4");
    let pf = bench.host.physical_function("sim0").unwrap();
    bench.host.set_vf_count(&pf, 0).unwrap();
    let net = network("n", "hostdev", &ON_DEMAND.replace('3', "9999"));
    let refused = (bench.ledger.open_pool(&net, net.forward.as_ref().unwrap())).unwrap_err();
    assert!(chain(&refused).contains("at most"), "{refused}");
}

#[test]
fn weakness_37_a_profile_that_the_switch_forgot_is_told_again_in_every_mode() {
    for mode in ["bridge", "private", "vepa", "passthrough"] {
        let bench = Bench::new("pfs=1,vfs=2");
        let net = network("n", mode, "<interface dev='sim0v0'/>");
        bench.open(&net);
        let chosen = bench.choose(&net, 1).unwrap();
        let mac = holder(&net, 1).mac.unwrap();
        let instance_id = Uuid::from_u128(7);
        let macvtap = MacvtapPreparation {
            lower: "sim0v0".parse().unwrap(),
            mode: net.default_direct_mode().unwrap(),
            name: None,
            mac,
            vf: None,
            vlan: None,
            queues: TapQueues {
                count: 1,
                vnet_hdr: true,
            },
            vhost: Vhost::Never,
            mtu: None,
            bandwidth: None,
            all_multicast: true,
            profile: Some(Profile {
                action: PortAction::Associate,
                id: ProfileId::Qbg {
                    manager_id: 1,
                    type_id: 2,
                    type_id_version: 3,
                    instance_id,
                },
            }),
        };
        let prepared = (bench.ledger).prepare(chosen.claim, &Preparation::Macvtap(macvtap), None);
        let _ = prepared.unwrap();
        bench.host.disassociate_port(mac);
        assert!(bench.host.port_profiles().is_empty());
        let heard = |instance| HostEvent::PortDisassociated { mac, instance };
        bench.hear(heard(Some(Uuid::from_u128(8))));
        assert!(bench.host.port_profiles().is_empty(), "another's instance");
        bench.hear(heard(Some(instance_id)));
        assert_eq!(bench.host.port_profiles().len(), 1, "{mode}");
    }
}
