//! What went through guests' devices, as the guests see it.

use assign::{Assignment, Kind};
use host::{Counters, Host};
use rpc::GuestCounters;

/// The counters of a lent device; `None`: nothing counts them, or the device is gone. Asks the
/// kernel.
pub(super) fn of(host: &dyn Host, line: &Assignment) -> Option<GuestCounters> {
    let counted = match (line.kind?, &line.vf, line.ifindex) {
        (Kind::Hostdev, Some(vf), _) => host.vf_counters(vf),
        (Kind::Macvtap | Kind::Tap, _, Some(index)) => host.netdev_counters(index).map(Some),
        (Kind::Hostdev, None, _) | (Kind::Usb, ..) | (_, _, None) => return None,
    };
    match counted {
        Ok(counters) => counters.map(|counters| as_guest_sees(line.kind, &counters)),
        Err(error) => {
            tracing::debug!(item = %line.item, %error, "its counters can't be read");
            None
        }
    }
}

/// A VF's and a macvtap's counters are those of the guest's end. A tap is the other end of the
/// guest's wire: what it received, the guest sent.
fn as_guest_sees(kind: Option<Kind>, counted: &Counters) -> GuestCounters {
    let is_tap = kind == Some(Kind::Tap);
    let seen = if is_tap {
        counted.from_other_end()
    } else {
        *counted
    };
    let sent = |counted: Option<u64>| counted.filter(|_| is_tap);
    GuestCounters {
        rx_bytes: seen.rx_bytes,
        rx_packets: seen.rx_packets,
        rx_errors: seen.rx_errors,
        rx_dropped: seen.rx_dropped,
        rx_multicast: seen.rx_multicast,
        rx_broadcast: seen.rx_broadcast,
        tx_bytes: seen.tx_bytes,
        tx_packets: seen.tx_packets,
        tx_errors: seen.tx_errors,
        tx_dropped: seen.tx_dropped,
        tx_multicast: sent(counted.rx_multicast),
        tx_broadcast: sent(counted.rx_broadcast),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tap_received_the_guest_sent() {
        let counters = Counters {
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: Some(3),
            rx_dropped: 4,
            rx_multicast: Some(5),
            rx_broadcast: Some(6),
            tx_bytes: 7,
            tx_packets: 8,
            tx_errors: Some(9),
            tx_dropped: 10,
        };
        let tap = as_guest_sees(Some(Kind::Tap), &counters);
        assert_eq!((tap.tx_bytes, tap.tx_packets, tap.tx_dropped), (1, 2, 4));
        assert_eq!((tap.rx_bytes, tap.rx_packets, tap.rx_dropped), (7, 8, 10));
        assert_eq!((tap.tx_errors, tap.rx_errors), (Some(3), Some(9)));
        assert_eq!((tap.tx_multicast, tap.rx_multicast), (Some(5), None));
        for kind in [Kind::Macvtap, Kind::Hostdev] {
            let own = as_guest_sees(Some(kind), &counters);
            assert_eq!((own.rx_bytes, own.tx_bytes), (1, 7));
            assert_eq!((own.rx_broadcast, own.tx_broadcast), (Some(6), None));
        }
    }
}
