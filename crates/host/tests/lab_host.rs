//! The contract of [`host::Host`], kept by the real kernel with a real card. For the lab: it
//! changes the card's VFs, and wants a PF that nothing uses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod suite;

use host::{Host, LinuxHost, Paths};
use suite::{CHECKS, Subject};

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
