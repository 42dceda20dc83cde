//! The contract of [`host::Host`], kept by the real kernel with a real card. For the lab: it
//! changes the card's VFs, and wants a PF that nothing uses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod suite;

use std::process::Command;

use host::{Host, LinuxHost, Paths, Usage, VfioHolder, VirtualFunction};
use suite::{CHECKS, Subject};

const EBUSY: i32 = 16;

fn host_and_vf() -> (LinuxHost, VirtualFunction) {
    let pf = std::env::var("LAB_PF0").expect("LAB_PF0 names the PF");
    let host = LinuxHost::new(Paths::default());
    let pf = host.physical_function(&pf).unwrap();
    let vf = host.virtual_functions(&pf).unwrap().pop().unwrap();
    (host, vf)
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn a_vf_that_a_process_holds_is_in_use_and_not_waited_for() {
    let (host, vf) = host_and_vf();
    host.bind(vf.address, "vfio-pci").unwrap();
    let number = host.iommu_group(vf.address).unwrap().unwrap().number;
    let group = std::fs::File::open(format!("/dev/vfio/{number}")).unwrap();
    assert_eq!(
        host.vf_usage(&vf).unwrap(),
        [Usage::VfioOpen(VfioHolder {
            group: number,
            process: Some(std::process::id()),
        })]
    );
    let error = host.unbind(vf.address, Some("igbvf")).unwrap_err();
    assert_eq!(error.errno(), Some(EBUSY), "{error:?}");
    drop(group);
    assert_eq!(host.vf_usage(&vf).unwrap(), []);
    host.unbind(vf.address, Some("igbvf")).unwrap();
    assert!(host.vf_state(&vf).unwrap().netdev.is_some());
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn what_the_host_does_with_a_vf_is_seen() {
    let (host, vf) = host_and_vf();
    let (netdev, _) = host.vf_state(&vf).unwrap().netdev.unwrap();
    ip(&format!("link set {netdev} up"));
    assert_eq!(host.vf_usage(&vf).unwrap(), [], "merely up");
    ip(&format!("addr add 10.77.0.1/24 dev {netdev}"));
    assert!(matches!(&host.vf_usage(&vf).unwrap()[..],
        [Usage::Addressed { address, .. }] if address == "10.77.0.1/24"));
    ip(&format!("addr flush dev {netdev}"));
    ip("netns add elsewhere");
    ip(&format!("link set {netdev} netns elsewhere"));
    assert_eq!(host.vf_usage(&vf).unwrap(), [Usage::OtherNamespace]);
    ip(&format!("-n elsewhere link set {netdev} netns 1"));
    ip("netns del elsewhere");
    assert_eq!(host.vf_usage(&vf).unwrap(), []);
}

#[test]
#[ignore = "needs the lab: a PF that is up, has VFs and is named in LAB_PF0"]
fn the_kernel_keeps_the_contract() {
    let pf = std::env::var("LAB_PF0").expect("LAB_PF0 names the PF");
    let host = LinuxHost::new(Paths::default());
    let subject = Subject {
        host: &host,
        pf: &pf,
    };
    let mut broken = Vec::new();
    for (name, check) in CHECKS {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&subject)));
        println!(
            "{}: {name}",
            if checked.is_ok() { "kept" } else { "BROKEN" }
        );
        if checked.is_err() {
            broken.push(name);
        }
    }
    for vf in host
        .virtual_functions(&host.physical_function(&pf).unwrap())
        .unwrap()
    {
        println!("{:?}", host.vf_state(&vf));
    }
    assert!(broken.is_empty(), "broken: {broken:#?}");
}
