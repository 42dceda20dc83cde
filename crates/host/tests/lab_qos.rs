//! Policing, VF counters and VFs on demand with a kernel and a card that have them. For the lab: it
//! changes the number of the card's VFs, and wants a PF that nothing uses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc::channel;

use conf::{Bandwidth, Rate};
use host::{
    Host, HostError, Links, LinuxHost, NicAbility, Paths, PhysicalFunction, PortAction,
    PortProfile, PortRequest, VirtualFunction,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::thread::UnshareFlags;

const EBUSY: i32 = 16;
const FRAMES: u64 = 2000;
const MAC: &str = "02:00:00:00:78:03";

fn host_and_pf() -> (LinuxHost, PhysicalFunction) {
    let pf = std::env::var("LAB_PF0").expect("LAB_PF0 names the PF");
    let host = LinuxHost::new(Paths::default());
    let pf = host.physical_function(&pf).unwrap();
    (host, pf)
}

/// What a command prints.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = (Command::new(words.next().unwrap()).args(words))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn index(netdev: &str) -> u32 {
    let shown = run(&format!("ip -o link show {netdev}"));
    shown.split(':').next().unwrap().parse().unwrap()
}

/// A thread with a network namespace of its own, in which it is `10.78.0.2` on `inside`, the other
/// end of `shaped`. It sends frames of 1,000 bytes there as fast as it can, and lasts for the check;
/// both ends go with it.
fn flood(address: &'static str, check: impl FnOnce()) {
    let (tell, thread_id) = channel();
    let (go, wait) = channel::<()>();
    let (done, sent) = channel();
    let guest = std::thread::spawn(move || {
        #[expect(deprecated, reason = "the safe form; no descriptor table is unshared")]
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        tell.send(rustix::thread::gettid()).unwrap();
        wait.recv().unwrap();
        run("ip addr add 10.78.0.2/24 dev inside");
        run("ip link set inside up");
        run(&format!("ip neigh add 10.78.0.3 lladdr {MAC} dev inside"));
        let socket = UdpSocket::bind("10.78.0.2:0").unwrap();
        let sent = (0..FRAMES).filter(|_| socket.send_to(&[0; 1000], address).is_ok());
        done.send(sent.count() as u64).unwrap();
        wait.recv().unwrap();
    });
    let thread_id = thread_id.recv().unwrap().as_raw_nonzero();
    run(&format!("ip link set inside netns {thread_id}"));
    go.send(()).unwrap();
    assert_eq!(sent.recv().unwrap(), FRAMES);
    check();
    go.send(()).unwrap();
    guest.join().unwrap();
}

/// Frames that a device's policer dropped.
fn dropped(netdev: &str) -> u64 {
    let shown = run(&format!("tc -s filter show dev {netdev} ingress"));
    println!("{shown}");
    let after = shown.split_once("(dropped ").unwrap().1;
    after.split_once(',').unwrap().0.parse().unwrap()
}

fn slow() -> Option<Rate> {
    Some(Rate {
        average: Some(100),
        burst: Some(70),
        ..Rate::default()
    })
}

/// By a tap what a guest sends arrives at the tap, as it arrives at `shaped` here.
#[test]
#[ignore = "needs the lab: a kernel with policers"]
fn lab_what_a_guest_sends_too_fast_is_dropped() {
    let (host, _) = host_and_pf();
    run("ip link add shaped type veth peer name inside");
    run("ip addr add 10.78.0.1/24 dev shaped");
    run("ip link set shaped up");
    let both = Bandwidth {
        inbound: slow(),
        outbound: slow(),
    };
    host.set_bandwidth(index("shaped"), &both).unwrap();
    let filter = run("tc filter show dev shaped ingress");
    assert!(
        filter.contains("rate 819200bit burst 70Kb mtu 128Kb"),
        "{filter}"
    );
    let leaf = run("tc qdisc show dev shaped");
    assert!(leaf.contains("qdisc fq_codel 2: parent 1:1"), "{leaf}");
    flood("10.78.0.1:9", || {
        assert!(dropped("shaped") > FRAMES / 2);
        host.set_bandwidth(index("shaped"), &Bandwidth::default())
            .unwrap();
        let rest = run("tc qdisc show dev shaped");
        assert!(!rest.contains("ingress") && !rest.contains("htb"), "{rest}");
    });
}

/// By a macvtap what goes to a guest arrives at the macvtap.
#[test]
#[ignore = "needs the lab: a kernel with policers"]
fn lab_what_a_guest_gets_too_fast_by_a_macvtap_is_dropped() {
    let (host, _) = host_and_pf();
    run("ip link add shaped type veth peer name inside");
    run("ip link set shaped up");
    run(&format!(
        "ip link add link shaped name over address {MAC} type macvtap mode bridge"
    ));
    run("ip link set over up");
    let inbound = Bandwidth {
        inbound: slow(),
        outbound: None,
    };
    host.set_bandwidth(index("over"), &inbound).unwrap();
    flood("10.78.0.3:9", || assert!(dropped("over") > FRAMES / 2));
}

