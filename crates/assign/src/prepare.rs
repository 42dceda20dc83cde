//! Lending a device.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conf::PciAddress;
use host::{Host, HostError, VirtualFunction};

use crate::assigner::{Assigner, Claim, InHand};
use crate::config::Preparation;
use crate::device::{DeviceId, Generation};
use crate::error::{Obstacle, PrepareError};
use crate::journal::{Record, Stage};
use crate::plan::{Plan, Step};
use crate::settings::{describe, differing};

/// A device that is the guest's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lent device has to be given back"]
pub struct Lent {
    /// Which device.
    pub address: PciAddress,
    /// What gives it back.
    pub generation: Generation,
    /// PF and number, if it is a VF.
    pub vf: Option<VirtualFunction>,
    /// Its IOMMU group: `/dev/vfio/GROUP`.
    pub group: u32,
    /// The driver that it has.
    pub driver: String,
}

impl Assigner {
    /// Prepares a claimed device for its guest: checks ([`Assigner::plan`]), records what it is
    /// about to do and what it found, makes each change, and reads all of it back.
    ///
    /// Any failure undoes what was done, through further failures, and takes the device off the
    /// list; if not all could be undone it stays there, dirty. The claim is used up either way.
    pub fn prepare(&self, claim: Claim, preparation: &Preparation) -> Result<Lent, PrepareError> {
        let device = claim.device;
        let in_hand = self.take_claimed(&claim).map_err(|obstacle| PrepareError {
            device,
            guest: self.find(device).map_or_else(String::new, |a| a.owner.name),
            obstacle,
            undo: Vec::new(),
        })?;
        let guest = in_hand.owner.name.clone();
        let refused = |obstacle, undo| PrepareError {
            device,
            guest,
            obstacle,
            undo,
        };
        let (record, plan) = match self.begin(&in_hand, preparation) {
            Ok(begun) => begun,
            Err(obstacle) => {
                in_hand.free();
                return Err(refused(obstacle, Vec::new()));
            }
        };
        match self.carry_out(&plan, record.clone()) {
            Ok(record) => {
                let lent = Lent {
                    address: plan.address,
                    generation: record.generation,
                    vf: plan.vf,
                    group: plan.group,
                    driver: plan.driver,
                };
                in_hand.note(&record);
                in_hand.lent();
                Ok(lent)
            }
            Err(obstacle) => {
                let restored = self.restore(&record);
                if restored.is_clean() {
                    in_hand.free();
                    return Err(refused(obstacle, Vec::new()));
                }
                in_hand.dirty(restored.reasons());
                Err(refused(obstacle, restored.faults))
            }
        }
    }

    /// Everything up to the first change: checks, and the record of what is about to be done.
    fn begin(
        &self,
        in_hand: &InHand<'_>,
        preparation: &Preparation,
    ) -> Result<(Record, Plan), Obstacle> {
        let plan = self.plan(in_hand.device, &in_hand.owner, preparation)?;
        let bind = (plan.steps.iter()).any(|step| matches!(step, Step::Bind { .. }));
        let record = Record {
            format: Record::FORMAT,
            boot: self.boot.clone(),
            device: DeviceId::Pci(plan.address),
            generation: in_hand.generation,
            stage: Stage::Preparing,
            since: now(),
            owner: in_hand.owner.clone(),
            origin: in_hand.origin,
            group: plan.group,
            vf: plan.vf.clone(),
            driver: plan.driver.clone(),
            bind,
            host_driver: plan.host_driver.clone(),
            original: plan.original.clone(),
            settings: plan.settings.clone(),
        };
        // Known before it is written: whatever happens from here on, there is something to undo.
        in_hand.note(&record);
        self.journal.write(&record)?;
        Ok((record, plan))
    }

    fn carry_out(&self, plan: &Plan, mut record: Record) -> Result<Record, Obstacle> {
        let host = &*self.host.0;
        let is_grant = |step: &&Step| matches!(step, Step::Grant { .. });
        // Nobody else opens the device before all of it was read back.
        for step in plan.steps.iter().filter(|step| !is_grant(step)) {
            take(host, plan, step)?;
        }
        self.read_back(plan)?;
        for step in plan.steps.iter().filter(is_grant) {
            take(host, plan, step)?;
        }
        record.stage = Stage::Lent;
        self.journal.write(&record)?;
        Ok(record)
    }

    fn read_back(&self, plan: &Plan) -> Result<(), Obstacle> {
        let host = &*self.host.0;
        let driver = match &plan.vf {
            Some(vf) if plan.original.is_some() => {
                let found = patiently(|| {
                    let state = host.vf_state(vf)?;
                    let differing = differing(&plan.settings, &state);
                    let kept = differing.is_empty();
                    Ok(((state.driver, differing), kept))
                });
                let (driver, differing) = found?;
                if let Some((wanted, found)) = differing.first() {
                    return Err(Obstacle::NotKept {
                        wanted: describe(*wanted),
                        found: found.map_or_else(|| "nothing".to_owned(), describe),
                    });
                }
                driver
            }
            _ => host.pci_device(plan.address)?.driver,
        };
        if driver.as_deref() == Some(&plan.driver) {
            return Ok(());
        }
        Err(Obstacle::NotKept {
            wanted: format!("driver {}", plan.driver),
            found: driver.map_or_else(|| "no driver".to_owned(), |d| format!("driver {d}")),
        })
    }
}

fn take(host: &dyn Host, plan: &Plan, step: &Step) -> Result<(), HostError> {
    match (step, &plan.vf) {
        (Step::Set(setting), Some(vf)) => insist(|| host.set_vf(vf, *setting)),
        // Only VFs have settings.
        (Step::Set(_), None) => Ok(()),
        (Step::Bind { driver }, _) => host.bind(plan.address, driver),
        (Step::Grant { group, user }, _) => host.grant_vfio(*group, user.uid, user.gid),
    }
}

/// How long to wait for a driver that is not ready, try by try: about a second in all.
const PAUSES: [u64; 7] = [2, 8, 32, 64, 128, 256, 512];

const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;

/// Tries again where the driver says "not now": a VF in reset (i40e, ice) refuses its settings
/// for some milliseconds, and no event tells when that is over; or where udev has just given a
/// network device another name.
pub(crate) fn insist(mut attempt: impl FnMut() -> Result<(), HostError>) -> Result<(), HostError> {
    for pause in PAUSES {
        match attempt() {
            Err(HostError::NoNetdev(_)) => wait(pause),
            Err(error) if matches!(error.errno(), Some(EAGAIN | EBUSY)) => wait(pause),
            settled => return settled,
        }
    }
    attempt()
}

/// Reads until what is read will do, or time is up; then takes what there is. Some drivers take
/// settings over with a delay, and no event tells when.
pub(crate) fn patiently<T>(
    mut read: impl FnMut() -> Result<(T, bool), HostError>,
) -> Result<T, HostError> {
    for pause in &PAUSES[..5] {
        let (value, will_do) = read()?;
        if will_do {
            return Ok(value);
        }
        wait(*pause);
    }
    read().map(|(value, _)| value)
}

fn wait(milliseconds: u64) {
    std::thread::park_timeout(Duration::from_millis(milliseconds));
}

fn now() -> u64 {
    // A clock before 1970 is shown as 1970.
    (SystemTime::now().duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs())
}
