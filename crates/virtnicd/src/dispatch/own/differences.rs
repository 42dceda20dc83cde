//! What records, kernel and running guests don't agree about, and mending it.

use conf::Uuid;
use rpc::{Difference, Outcome};

use crate::daemon::Daemon;
use crate::lender::Lender;
use crate::registry::Named as _;

impl Daemon {
    /// Every difference; with `apply`, those that are safe to mend are mended first, one after the
    /// other. Asks the kernel, so it blocks.
    pub(in crate::dispatch) fn reconcile(&self, apply: bool) -> Vec<Difference> {
        // A guest with a job under way may have been started by the time that it is asked about.
        let runs = |guest: Uuid| {
            let guest = self.domains.by_uuid(guest);
            guest.is_some_and(|guest| guest.is_active() || guest.is_busy())
        };
        let found = self.lender.differences(runs);
        found
            .iter()
            .map(|difference| {
                let outcome = mended(&self.lender, difference, apply);
                self.difference(difference, outcome)
            })
            .collect()
    }

    fn difference(&self, difference: &assign::Difference, outcome: Outcome) -> Difference {
        Difference {
            device: device_of(difference),
            guest: self.guest_of(difference),
            what: difference.to_string(),
            cause: difference.cause().to_owned(),
            remedy: difference.remedy(),
            safe: difference.is_safe(),
            outcome,
        }
    }

    /// The name of the guest that it is about; the uuid of one that is not known any more.
    fn guest_of(&self, difference: &assign::Difference) -> Option<String> {
        use assign::Difference as D;
        match difference {
            D::OrphanedLink { guest, .. } => Some(match self.domains.by_uuid(*guest) {
                Some(object) => object.name().to_owned(),
                None => guest.to_string(),
            }),
            D::LinkMissing { guest, .. }
            | D::DeviceMissing { guest, .. }
            | D::Changed { guest, .. }
            | D::NoGuest { guest, .. }
            | D::Dirty { guest, .. } => Some(guest.clone()),
            D::UnreadableRecord { .. }
            | D::OnVfio { .. }
            | D::LeftSettings { .. }
            | D::Unknown { .. } => None,
        }
    }
}

/// Mends a difference, if that is asked for and safe.
fn mended(lender: &Lender, difference: &assign::Difference, apply: bool) -> Outcome {
    if !apply || !difference.is_safe() {
        return Outcome::Left;
    }
    match lender.mend(difference) {
        Ok(()) => Outcome::Mended,
        Err(reason) => Outcome::Failed(reason),
    }
}

/// What it is about: a PCI function, a network device, or a claim.
fn device_of(difference: &assign::Difference) -> Option<String> {
    use assign::Difference as D;
    match difference {
        D::OrphanedLink { netdev, .. } | D::LinkMissing { netdev, .. } => Some(netdev.to_string()),
        D::DeviceMissing { item, .. }
        | D::Changed { item, .. }
        | D::NoGuest { item, .. }
        | D::Dirty { item, .. }
        | D::UnreadableRecord { item, .. } => Some(item.to_string()),
        D::OnVfio { address, .. } | D::LeftSettings { address, .. } => Some(address.to_string()),
        D::Unknown { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use assign::{Holder, MacvtapPreparation, Origin, Preparation, Vhost};
    use conf::{DirectMode, MacAddress};
    use host::{Fault, Links as _, Operation, SimulatedHost, TapQueues};

    use super::*;
    use crate::lender::{Borrower, Wanted};

    const EBUSY: i32 = 16;
    const MAC: MacAddress = MacAddress::new([0x52, 0x54, 0, 0, 0, 1]);

    /// A macvtap that an earlier daemon made, and whose record is gone; and the next daemon's lender.
    async fn orphaned() -> (SimulatedHost, Lender, tempfile::TempDir) {
        let host = SimulatedHost::new("pfs=1,vfs=1".parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("devices");
        let open = || Lender::open(Arc::new(host.clone()), journal.clone(), None).unwrap();
        let before = open();
        let borrower = Borrower {
            owner: Holder {
                guest: Uuid::from_u128(1),
                name: "web".to_owned(),
                network: None,
                port: None,
                mac: Some(MAC),
                alias: None,
                attachment: None,
            },
            origin: Origin::Interface,
        };
        let sim0 = before.device_named("sim0").unwrap();
        let claim = before.claim(Wanted::Share(sim0), &borrower).unwrap();
        let macvtap = MacvtapPreparation {
            lower: "sim0".parse().unwrap(),
            mode: DirectMode::Bridge,
            name: None,
            mac: MAC,
            vf: None,
            queues: TapQueues {
                count: 1,
                vnet_hdr: true,
            },
            vhost: Vhost::Never,
            mtu: None,
            bandwidth: None,
            all_multicast: false,
            profile: None,
        };
        let prepared = before.prepare(claim, Preparation::Macvtap(macvtap)).await;
        // As at a crash, nothing is given back.
        let lent = prepared.unwrap();
        drop((lent, before));
        for record in fs::read_dir(&journal).unwrap() {
            let path = record.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "json") {
                fs::remove_file(path).unwrap();
            }
        }
        let after = open();
        (host, after, dir)
    }

    #[tokio::test]
    async fn an_orphan_is_removed_only_if_that_is_asked_for() {
        let (host, lender, _dir) = orphaned().await;
        let found = lender.differences(|_| false);
        let [orphan] = &*found else {
            panic!("{found:?}")
        };
        assert_eq!(device_of(orphan).as_deref(), Some("macvtap0"));
        assert_eq!(mended(&lender, orphan, false), Outcome::Left);
        assert!(host.netdev("macvtap0").is_ok());
        assert_eq!(mended(&lender, orphan, true), Outcome::Mended);
        assert!(host.netdev("macvtap0").is_err());
        assert_eq!(lender.differences(|_| false), []);
    }

    #[tokio::test]
    async fn what_a_running_guest_may_need_is_left_alone() {
        let (host, lender, _dir) = orphaned().await;
        let found = lender.differences(|_| true);
        assert_eq!(mended(&lender, &found[0], true), Outcome::Left);
        assert!(host.netdev("macvtap0").is_ok());
    }

    #[tokio::test]
    async fn a_refusal_of_the_kernel_is_told_and_the_difference_stays() {
        let (host, lender, _dir) = orphaned().await;
        let found = lender.differences(|_| false);
        host.fail(Fault::of(Operation::DeleteLink, EBUSY).always());
        let Outcome::Failed(reason) = mended(&lender, &found[0], true) else {
            panic!("mended")
        };
        assert!(reason.contains("macvtap0"), "{reason}");
        assert!(reason.contains("busy"), "{reason}");
        assert_eq!(lender.differences(|_| false), found);
    }
}