#[test]
#[ignore = "needs the lab: a PF that has VFs and is named in LAB_PF0"]
fn lab_vfs_are_not_taken_from_whoever_holds_one() {
    let (host, pf) = host_and_pf();
    let vf = host.virtual_functions(&pf).unwrap().pop().unwrap();
    host.bind(vf.address, "vfio-pci").unwrap();
    let group = host.iommu_group(vf.address).unwrap().unwrap().number;
    let held = std::fs::File::open(format!("/dev/vfio/{group}")).unwrap();
    let error = host.set_vf_count(&pf, 0).unwrap_err();
    assert_eq!(error.errno(), Some(EBUSY));
    assert!(
        matches!(error, HostError::VfCount { holder: Some(holder), .. } if holder == vf.address)
    );
    drop(held);
    host.unbind(vf.address, Some("igbvf")).unwrap();
}

#[test]
#[ignore = "needs the lab: a PF that has VFs and is named in LAB_PF0"]
fn lab_vfs_made_while_autoprobe_is_off_have_no_driver() {
    let (host, pf) = host_and_pf();
    assert!(host.autoprobe(&pf).unwrap());
    let drivers = || -> Vec<Option<String>> {
        let vfs = host.virtual_functions(&pf).unwrap();
        let driver = |vf: VirtualFunction| host.pci_device(vf.address).unwrap().driver;
        vfs.into_iter().map(driver).collect()
    };
    let before = drivers();
    host.set_vf_count(&pf, 0).unwrap();
    host.set_autoprobe(&pf, false).unwrap();
    host.set_vf_count(&pf, pf.vf_count).unwrap();
    let without = drivers();
    host.set_vf_count(&pf, 0).unwrap();
    host.set_autoprobe(&pf, true).unwrap();
    host.set_vf_count(&pf, pf.vf_count).unwrap();
    assert_eq!(without, vec![None; before.len()]);
    assert_eq!(drivers(), before);
}

#[test]
#[ignore = "needs the lab: a PF that has VFs and is named in LAB_PF0"]
fn lab_a_card_that_counts_nothing_for_its_vfs_says_nothing() {
    let (host, pf) = host_and_pf();
    for vf in host.virtual_functions(&pf).unwrap() {
        assert_eq!(host.vf_counters(&vf).unwrap(), None, "igb has no counters");
    }
    let ability = host.nic_ability(&host.netdev(&pf.netdev).unwrap()).unwrap();
    let expected = NicAbility::SrIov {
        max_vfs: pf.max_vfs,
        vfs: pf.vf_count,
    };
    assert_eq!(ability, expected);
}

/// A stand-in for lldpad hears which device and which VLAN a macvtap on a VLAN on a card is behind.
#[test]
#[ignore = "needs the lab: a kernel with VLAN devices"]
fn lab_a_port_profile_names_the_card_and_the_vlan_below_a_macvtap() {
    const AGENT: u32 = 4711;
    run("ip link add card type veth peer name wire");
    run("ip link add link card name card.42 type vlan id 42");
    run("ip link add link card.42 name over type macvtap mode vepa");
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("lldpad.pid"), AGENT.to_string()).unwrap();
    let host = LinuxHost::new(Paths {
        run: files.path().to_owned(),
        ..Paths::default()
    });
    let mut agent = Socket::new(NETLINK_ROUTE).unwrap();
    agent.bind(&SocketAddr::new(AGENT, 0)).unwrap();
    let heard = std::thread::spawn(move || {
        let mut request = Vec::with_capacity(4096);
        let (_, sender) = agent.recv_from(&mut request, 0).unwrap();
        // The acknowledgement: a header, error number 0, and the header that it answers.
        let mut answer = vec![36, 0, 0, 0, 2, 0, 0, 0];
        answer.resize(20, 0);
        answer.extend(&request[..16]);
        agent.send_to(&answer, &sender, 0).unwrap();
        request
    });
    let request = PortRequest {
        action: PortAction::AssociateAgain,
        mac: MAC.parse().unwrap(),
        profile: PortProfile::Qbg {
            link: "over".parse().unwrap(),
            manager_id: 1,
            type_id: 2,
            type_id_version: 3,
            instance_id: conf::Uuid::from_u128(4),
        },
    };
    host.port_profile(&request).unwrap();
    let heard = heard.join().unwrap();
    let has = |bytes: &[u8]| heard.windows(bytes.len()).any(|part| part == bytes);
    assert!(has(b"card\0"), "{heard:?}");
    assert!(has(&[255, 255, 255, 255, 42, 0, 0, 0]), "{heard:?}");
    run("ip link del card");
}
