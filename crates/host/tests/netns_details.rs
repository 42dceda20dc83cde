//! What the real kernel tells of bridges, for people to read, in a network namespace of the test's
//! own. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

#[allow(dead_code, reason = "the other namespace tests use the rest")]
mod stations;

use host::{BridgeDetails, Links, NetdevDetails};
use stations::{in_namespace, run};

#[test]
fn a_bridge_tells_how_it_works_and_others_tell_nothing() {
    in_namespace(|host, _| {
        run("ip link add br7 type bridge forward_delay 400 stp_state 1");
        let bridge = host.netdev("br7").unwrap();
        let details = host.netdev_details(&bridge).unwrap();
        let expected = BridgeDetails {
            stp: true,
            forward_delay: 400,
        };
        assert_eq!(details.bridge, Some(expected));
        let left = host.netdev("left").unwrap();
        let details = host.netdev_details(&left).unwrap();
        let of_kind = NetdevDetails {
            speed: details.speed,
            ..NetdevDetails::default()
        };
        assert_eq!(details, of_kind);

        run("ip link delete br7");
        let gone = host.netdev_details(&bridge).unwrap_err();
        assert_eq!(gone.errno(), Some(19));
    });
}
