//! The contract of [`host::Host`], kept by the simulated host. `lab_host` runs it on a real card.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod suite;

use host::{Host, Quirks, SimulatedHost};
use suite::{CHECKS, Subject};

fn check(quirks: Quirks) {
    for (name, check) in CHECKS {
        let host = SimulatedHost::new("pfs=2,vfs=8".parse().unwrap());
        host.set_quirks(quirks);
        let before = host.snapshot();
        let subject = Subject {
            host: &host,
            pf: "sim1",
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&subject)));
        assert!(checked.is_ok(), "broken: {name}");
        let vfs = host
            .virtual_functions(&host.physical_function("sim1").unwrap())
            .unwrap();
        let after = host.snapshot();
        for vf in vfs {
            let (before, after) = (&before.devices[&vf.address], &after.devices[&vf.address]);
            assert_eq!(before.driver, after.driver, "{name}");
            assert_eq!(before.driver_override, after.driver_override, "{name}");
        }
    }
}

#[test]
fn a_simulated_host_keeps_it() {
    check(Quirks::default());
}

#[test]
fn a_simulated_igb_keeps_it() {
    check(Quirks::igb());
}

#[test]
fn a_simulated_driver_with_other_habits_keeps_it() {
    check(Quirks {
        mac_at_once: true,
        trust: false,
        ..Quirks::default()
    });
}
