//! Lending with a real card, and with what a distribution's kernel has. For the lab: it changes the
//! card's VFs, and wants a PF that nothing uses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers are tests too"
)]

mod common;

use std::process::Command;
use std::sync::Arc;

use assign::{
    Assigner, Claim, Lent, LentKind, MacvtapPreparation, Origin, Preparation, TapPreparation, Vhost,
};
use common::scenes::{bandwidth, macvtap, name, tap};
use common::{chain, guest, mac, mac_and_vlan, ordinary};
use conf::{DeviceId, DirectMode, MacAddress};
use host::{
    BridgePort, BridgeVlan, Host, Links, LinuxHost, Netdev, Paths, VfSetting, VfState,
    VirtualFunction,
};

struct Lab {
    host: LinuxHost,
    assigner: Assigner,
    pf: Netdev,
    vf: VirtualFunction,
    _journal: tempfile::TempDir,
}

fn lab() -> Lab {
    run("modprobe vhost_net");
    let pf = std::env::var("LAB_PF0").expect("LAB_PF0 names the PF");
    let host = LinuxHost::new(Paths::default());
    let function = host.physical_function(&pf).unwrap();
    let vf = host.virtual_functions(&function).unwrap().pop().unwrap();
    let journal = tempfile::tempdir().unwrap();
    let shared = Arc::new(LinuxHost::new(Paths::default()));
    let (assigner, _) = Assigner::open(shared, journal.path().join("devices"), None).unwrap();
    Lab {
        pf: host.netdev(&pf).unwrap(),
        host,
        assigner,
        vf,
        _journal: journal,
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = (Command::new(words.next().unwrap()).args(words))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
}

impl Lab {
    fn vf_state(&self) -> (VfState, Netdev) {
        let state = self.host.vf_state(&self.vf).unwrap();
        let mut netdev = self.host.netdev(&state.netdev.as_ref().unwrap().0).unwrap();
        // Another one after each new bind; and the link comes and goes by itself.
        (netdev.index, netdev.state.carrier) = (0, false);
        (state, netdev)
    }

    fn prepare(&self, claim: Claim, preparation: &Preparation) -> Lent {
        let prepared = self.assigner.prepare(claim, preparation);
        prepared.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    fn whole(&self, device: impl Into<DeviceId>, preparation: MacvtapPreparation) -> Lent {
        let claim = self
            .assigner
            .claim(device.into(), guest(1), Origin::Interface);
        self.prepare(claim.unwrap(), &Preparation::Macvtap(preparation))
    }

    fn shared(&self, parent: &str, n: u32) -> Lent {
        let netdev = self.host.netdev(parent).unwrap();
        let parent_id = netdev
            .pci
            .map_or(DeviceId::Netdev(netdev.name), DeviceId::Pci);
        let claim = (self.assigner).claim_link(Some(parent_id), guest(n), Origin::Interface);
        let preparation = macvtap(parent, DirectMode::Bridge, n);
        self.prepare(claim.unwrap(), &Preparation::Macvtap(preparation))
    }

    /// Switches it on, looks, and takes it back.
    fn and_back(&self, lent: Lent, look: impl FnOnce(&Netdev)) {
        self.assigner.set_link_state(lent.generation, true).unwrap();
        let LentKind::Link {
            netdev,
            taps,
            vhosts,
        } = &lent.kind
        else {
            panic!("{} is no link", lent.item);
        };
        assert_eq!((taps.len(), vhosts.len()), (2, 2));
        look(&self.host.netdev(netdev.name.as_str()).unwrap());
        self.assigner
            .set_link_state(lent.generation, false)
            .unwrap();
        let generation = lent.generation;
        drop(lent);
        let returned = self.assigner.give_back(generation);
        returned.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(self.assigner.list().is_empty());
    }

    fn passthrough(&self) -> MacvtapPreparation {
        let (_, netdev) = self.vf_state();
        MacvtapPreparation {
            vf: Some(mac_and_vlan(1)),
            ..macvtap(netdev.name.as_str(), DirectMode::Passthrough, 1)
        }
    }
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn a_vf_below_a_macvtap_has_mac_and_vlan_and_comes_back_as_it_was() {
    let lab = lab();
    let loan = || {
        let lent = lab.whole(lab.vf.address, lab.passthrough());
        lab.and_back(lent, |link| {
            let (state, netdev) = lab.vf_state();
            assert_eq!((link.mac, netdev.mac, state.vlan), (mac(1), mac(1), 42));
            assert_eq!(state.driver.as_deref(), Some("igbvf"));
            assert!(link.state.up && netdev.state.up);
        });
    };
    // The PF lists the MAC that the VF chose for itself from when it hears of it.
    loan();
    let found = lab.vf_state();
    loan();
    assert_eq!(lab.vf_state(), found);
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn a_vf_whose_mac_is_its_pfs_gets_the_guests_through_the_pf() {
    let lab = lab();
    lab.host.set_vf(&lab.vf, VfSetting::Mac(mac(99))).unwrap();
    lab.host.unbind(lab.vf.address, None).unwrap();
    lab.host.unbind(lab.vf.address, Some("igbvf")).unwrap();
    let found = lab.vf_state();
    assert_eq!((found.0.mac, found.1.mac), (mac(99), mac(99)));
    let lent = lab.whole(lab.vf.address, lab.passthrough());
    lab.and_back(lent, |link| {
        let (state, netdev) = lab.vf_state();
        assert_eq!((state.mac, netdev.mac, link.mac), (mac(1), mac(1), mac(1)));
        assert_eq!(state.vlan, 42);
    });
    assert_eq!(lab.vf_state(), found);
}

/// igb holds a VF to the MAC that its PF gave it, unless it is trusted, and does not tell whether it
/// does.
#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn a_vf_gets_its_own_mac_and_its_pfs_back_and_is_held_as_before() {
    let lab = lab();
    let (host, vf) = (&lab.host, &lab.vf);
    let choose = |n| host.set_netdev_mac(lab.vf_state().1.name.as_str(), mac(n));
    for trust in [false, true] {
        for (admin, own) in [(None, 90), (Some(91), 90), (Some(1), 90), (Some(92), 92)] {
            host.set_vf(vf, VfSetting::Trust(trust)).unwrap();
            host.set_vf(vf, VfSetting::Mac(MacAddress::ZERO)).unwrap();
            host.unbind(vf.address, None).unwrap();
            if own == admin.unwrap_or(0) {
                host.set_vf(vf, VfSetting::Mac(mac(own))).unwrap();
            }
            host.bind(vf.address, "vfio-pci").unwrap();
            host.unbind(vf.address, Some("igbvf")).unwrap();
            if own != admin.unwrap_or(0) {
                choose(own).unwrap();
            }
            if let Some(admin) = admin {
                host.set_vf(vf, VfSetting::Mac(mac(admin))).unwrap();
            }
            let found = lab.vf_state();
            let case = format!("{admin:?} {own} {trust}");
            assert_eq!(found.1.mac, mac(own), "{case}");
            let claim = (lab.assigner).claim(vf.address.into(), guest(1), Origin::Interface);
            let lent = lab.prepare(claim.unwrap(), &ordinary(1));
            let returned = lab.assigner.give_back(lent.generation);
            returned.unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
            assert_eq!(lab.vf_state(), found, "{case}");
            if !trust {
                assert_eq!(choose(93).is_ok(), admin.is_none(), "{case}");
            }
        }
    }
    host.set_vf(vf, VfSetting::Trust(false)).unwrap();
    host.set_vf(vf, VfSetting::Mac(MacAddress::ZERO)).unwrap();
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn a_pf_serves_macvtaps_beside_a_vf_that_is_a_guests_and_can_be_lent_itself() {
    let lab = lab();
    let pf = lab.pf.name.as_str();
    let claim = (lab.assigner).claim(lab.vf.address.into(), guest(1), Origin::Interface);
    let vf = lab.prepare(claim.unwrap(), &ordinary(1));
    let lent = lab.shared(pf, 2);
    (lab.assigner)
        .set_link_state(lent.generation, true)
        .unwrap();
    lab.assigner.give_back(vf.generation).unwrap();
    lab.assigner.give_back(lent.generation).unwrap();

    // The emulated network gives addresses to whoever asks.
    let address = |off| {
        run(&format!(
            "sysctl -q -w net.ipv6.conf.{pf}.disable_ipv6={off}"
        ))
    };
    address(1);
    let whole = macvtap(pf, DirectMode::Passthrough, 1);
    let lent = lab.whole(lab.pf.pci.unwrap(), whole);
    lab.and_back(lent, |_| {
        assert_eq!(lab.host.netdev(pf).unwrap().mac, mac(1));
    });
    address(0);
    let now = lab.host.netdev(pf).unwrap();
    assert_eq!((now.mac, now.state.up), (lab.pf.mac, lab.pf.state.up));
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn bonds_and_vlans_carry_macvtaps_and_their_members_do_not() {
    let lab = lab();
    let pf = &lab.pf.name;
    run(&format!("ip link add link {pf} name vlan7 type vlan id 7"));
    run("ip link add bond7 type bond mode active-backup");
    run("ip link add dummy7 type dummy");
    run("ip link set dummy7 master bond7");
    run("ip link set bond7 up");
    for parent in ["vlan7", "bond7"] {
        let found = lab.host.netdev(parent).unwrap();
        let lent = lab.shared(parent, 1);
        lab.and_back(lent, |link| {
            assert_eq!(link.lower, Some(found.index));
            assert!(lab.host.netdev(parent).unwrap().state.up);
        });
        let now = lab.host.netdev(parent).unwrap();
        assert_eq!((now.state.up, now.mac), (found.state.up, found.mac));
    }
    let dummy = DeviceId::Netdev(name("dummy7"));
    let claim = lab
        .assigner
        .claim_link(Some(dummy), guest(1), Origin::Interface);
    let preparation = Preparation::Macvtap(macvtap("dummy7", DirectMode::Bridge, 1));
    let error = lab
        .assigner
        .prepare(claim.unwrap(), &preparation)
        .unwrap_err();
    assert!(
        chain(&error).contains("'dummy7' belongs to 'bond7'"),
        "{}",
        chain(&error)
    );
    for netdev in ["vlan7", "bond7", "dummy7"] {
        run(&format!("ip link delete {netdev}"));
    }
}

#[test]
#[ignore = "needs the lab: a kernel with bridges that filter VLANs, and vhost-net"]
fn a_tap_has_its_vlan_in_a_bridge() {
    let lab = lab();
    run("ip link add br7 address 52:54:00:00:ff:07 type bridge vlan_filtering 1");
    run("ip link set br7 up");
    let claim = lab
        .assigner
        .claim_link(None, guest(1), Origin::Interface)
        .unwrap();
    let vlan = BridgeVlan {
        id: 42,
        pvid: true,
        untagged: true,
    };
    let asked = TapPreparation {
        bridge: Some(name("br7")),
        vhost: Vhost::Required,
        port: BridgePort {
            isolated: Some(true),
            vlans: Some(vec![vlan]),
            ..BridgePort::default()
        },
        bandwidth: Some(bandwidth()),
        static_mac: true,
        ..tap(1)
    };
    let lent = lab.prepare(claim, &Preparation::Tap(asked));
    lab.and_back(lent, |link| {
        assert!(link.state.up && link.master.is_some());
    });
    run("ip link delete br7");
}
