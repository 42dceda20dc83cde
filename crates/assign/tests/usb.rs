//! USB devices, lent and taken back.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod common;

use std::sync::Arc;

use assign::{Assigner, ErrorKind, Kind, LentKind, Origin, Phase, Preparation, PrepareError};
use common::hooked::Hooked;
use common::{GRANTED, Machine, chain, guest};
use conf::UsbAddress;
use host::{BlockUse, NodeAccess, Operation, Usage, Usb};

fn machine() -> (Machine, UsbAddress) {
    let machine = Machine::with_links("vfs=1");
    let address = machine.usb();
    (machine, address)
}

fn lend(assigner: &Assigner, address: UsbAddress, n: u32) -> Result<assign::Lent, PrepareError> {
    let claim = assigner.claim(address.into(), guest(n), Origin::HostDevice);
    assigner.prepare(claim.unwrap(), &Preparation::Usb)
}

#[test]
fn its_guests_user_alone_opens_it_until_it_is_back() {
    let (machine, address) = machine();
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let lent = lend(&assigner, address, 1).unwrap();
    assert!(matches!(lent.kind, LentKind::Usb { address: at } if at == address));
    assert_eq!(machine.host.usb_access(address).unwrap(), GRANTED);
    let line = assigner.find(lent.item).unwrap();
    assert_eq!(
        (line.kind, line.device()),
        (Some(Kind::Usb), Some(address.into()))
    );
    // It has no link to be switched.
    assigner.set_link_state(lent.generation, true).unwrap();
    let taken = assigner.claim(address.into(), guest(2), Origin::HostDevice);
    assert_eq!(
        taken.unwrap_err().to_string(),
        format!("device {address} is in use: lent to guest 'web1' by network 'vfs'")
    );
    let returned = assigner.give_back(lent.generation).unwrap();
    assert!(!returned.vanished);
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn one_that_the_host_uses_stays_with_the_host() {
    let (machine, address) = machine();
    let assigner = machine.start();
    let mounted = Usage::Block {
        device: "sdb".to_owned(),
        by: BlockUse::Mounted("/media".to_owned()),
    };
    let place = (address.bus().into(), address.device().into());
    machine.host.set_usb_usage(place.0, place.1, vec![mounted]);
    let found = machine.host.snapshot();
    let refused = lend(&assigner, address, 1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OperationInvalid);
    assert!(chain(&refused).contains("/media"), "{}", chain(&refused));
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assert!(assigner.list().is_empty() && machine.records().is_empty());
    machine.host.set_usb_usage(place.0, place.1, Vec::new());
    assert!(lend(&assigner, address, 1).is_ok());
}

#[test]
fn a_plan_says_that_a_node_is_opened() {
    let (machine, address) = machine();
    let steps = |assigner: &Assigner| {
        let plan = assigner
            .plan(address.into_item(), &guest(1), &Preparation::Usb)
            .unwrap();
        plan.steps
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        steps(&machine.start()),
        ["let its QEMU alone open /dev/bus/usb/001/002"]
    );
    // QEMU is root: it may already.
    let journal = machine.directory.path().join("root");
    let host = Arc::new(machine.host.clone());
    let (assigner, _) = Assigner::open(host, journal, None).unwrap();
    assert_eq!(steps(&assigner), [""; 0]);
    let found = machine.host.snapshot();
    let lent = lend(&assigner, address, 1).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    assigner.give_back(lent.generation).unwrap();
}

trait IntoItem {
    fn into_item(self) -> assign::Item;
}

impl IntoItem for UsbAddress {
    fn into_item(self) -> assign::Item {
        assign::Item::Device(self.into())
    }
}

#[test]
fn interfaces_that_a_killed_qemu_left_go_back_to_their_drivers() {
    let (machine, address) = machine();
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let lent = lend(&assigner, address, 1).unwrap();
    machine.host.take_usb_interfaces(address);
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
    // Where no driver takes it, that is said, and it is kept back.
    let hooked = Hooked {
        deaf_to: Some(Operation::ProbeUsb),
        ..Hooked::plain(machine.host.clone())
    };
    drop(assigner);
    let (assigner, _) = machine.open_with(Arc::new(hooked));
    let lent = lend(&assigner, address, 1).unwrap();
    machine.host.take_usb_interfaces(address);
    let text = chain(&assigner.give_back(lent.generation).unwrap_err());
    assert!(
        text.ends_with("it had driver simusb for 1-1.4:1.0, and has no driver"),
        "{text}"
    );
    drop(assigner);
    let (assigner, _) = machine.restart(|_| false);
    assert!(assigner.list().is_empty());
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}

#[test]
fn a_device_that_is_pulled_out_is_back_at_once_and_another_in_its_port_is_another() {
    let (machine, address) = machine();
    let assigner = machine.start();
    let lent = lend(&assigner, address, 1).unwrap();
    machine.host.remove_usb(address);
    let differences = assigner.reconcile(|_| true);
    assert_eq!(
        differences[0].to_string(),
        format!("{address}, lent to guest 'web1', is not there")
    );
    let again = machine.host.add_usb(1, "1.4", (0x046d, 0xc31c)).unwrap();
    assert_ne!(again, address);
    let other = lend(&assigner, again, 2).unwrap();
    assert!(assigner.give_back(lent.generation).unwrap().vanished);
    assert_eq!(machine.host.usb_access(again).unwrap(), GRANTED);
    assert_eq!(assigner.find(other.item).unwrap().phase, Phase::Lent);
    assert_eq!(machine.records(), [format!("{again}.json")]);
    assigner.give_back(other.generation).unwrap();
}

#[test]
fn what_is_not_there_a_hub_and_a_node_that_does_not_change_are_refused() {
    let (machine, address) = machine();
    let hooked = Hooked {
        deaf_to: Some(Operation::GrantUsb),
        ..Hooked::plain(machine.host.clone())
    };
    let (assigner, _) = machine.open_with(Arc::new(hooked));
    let text = chain(&lend(&assigner, address, 1).unwrap_err());
    assert!(
        text.contains("user 107") && text.ends_with("is read back"),
        "{text}"
    );
    machine.host.make_usb_hub(address);
    let error = lend(&assigner, address, 1).unwrap_err();
    assert!(chain(&error).contains(&format!("{address} is a hub")));
    assert!(error.obstacle.advice().unwrap().contains("lsusb -t"));
    machine.host.remove_usb(address);
    let error = lend(&assigner, address, 1).unwrap_err();
    assert!(chain(&error).ends_with(&format!("there is no USB device {address}")));
    assert!(assigner.list().is_empty() && machine.records().is_empty());
}

#[test]
fn somebody_elses_change_of_the_node_is_told_and_undone_with_the_rest() {
    let (machine, address) = machine();
    let (assigner, found) = (machine.start(), machine.host.snapshot());
    let lent = lend(&assigner, address, 1).unwrap();
    let open = NodeAccess {
        mode: 0o666,
        ..GRANTED
    };
    machine.host.set_usb_access(address, open).unwrap();
    let text = assigner.reconcile(|_| true)[0].to_string();
    assert!(
        text.contains("permissions 600") && text.ends_with("permissions 666"),
        "{text}"
    );
    assigner.give_back(lent.generation).unwrap();
    assert_eq!(found.differences(&machine.host.snapshot()), [""; 0]);
}
