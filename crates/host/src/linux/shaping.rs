//! How fast a guest may receive and send.

use std::io;

use conf::{Bandwidth, Rate};

use super::LinuxHost;
use super::netlink::{Hook, Kind, Limit, is_missing_module};
use crate::{HostError, Operation};

/// Frames that always pass at once: two of the ordinary length.
const LEAST_BUCKET: u64 = 3200;
/// A policer never lets a frame pass that is longer than its burst, and a guest hands over up to
/// 64 KiB in one.
const LEAST_POLICED: u64 = 66 << 10;
/// Disciplines that let flows take turns, the best first.
const LEAVES: [&str; 2] = ["fq_codel", "sfq"];

impl LinuxHost {
    pub(super) fn shape(&self, ifindex: u32, bandwidth: &Bandwidth) -> Result<(), HostError> {
        let device = self.netlink.device(ifindex);
        let device = device.map_err(|error| refused(format!("device {ifindex}"), error))?;
        let target = format!("'{}'", device.name);
        crate::links::shapeable(bandwidth, || target.clone())?;
        // What a guest sends by a tap arrives at the tap; by a macvtap it leaves the macvtap.
        let (leaving, arriving) = match device.kind {
            Some(Kind::Macvtap(_) | Kind::Macvlan(_)) => (bandwidth.outbound, bandwidth.inbound),
            _ => (bandwidth.inbound, bandwidth.outbound),
        };
        self.unshape(ifindex, arriving.is_some(), &target)?;
        let shaped = self
            .shape_leaving(ifindex, leaving, &target)
            .and_then(|()| self.police_arriving(ifindex, arriving, &target));
        if shaped.is_err()
            && let Err(error) = self.unshape(ifindex, false, &target)
        {
            tracing::warn!(device = target, %error, "what was set of its shaping stays");
        }
        shaped
    }

    /// Removes what is there.
    fn unshape(&self, ifindex: u32, needs_ingress: bool, target: &str) -> Result<(), HostError> {
        let refused = |error| refused(target.to_owned(), error);
        (self.netlink.remove_qdisc(ifindex, Hook::Leaving)).map_err(refused)?;
        match self
            .netlink
            .qdisc(ifindex, Hook::Arriving)
            .map_err(refused)?
        {
            Some(kind) if kind == "ingress" => {
                (self.netlink.remove_qdisc(ifindex, Hook::Arriving)).map_err(refused)
            }
            Some(kind) if needs_ingress => Err(HostError::Unsupported {
                target: target.to_owned(),
                reason: format!("another program already filters what arrives there, by {kind}"),
            }),
            _ => Ok(()),
        }
    }

    fn shape_leaving(
        &self,
        ifindex: u32,
        rate: Option<Rate>,
        target: &str,
    ) -> Result<(), HostError> {
        let Some(limit) = rate.and_then(bucket) else {
            return Ok(());
        };
        let refused = |error| refused(target.to_owned(), error);
        (self.netlink.add_bucket(ifindex, limit))
            .map_err(|error| missing(target, error, "the HTB scheduler (module sch_htb)"))?;
        for leaf in LEAVES {
            if self.netlink.add_leaf(ifindex, leaf).map_err(refused)? {
                break;
            }
        }
        let set = self.netlink.bucket(ifindex).map_err(refused)?;
        if set != Some((limit.rate, limit.peak)) {
            return Err(HostError::Malformed {
                target: target.to_owned(),
                what: format!("its shaping is {set:?} instead of {limit:?}"),
            });
        }
        Ok(())
    }

    fn police_arriving(
        &self,
        ifindex: u32,
        rate: Option<Rate>,
        target: &str,
    ) -> Result<(), HostError> {
        let Some(limit) = rate.and_then(policer) else {
            return Ok(());
        };
        let what = "ingress filters (modules sch_ingress, cls_u32 and act_police)";
        (self.netlink.add_ingress(ifindex))
            .and_then(|()| self.netlink.add_policer(ifindex, limit))
            .map_err(|error| missing(target, error, what))
    }
}

fn refused(target: String, source: io::Error) -> HostError {
    HostError::Kernel {
        operation: Operation::SetBandwidth,
        target,
        source,
    }
}

fn missing(target: &str, error: io::Error, what: &str) -> HostError {
    if is_missing_module(&error) {
        HostError::Unsupported {
            target: target.to_owned(),
            reason: format!("this kernel lacks {what}: {error}"),
        }
    } else {
        refused(target.to_owned(), error)
    }
}

/// Bytes, of KiB.
fn bytes(kib: u64) -> u64 {
    kib.saturating_mul(1024)
}

/// What passes in a millisecond, and two frames.
fn short_burst(rate: u64) -> u64 {
    (rate / 1000).saturating_add(LEAST_BUCKET)
}

/// For frames that can wait. Without a burst as much as a timer's inaccuracy needs; without a peak
/// a burst passes as fast as the device is.
fn bucket(rate: Rate) -> Option<Limit> {
    let average = bytes(rate.average?);
    let peak = rate.peak.map(bytes).filter(|peak| *peak > average);
    let burst = rate.burst.map(bytes);
    let least = short_burst(average);
    Some(Limit {
        rate: average,
        peak: peak.unwrap_or(average),
        burst: burst.unwrap_or(least).max(least),
        peak_burst: match (peak, burst) {
            (Some(peak), _) => short_burst(peak),
            (None, Some(burst)) => burst.max(least),
            (None, None) => least,
        },
    })
}

/// For frames that are dropped where they come too fast. Senders come near the rate only where
/// something of a burst is let through: without one, that of a second.
fn policer(rate: Rate) -> Option<Limit> {
    let average = bytes(rate.average?);
    let burst = rate.burst.map_or(average, bytes).max(LEAST_POLICED);
    Some(Limit {
        rate: average,
        peak: rate.peak.map_or(average, bytes).max(average),
        burst,
        peak_burst: burst,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(average: u64, peak: Option<u64>, burst: Option<u64>) -> Rate {
        Rate {
            average: Some(average),
            peak,
            floor: None,
            burst,
        }
    }

    #[test]
    fn a_burst_passes_at_peak_rate_or_at_once() {
        let limit = bucket(rate(1000, Some(5000), Some(512))).unwrap();
        assert_eq!((limit.rate, limit.peak), (1_024_000, 5_120_000));
        assert_eq!((limit.burst, limit.peak_burst), (512 << 10, 5120 + 3200));
        let limit = bucket(rate(1000, None, Some(512))).unwrap();
        assert_eq!((limit.burst, limit.peak_burst), (512 << 10, 512 << 10));
        let limit = bucket(rate(1000, None, None)).unwrap();
        assert_eq!((limit.burst, limit.peak_burst), (1024 + 3200, 1024 + 3200));
    }

    #[test]
    fn a_policer_lets_the_longest_frame_of_a_guest_pass() {
        let limit = policer(rate(10, None, Some(1))).unwrap();
        assert_eq!((limit.rate, limit.burst), (10 << 10, 66 << 10));
        assert_eq!(policer(rate(1000, None, None)).unwrap().burst, 1_024_000);
    }

    #[test]
    fn the_greatest_rate_that_can_be_written_does_not_overflow() {
        assert_eq!(bucket(rate(1 << 54, None, None)).unwrap().rate, u64::MAX);
        assert_eq!(policer(rate(1 << 54, None, None)).unwrap().rate, u64::MAX);
    }
}
