//! What plans say, and what becomes of them.

mod common;

use assign::{Kind, Phase};
use common::{Bench, guest, told};
use conf::Plug;
use host::{Fault, Host, Links, Operation, Usage};
use lending::{DeviceRefusal, Note, Outcome, PlanRefusal, Role, Share, chain};

const LENDS: &str = "<forward mode='hostdev' managed='yes'><pf dev='sim0'/></forward>";

fn on(network: &str, mac: u8, inside: &str) -> String {
    format!(
        "<interface type='network'><mac address='52:54:00:00:00:{mac:02}'/>\
         <source network='{network}'/>{inside}</interface>"
    )
}

fn refusal(plan: &lending::GuestPlan) -> String {
    match plan.refusal() {
        Some(PlanRefusal::Guest(error)) => error.to_string(),
        Some(PlanRefusal::Device(_, error)) => chain(error),
        None => panic!("{:?}", told(plan)),
    }
}

#[test]
fn a_setting_that_a_host_device_can_t_have_is_told_by_the_plan_already() {
    let mut bench = Bench::new("pfs=1,vfs=2");
    bench.run("n", LENDS);
    let guest_of = |devices: &str| guest("web", devices);
    let guest = guest_of(&on("n", 1, "<mtu size='9000'/>"));
    for plan in [bench.try_plan(&guest), bench.plan(&guest)] {
        let said = refusal(&plan);
        assert!(
            said.contains("<mtu> can't be set on a host device"),
            "{said}"
        );
        assert_eq!(plan.devices[0].name, "interface 52:54:00:00:00:01");
    }
    let shaped = "<mtu size='9000'/><bandwidth><inbound average='1'/></bandwidth>";
    let said = refusal(&bench.try_plan(&guest_of(&on("n", 1, shaped))));
    for part in ["<bandwidth> can't be kept", "; also: <mtu> can't be set"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(bench.list(), []);
}

fn usb(source: &str) -> String {
    format!("<hostdev mode='subsystem' type='usb'>{source}</hostdev>")
}

fn ids(vendor: u16, product: u16) -> String {
    format!("<vendor id='0x{vendor:04x}'/><product id='0x{product:04x}'/>")
}

#[test]
fn a_usb_device_is_lent_by_its_place_or_by_what_it_is_if_there_is_one_such() {
    let bench = Bench::new("pfs=1,vfs=1");
    let one = bench.host.add_usb(1, "1.4", (0x046d, 0xc31c)).unwrap();
    let two = bench.host.add_usb(2, "3", (0x1234, 1)).unwrap();
    for (source, device) in [
        (ids(0x046d, 0xc31c), one),
        ("<address bus='2' device='2'/>".to_owned(), two),
        (ids(0x1234, 1) + "<address bus='2' device='2'/>", two),
    ] {
        let found = bench.host.snapshot();
        let mut web = guest("web", &usb(&format!("<source>{source}</source>")));
        let plan = bench.plan(&web);
        assert_eq!(plan.refusals().count(), 0, "{:?}", told(&plan));
        let planned = plan.devices[0].planned().unwrap();
        assert_eq!(planned.share, Share::Whole(device.into()));
        assert_eq!((planned.usb(), planned.function()), (Some(device), None));
        // Clients see which one it is.
        plan.apply_to(&mut web);
        let place = format!(
            "<address bus='{}' device='{}'/>",
            device.bus(),
            device.device()
        );
        let live = web.devices.hostdevs[0].to_xml(conf::Form::Live);
        assert!(live.contains(&place), "{live}");
        let lent = bench.carry_out(&plan).unwrap();
        assert_eq!(bench.list()[0].kind, Some(Kind::Usb));
        let other = guest("db", &usb(&format!("<source>{source}</source>")));
        let said = refusal(&bench.try_plan(&other));
        assert_eq!(
            said,
            format!("device {device} is in use: lent to guest 'web'")
        );
        bench.give_back(lent);
        assert_eq!(found.differences(&bench.host.snapshot()), [""; 0]);
    }
}

#[test]
fn a_usb_device_that_is_none_or_several_is_refused_with_what_to_do() {
    let bench = Bench::new("pfs=1,vfs=1");
    for port in ["1", "2"] {
        bench.host.add_usb(1, port, (0x046d, 0xc31c)).unwrap();
    }
    let said = |source: &str| {
        let plan = bench.try_plan(&guest("web", &usb(source)));
        let Some(PlanRefusal::Device(_, refusal)) = plan.refusal() else {
            panic!("{:?}", told(&plan))
        };
        format!("{refusal}: {}", refusal.advice().unwrap())
    };
    assert_eq!(
        said(&format!("<source>{}</source>", ids(0x046d, 0xc31c))),
        "046d:c31c means 2 USB devices: bus 1 device 2 (port 1-1), bus 1 device 3 (port 1-2): say \
         which in its <source>, for example <address bus='1' device='2'/>"
    );
    let missing = "there is no USB device 046d:0001 at bus 1 device 2: see which there are: lsusb";
    let place = "<address bus='1' device='2'/>";
    for policy in ["", "startupPolicy='mandatory'", "startupPolicy='requisite'"] {
        let source = format!("<source {policy}>{}{place}</source>", ids(0x046d, 1));
        assert_eq!(said(&source), missing);
    }
    // A guest that can do without it starts without it.
    let source = format!(
        "<source startupPolicy='optional'>{}{place}</source>",
        ids(0x046d, 1)
    );
    let plan = bench.try_plan(&guest("web", &usb(&source)));
    assert_eq!(told(&plan), ["alone"]);
    assert_eq!(bench.list(), []);
}

#[test]
fn an_interface_on_a_usb_device_is_refused_once_and_by_name() {
    let bench = Bench::new("pfs=1,vfs=1");
    bench.host.add_usb(1, "1", (0x1234, 1)).unwrap();
    let interface = "<interface type='hostdev'><source><vendor id='0x1234'/><product id='0x1'/>\
                     </source></interface>";
    let plan = bench.try_plan(&guest("web", interface));
    assert_eq!(plan.refusals().count(), 1, "{:?}", told(&plan));
}

#[test]
fn what_a_network_can_t_be_asked_for_comes_with_what_to_do() {
    let mut bench = Bench::new("pfs=1,vfs=1");
    bench.run("n", LENDS);
    let group = on("n", 1, "").replace("network='n'", "network='n' portgroup='gold'");
    let missing = "<interface type='direct'><source dev='eth9' mode='bridge'/></interface>";
    let gone =
        "<interface type='hostdev'><source><address type='pci' bus='9'/></source></interface>";
    for (interface, advice) in [
        (&*on("nosuch", 1, ""), "virsh net-list --all"),
        (&*group, "virsh net-update n add portgroup"),
        (missing, "ip link"),
        (gone, "lspci -D"),
    ] {
        let plan = bench.try_plan(&guest("web", interface));
        let Some(PlanRefusal::Device(_, refusal)) = plan.refusal() else {
            panic!("{:?}", told(&plan))
        };
        let said = refusal.advice().unwrap();
        assert!(said.contains(advice), "{refusal}: {said}");
    }
}

#[test]
fn the_second_device_s_obstacle_is_found_before_the_first_is_touched() {
    let mut bench = Bench::new("pfs=2,vfs=4");
    bench.run("one", LENDS);
    bench.run("two", &LENDS.replace("sim0", "sim1"));
    let pf = bench.host.physical_function("sim1").unwrap();
    for vf in bench.host.virtual_functions(&pf).unwrap() {
        bench.host.bind_by_hand(vf.address, None);
        bench
            .host
            .add_group_member(vf.address, Some("e1000e"))
            .unwrap();
    }
    let guest = guest("web", &(on("one", 1, "") + &on("two", 2, "")));
    let effects = bench.host.effect_count();
    let plan = bench.plan(&guest);
    let said = refusal(&plan);
    assert!(
        said.contains("no free device") && said.contains("e1000e"),
        "{said}"
    );
    plan.release(&bench.ledger);
    assert_eq!(bench.host.effect_count(), effects);
    assert_eq!(bench.list(), []);
}

#[test]
fn a_device_that_can_t_be_lent_is_passed_over_and_the_next_is_taken() {
    let mut bench = Bench::new("pfs=1,vfs=2");
    bench.run("n", LENDS);
    let pf = bench.host.physical_function("sim0").unwrap();
    let vfs = bench.host.virtual_functions(&pf).unwrap();
    bench
        .host
        .add_group_member(vfs[0].address, Some("e1000e"))
        .unwrap();
    let guest = guest("web", &on("n", 1, ""));
    for plan in [bench.try_plan(&guest), bench.plan(&guest)] {
        let planned = plan.devices[0].planned().unwrap();
        assert_eq!(planned.share, Share::Whole(vfs[1].address.into()));
        let reason = &planned.passed_over[&vfs[0].address.into()];
        assert!(reason.contains("not viable"), "{reason}");
    }
}

#[test]
fn a_device_that_could_not_be_prepared_gives_way_to_another_and_stays_the_same_attachment() {
    let mut bench = Bench::new("pfs=1,vfs=2");
    bench.run("n", LENDS);
    let guest = guest("web", &(on("n", 1, "") + "<interface type='ethernet'/>"));
    let mut plan = bench.plan(&guest);
    let before = plan.devices[0].attachment.clone();
    let planned = plan.devices[0].planned().unwrap();
    let (first, claim) = (planned.share.device().unwrap(), planned.claim.unwrap());
    bench.host.refuse_driver(first.pci().unwrap(), "vfio-pci");
    let error = bench
        .ledger
        .prepare(claim, &planned.preparation, None)
        .unwrap_err();
    let fault = error.own_fault().unwrap();

    let excluded = [(first, fault)].into();
    let context = lending::PlanContext::default();
    plan.plan_again(
        0,
        excluded,
        &guest,
        &mut &bench.ledger,
        &bench.networks,
        &context,
    );
    let attachment = &plan.devices[0].attachment;
    assert_eq!(
        (attachment.id, &attachment.alias),
        (before.id, &before.alias)
    );
    assert_ne!(attachment.claim, before.claim);
    let planned = plan.devices[0].planned().unwrap();
    assert_ne!(planned.share.device(), Some(first));
    assert!(planned.passed_over.contains_key(&first));
    assert_eq!(bench.list().len(), 2, "the tap is still claimed");
    let lent = bench.carry_out(&plan).unwrap();
    bench.give_back(lent);
    assert_eq!(bench.list(), []);
}

#[test]
fn whatever_fails_when_a_plan_is_carried_out_nothing_stays_claimed() {
    for operation in [Operation::SetMac, Operation::Bind, Operation::MakeTap] {
        let mut bench = Bench::new("pfs=1,vfs=2");
        bench.run("n", LENDS);
        let guest = guest("web", &(on("n", 1, "") + "<interface type='ethernet'/>"));
        let plan = bench.plan(&guest);
        bench.host.fail(Fault::of(operation, 5));
        let Err(error) = bench.carry_out(&plan) else {
            panic!("{operation} did not fail");
        };
        assert!(
            chain(&error).contains(&operation.to_string()),
            "{}",
            chain(&error)
        );
        assert_eq!(bench.list(), [], "{operation}");
    }
}

#[test]
fn each_claim_carries_the_alias_that_the_running_guest_has() {
    let mut bench = Bench::new("pfs=1,vfs=3");
    bench.run("n", LENDS);
    let host_device = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
                       <address type='pci' domain='0' bus='2' slot='0' function='2'/></source></hostdev>";
    let tap = "<interface type='ethernet'><mac address='52:54:00:00:00:02'/></interface>";
    let mut guest = guest("web", &(tap.to_owned() + &on("n", 1, "") + host_device));
    let plan = bench.plan(&guest);
    let lent = bench.carry_out(&plan).unwrap();
    plan.apply_to(&mut guest);

    let mut aliases: Vec<_> = (plan.devices.iter())
        .map(|device| device.attachment.alias.as_str())
        .collect();
    assert_eq!(aliases, ["net0", "hostdev0", "hostdev1"]);
    let interfaces = &guest.devices.interfaces;
    assert_eq!(interfaces[1].info.alias.as_deref(), Some("hostdev0"));
    assert!(matches!(
        interfaces[1].actual.as_ref().unwrap().plug,
        Plug::HostdevPci { .. }
    ));
    let lines = bench.list();
    let mut known: Vec<_> = lines
        .iter()
        .filter_map(|line| line.holder.alias.as_deref())
        .collect();
    aliases.sort_unstable();
    known.sort_unstable();
    assert_eq!(known, aliases);
    assert!(lines.iter().all(|line| line.phase == Phase::Lent));
    bench.give_back(lent);
}

#[test]
fn two_taps_of_one_guest_get_two_names_and_say_so() {
    let bench = Bench::new("pfs=1,vfs=1");
    let tap = "<interface type='ethernet'/>";
    let plan = bench.try_plan(&guest("web", &tap.repeat(3)));
    let names: Vec<_> = (plan.planned())
        .map(|(_, _, planned)| planned.netdev.unwrap().to_string())
        .collect();
    assert_eq!(names, ["vnet0", "vnet1", "vnet2"]);
    let steps = &plan.devices[2].planned().unwrap().steps;
    assert!(steps[0].to_string().contains("vnet2"), "{}", steps[0]);
}

#[test]
fn two_devices_that_ask_for_one_name_are_refused_before_one_of_them_has_it() {
    let bench = Bench::new("pfs=1,vfs=1");
    let tap = "<interface type='ethernet'><target dev='tap7'/></interface>";
    let plan = bench.plan(&guest("web", &tap.repeat(2)));
    let said = refusal(&plan);
    assert!(said.contains("two network devices 'tap7'"), "{said}");
    plan.release(&bench.ledger);
    assert_eq!(bench.list(), []);
}

#[test]
fn two_macvtaps_of_one_guest_with_one_mac_are_not_put_on_one_device() {
    let bench = Bench::new("pfs=1,vfs=1");
    let macvtap = "<interface type='direct'><mac address='52:54:00:00:00:01'/>\
                   <source dev='sim0' mode='bridge'/></interface>";
    let plan = bench.try_plan(&guest("web", &macvtap.repeat(2)));
    let said = refusal(&plan);
    assert!(
        said.contains("52:54:00:00:00:01") && said.contains("two macvtaps"),
        "{said}"
    );
}

#[test]
fn a_device_that_is_kept_back_is_refused_by_a_trial_as_by_the_ledger() {
    let bench = Bench::new("pfs=1,vfs=1");
    let pf = bench.host.physical_function("sim0").unwrap();
    let vf = bench.host.virtual_functions(&pf).unwrap().remove(0);
    let device = format!(
        "<interface type='direct'><mac address='52:54:00:00:00:01'/>\
         <source dev='sim0v{}' mode='passthrough'/></interface>",
        vf.number
    );
    let web = guest("web", &device);
    let lent = bench.carry_out(&bench.plan(&web)).unwrap();
    bench
        .host
        .fail(Fault::of(Operation::DeleteLink, 16).always());
    bench.ledger.give_back(lent[0].generation).unwrap_err();
    bench.host.heal();
    let db = guest("db", &device);
    let said = told(&bench.try_plan(&db));
    assert!(said[0].contains("is kept back"), "{said:?}");
    assert_eq!(said, told(&bench.plan(&db)));
}

/// Such a network lent its devices whole, which a macvtap in private mode is not.
#[test]
fn a_private_network_with_802_1qbh_lends_each_device_to_one_guest() {
    let mut bench = Bench::new("pfs=1,vfs=2");
    bench.run(
        "n",
        "<forward mode='private'><interface dev='sim0v0'/><interface dev='sim0v1'/></forward>\
         <virtualport type='802.1Qbh'><parameters profileid='gold'/></virtualport>",
    );
    let mut lent = Vec::new();
    for (number, name) in ["web", "db"].into_iter().enumerate() {
        let guest = guest(name, &on("n", u8::try_from(number).unwrap() + 1, ""));
        lent.extend(bench.carry_out(&bench.plan(&guest)).unwrap());
    }
    let lines = bench.list();
    assert!(lines.iter().all(|line| line.kind == Some(Kind::Macvtap)));
    assert_ne!(lines[0].parent, lines[1].parent);
    let third = bench.try_plan(&guest("mail", &on("n", 3, "")));
    assert!(
        refusal(&third).contains("no free device"),
        "{}",
        refusal(&third)
    );
    bench.give_back(lent);
}

#[test]
fn names_between_those_of_other_guests_are_found() {
    let bench = Bench::new("pfs=1,vfs=1");
    for kind in [
        "<interface type='direct'><source dev='sim0' mode='bridge'/></interface>",
        "<interface type='ethernet'/>",
    ] {
        let lent = ["a", "b"].map(|name| {
            let plan = bench.plan(&guest(name, kind));
            bench.carry_out(&plan).unwrap()
        });
        let [first, second] = lent;
        bench.give_back(first);
        let plan = bench.plan(&guest("c", &kind.repeat(3)));
        let lent = bench.carry_out(&plan).unwrap();
        let lines = bench.list();
        let mut names: Vec<_> = (lines.iter())
            .filter_map(|line| line.netdev)
            .map(|name| name.to_string())
            .collect();
        names.sort();
        let prefix = names[0].trim_end_matches(char::is_numeric);
        let row = |number| format!("{prefix}{number}");
        assert_eq!(names, [0, 1, 2, 3].map(row));
        bench.give_back(second);
        bench.give_back(lent);
        // The lowest is free again.
        let plan = bench.try_plan(&guest("d", kind));
        assert_eq!(
            plan.devices[0].planned().unwrap().netdev.unwrap().as_str(),
            row(0)
        );
    }
}

#[test]
fn a_network_leaves_a_guest_what_that_names_itself() {
    let mut bench = Bench::new("pfs=1,vfs=2");
    bench.run("n", LENDS);
    let pf = bench.host.physical_function("sim0").unwrap();
    let first = bench.host.virtual_functions(&pf).unwrap().remove(0).address;
    let address = format!(
        "<address type='pci' domain='{:#x}' bus='{:#x}' slot='{:#x}' function='{:#x}'/>",
        first.domain(),
        first.bus(),
        first.slot(),
        first.function()
    );
    for own in [
        format!("<interface type='hostdev' managed='yes'><source>{address}</source></interface>"),
        "<interface type='direct'><source dev='sim0v0' mode='passthrough'/></interface>".to_owned(),
        "<interface type='direct'><source dev='sim0v0' mode='bridge'/></interface>".to_owned(),
    ] {
        let plan = bench.plan(&guest("web", &(on("n", 1, "") + &own)));
        assert!(plan.refusal().is_none(), "{own}: {}", refusal(&plan));
        plan.release(&bench.ledger);
    }
}

/// What it has will be free by then.
#[test]
fn the_next_start_of_a_running_guest_is_not_in_its_own_way() {
    let mut bench = Bench::new("pfs=1,vfs=1");
    bench.run("n", LENDS);
    bench.run(
        "shared",
        "<forward mode='bridge'><interface dev='sim0'/></forward>",
    );
    let devices = on("n", 1, "") + &on("shared", 2, "");
    let web = guest("web", &devices);
    let plan = bench.plan(&web);
    let before = told(&plan);
    let lent = bench.carry_out(&plan).unwrap();
    let next = bench.try_plan(&web);
    assert!(next.refusal().is_none(), "{}", refusal(&next));
    let shares = |plan: &lending::GuestPlan| -> Vec<_> {
        plan.planned()
            .map(|(_, _, planned)| planned.share)
            .collect()
    };
    assert_eq!(shares(&next), shares(&plan));
    for (_, _, planned) in next.planned() {
        assert!(planned.steps.is_empty() && planned.notes.contains(&Note::HasIt));
    }
    // It is in another's way all the same.
    let db = bench.try_plan(&guest("db", &devices));
    assert!(refusal(&db).contains("no free device"), "{}", refusal(&db));
    bench.give_back(lent);
    assert_eq!(told(&bench.try_plan(&web)), before);
}

#[test]
fn no_more_devices_are_looked_at_than_a_guest_can_have() {
    let bench = Bench::new("pfs=1,vfs=1");
    let one = "<interface type='ethernet'/>";
    let plan = bench.try_plan(&guest("web", &one.repeat(lending::MOST_DEVICES)));
    assert_eq!(plan.planned().count(), lending::MOST_DEVICES);
    let plan = bench.try_plan(&guest("web", &one.repeat(lending::MOST_DEVICES + 1)));
    assert!(
        refusal(&plan).contains("has 257 devices"),
        "{}",
        refusal(&plan)
    );
    assert!(plan.devices.is_empty());
}

#[test]
fn what_nobody_carries_out_is_named_once() {
    let bench = Bench::new("pfs=1,vfs=1");
    let devices = "<interface type='ethernet'><script path='/etc/if-up'/></interface>";
    let plan = bench.try_plan(&guest("web", devices));
    let said = refusal(&plan);
    assert_eq!(said.matches("script").count(), 1, "{said}");
}

#[test]
fn the_two_of_a_pair_know_each_other() {
    let mut bench = Bench::new("pfs=1,vfs=1");
    bench.run("n", LENDS);
    let standby = "<interface type='direct'><mac address='52:54:00:00:00:01'/>\
                   <source dev='sim0' mode='bridge'/><model type='virtio'/>\
                   <teaming type='persistent'/><alias name='ua-standby'/></interface>";
    let primary = on(
        "n",
        1,
        "<teaming type='transient' persistent='ua-standby'/>",
    );
    let plan = bench.try_plan(&guest("web", &(standby.to_owned() + &primary)));
    let [one, other] = &*plan.devices else {
        panic!("{:?}", told(&plan));
    };
    let roles = (one.attachment.role, other.attachment.role);
    assert_eq!(roles, (Role::Standby, Role::Primary));
    assert!(one.attachment.pair.is_some());
    assert_eq!(one.attachment.pair, other.attachment.pair);
    assert_ne!(one.attachment.id, other.attachment.id);
}

#[test]
fn a_refusal_says_what_and_whose_in_users_words_and_what_to_do() {
    let bench = Bench::new("pfs=1,vfs=1");
    let pf = bench.host.physical_function("sim0").unwrap();
    let vf = bench.host.virtual_functions(&pf).unwrap().remove(0);
    let used = Usage::Addressed {
        netdev: "sim0v0".to_owned(),
        address: "192.0.2.1/24".to_owned(),
    };
    bench.host.set_usage(vf.address, vec![used]);
    let macvtap = "<interface type='direct'><mac address='52:54:00:00:00:01'/>\
                   <source dev='sim0v0' mode='passthrough'/></interface>";
    let plan = bench.try_plan(&guest("web", macvtap));
    let Outcome::Refused(refusal) = &plan.devices[0].outcome else {
        panic!("{:?}", told(&plan));
    };
    assert!(matches!(**refusal, DeviceRefusal::Obstructed { .. }));
    let said = chain(&**refusal);
    assert!(
        said.contains("'web'") && said.contains("192.0.2.1/24"),
        "{said}"
    );
    assert!(!said.contains("link-"), "{said}");
    assert!(refusal.advice().unwrap().contains("take it out of use"));
}

#[test]
fn a_macvtap_with_a_vlan_shares_the_card_and_stands_on_a_vlan_device() {
    let mut bench = Bench::new("pfs=1,vfs=2");
    bench.run(
        "n",
        "<forward mode='bridge'><interface dev='sim0'/></forward><vlan><tag id='42'/></vlan>",
    );
    let pf = bench.host.physical_function("sim0").unwrap();
    let direct = "<interface type='direct'><mac address='52:54:00:00:00:02'/>\
                  <source dev='sim0' mode='vepa'/><vlan><tag id='42'/></vlan></interface>";
    for (mac, device) in [(1, &*on("n", 1, "")), (2, direct)] {
        let found = bench.host.snapshot();
        let web = guest(&format!("web{mac}"), device);
        let plan = bench.plan(&web);
        let planned = plan.devices[0]
            .planned()
            .unwrap_or_else(|| panic!("{:?}", told(&plan)));
        assert_eq!(planned.share, Share::Part(pf.address.into()));
        assert_eq!(
            planned.steps[0].to_string(),
            "make vn2.42 for VLAN 42 of sim0"
        );
        let lent = bench.carry_out(&plan).unwrap();
        assert_eq!(bench.list()[0].parent, Some(pf.address.into()));
        assert!(bench.host.netdev("vn2.42").is_ok());
        bench.give_back(lent);
        assert_eq!(found.differences(&bench.host.snapshot()), [""; 0]);
    }
}

#[test]
fn a_vlan_that_no_macvtap_can_have_is_refused_by_what_is_wrong_with_it() {
    let bench = Bench::new("pfs=1,vfs=2");
    bench.host.add_nic("eth0").unwrap();
    for (mode, inside, part) in [
        (
            "passthrough",
            "<vlan><tag id='42'/></vlan>",
            "choose bridge, private or vepa mode",
        ),
        (
            "bridge",
            "<vlan trunk='yes'><tag id='42'/><tag id='43'/></vlan>",
            "one VLAN tag, set for the guest, and no trunk",
        ),
        (
            "bridge",
            "<vlan><tag id='4095'/></vlan>",
            "VLAN 4095 is none",
        ),
        (
            "bridge",
            "<vlan><tag id='42'/></vlan><virtnic:vf protocol='802.1ad'/>",
            "802.1ad needs a Virtual Function",
        ),
    ] {
        let direct = format!(
            "<interface type='direct'><source dev='eth0' mode='{mode}'/>{inside}</interface>"
        );
        let said = refusal(&bench.try_plan(&guest("web", &direct)));
        assert!(said.contains(part), "{said}");
    }
}
