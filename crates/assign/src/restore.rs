//! Taking a device back: whatever state it is in now, it gets the one that it was found in.

use conf::MacAddress;
use host::{Host, HostError, Usage, VfSetting, VfState, VirtualFunction};

use crate::assigner::Assigner;
use crate::device::{Assignment, DeviceId, Generation, Origin, Owner};
use crate::error::{ReturnError, UndoFault};
use crate::journal::{Record, Stage};
use crate::plan::is_vfio;
use crate::prepare::{insist, patiently};
use crate::settings::{describe, differing, told};

/// A device that is nobody's again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// Which.
    pub device: DeviceId,
    /// Whose it was.
    pub owner: Owner,
    /// What had asked for it.
    pub origin: Origin,
    /// It was not there any more, so that there was nothing to restore.
    pub vanished: bool,
}

/// How a restoration went.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// What is not as it was found, and why. Empty: all is, and the record is gone.
    pub(crate) faults: Vec<UndoFault>,
    /// The device is not there.
    pub(crate) vanished: bool,
}

impl Restored {
    pub(crate) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn reasons(&self) -> Vec<String> {
        self.faults.iter().map(UndoFault::to_string).collect()
    }
}

impl Assigner {
    /// Takes back what has that generation: a claim, a lent device, or a dirty one (once more).
    ///
    /// The reverse of preparing, whatever of it was done: settings as they were found, then the
    /// driver that it had, then its own network device's MAC; each further step is taken though
    /// one failed. Then all of it is read, and only if it is as it was found the record goes and
    /// the device is off the list. An older generation than the device's present one is refused.
    ///
    /// The guest's process has to be gone: as long as one has the vfio group open nothing is
    /// changed ([`ReturnError::Untouched`]).
    pub fn give_back(&self, generation: Generation) -> Result<Returned, ReturnError> {
        let (in_hand, mut record) = match self.take_back(generation)? {
            Ok(lent) => lent,
            Err(Assignment {
                device,
                owner,
                origin,
                ..
            }) => {
                return Ok(Returned {
                    device,
                    owner,
                    origin,
                    vanished: false,
                });
            }
        };
        let (device, owner, origin) = (in_hand.device, in_hand.owner.clone(), in_hand.origin);
        if let Err(fault) = self.nobody_holds(&record) {
            in_hand.untouched();
            return Err(ReturnError::Untouched {
                device,
                guest: owner.name,
                fault,
            });
        }
        // So that a restart does not take it for lent. On a full disk it may: still better than a
        // device that can't be given back.
        record.stage = Stage::Returning;
        if let Err(error) = self.journal.write(&record) {
            tracing::warn!(%device, %error, reason = %error.source, "the return is not recorded");
        }
        in_hand.note(&record);
        let restored = self.restore(&record);
        if restored.is_clean() {
            in_hand.free();
            return Ok(Returned {
                device,
                owner,
                origin,
                vanished: restored.vanished,
            });
        }
        in_hand.dirty(restored.reasons());
        Err(ReturnError::Dirty {
            device,
            guest: owner.name,
            faults: restored.faults,
        })
    }

    /// Brings a device from any state between "as found" and "lent" back to "as found", verifies
    /// that, and removes the record. What is as it was found already is not touched, so that this
    /// can be done again after it was cut short.
    pub(crate) fn restore(&self, record: &Record) -> Restored {
        let mut restored = Restored::default();
        let host = &*self.host.0;
        let DeviceId::Pci(address) = record.device;
        if let Err(HostError::NoPciDevice(_)) = host.pci_device(address) {
            restored.vanished = true;
            return self.close(record, restored);
        }
        if let Err(fault) = self.nobody_holds(record) {
            restored.faults.push(fault);
            return restored;
        }
        let mut work = Work::new(host, record);
        work.settings();
        work.driver();
        if let Some(fault) = self.revoke(record) {
            work.certain.push(fault);
        }
        work.netdev_mac();
        work.verify();
        restored.faults = work.into_faults();
        if restored.is_clean() {
            return self.close(record, restored);
        }
        restored
    }

    fn close(&self, record: &Record, mut restored: Restored) -> Restored {
        if let Err(error) = self.journal.remove(record.device) {
            restored.faults.push(error.into());
        }
        restored
    }

    /// Unbinding a device that a process has open would block until it lets go, and changing its
    /// settings would hit a guest that runs.
    fn nobody_holds(&self, record: &Record) -> Result<(), UndoFault> {
        let Some(vf) = &record.vf else { return Ok(()) };
        if self.shares_group(record.device, record.group) {
            // The open group may be for the other device.
            return Ok(());
        }
        let usages = match self.host.0.vf_usage(vf) {
            Err(HostError::NoPciDevice(_)) => return Ok(()),
            other => other?,
        };
        let open = usages.iter().find_map(|usage| match usage {
            Usage::VfioOpen { group } => Some(*group),
            _ => None,
        });
        open.map_or(Ok(()), |group| Err(UndoFault::StillOpen { group }))
    }

    /// A vfio group that was there before is root's again.
    fn revoke(&self, record: &Record) -> Option<UndoFault> {
        let stays = record.host_driver.as_deref().is_some_and(is_vfio);
        if self.vfio_user.is_none() || !stays || self.shares_group(record.device, record.group) {
            return None;
        }
        let revoked = self.host.0.grant_vfio(record.group, 0, 0);
        revoked.err().map(UndoFault::Host)
    }
}

const EINVAL: i32 = 22;
const EADDRNOTAVAIL: i32 = 99;

/// The steps of one restoration.
struct Work<'a> {
    host: &'a dyn Host,
    record: &'a Record,
    /// Faults that leave their mark whatever is read afterwards.
    certain: Vec<UndoFault>,
    /// Faults that don't matter where all is read to be as it was found.
    doubtful: Vec<UndoFault>,
    /// What was read that is not as it was found.
    differences: Vec<UndoFault>,
    /// The MAC that was set because the driver takes no zeroes.
    stand_in: Option<MacAddress>,
}

impl<'a> Work<'a> {
    fn new(host: &'a dyn Host, record: &'a Record) -> Self {
        Self {
            host,
            record,
            certain: Vec::new(),
            doubtful: Vec::new(),
            differences: Vec::new(),
            stand_in: None,
        }
    }

    fn vf(&self) -> Option<(&'a VirtualFunction, &'a VfState)> {
        self.record.vf.as_ref().zip(self.record.original.as_ref())
    }

    /// Before the driver: it takes up what it finds when it is bound.
    fn settings(&mut self) {
        let Some((vf, original)) = self.vf() else {
            return;
        };
        let state = match self.host.vf_state(vf) {
            Ok(state) => state,
            Err(error) => return self.doubtful.push(error.into()),
        };
        for (setting, _) in differing(&told(original), &state).into_iter().rev() {
            let set = match setting {
                VfSetting::Mac(_) if self.is_mac(state.mac) => Ok(()),
                VfSetting::Mac(mac) if mac.is_zero() => self.no_mac(vf, original),
                _ => insist(|| self.host.set_vf(vf, setting)),
            };
            if let Err(error) = set {
                self.doubtful.push(error.into());
            }
        }
    }

    /// Takes the MAC from a VF that had none. Some drivers refuse zeroes; then the VF gets for good
    /// the one that its own network device had, or one that nothing else has: all is better than
    /// the guest's.
    fn no_mac(&mut self, vf: &VirtualFunction, original: &VfState) -> Result<(), HostError> {
        let set = |mac| insist(|| self.host.set_vf(vf, VfSetting::Mac(mac)));
        let Err(refusal) = set(MacAddress::ZERO) else {
            return Ok(());
        };
        if !matches!(refusal.errno(), Some(EINVAL | EADDRNOTAVAIL)) {
            return Err(refusal);
        }
        let own = original.netdev.as_ref().map(|(_, mac)| *mac);
        let stand_in = own.unwrap_or_else(MacAddress::random);
        set(stand_in)?;
        self.stand_in = Some(stand_in);
        Ok(())
    }

    fn driver(&mut self) {
        if !self.record.bind {
            return;
        }
        let DeviceId::Pci(address) = self.record.device;
        let expect = self.record.host_driver.as_deref();
        if let Err(error) = self.host.unbind(address, expect) {
            // An override left behind can't be read back.
            self.certain.push(error.into());
        }
    }

    /// A driver that found no MAC makes a new one up; the network device gets its old one.
    fn netdev_mac(&mut self) {
        let Some((vf, original)) = self.vf() else {
            return;
        };
        let Some((_, mac)) = &original.netdev else {
            return;
        };
        let set = insist(|| match self.host.vf_state(vf)?.netdev {
            Some((name, now)) if now != *mac => self.host.set_netdev_mac(&name, *mac),
            _ => Ok(()),
        });
        if let Err(error) = set {
            self.doubtful.push(error.into());
        }
    }

    fn verify(&mut self) {
        let read = match self.vf() {
            Some((vf, original)) => patiently(|| {
                let state = self.host.vf_state(vf)?;
                let differences = self.differences(original, &state);
                // What is known to have failed is not waited for.
                let failed = !self.certain.is_empty() || !self.doubtful.is_empty();
                let will_do = differences.is_empty() || failed;
                Ok((differences, will_do))
            }),
            None => self.plain_differences(),
        };
        match read {
            Ok(differences) => {
                let differences = differences.into_iter();
                (self.differences)
                    .extend(differences.map(|(was, is)| UndoFault::NotRestored { was, is }));
            }
            Err(error) => self.certain.push(error.into()),
        }
    }

    fn plain_differences(&self) -> Result<Vec<(String, String)>, HostError> {
        let DeviceId::Pci(address) = self.record.device;
        let found = self.host.pci_device(address)?.driver;
        Ok(self.driver_difference(found).into_iter().collect())
    }

    fn differences(&self, original: &VfState, found: &VfState) -> Vec<(String, String)> {
        let mut all: Vec<_> = differing(&told(original), found)
            .into_iter()
            .filter(|(was, _)| !(matches!(was, VfSetting::Mac(_)) && self.is_mac(found.mac)))
            .map(|(was, is)| {
                let is = is.map_or_else(|| "nothing told".to_owned(), describe);
                (describe(was), is)
            })
            .collect();
        all.extend(self.driver_difference(found.driver.clone()));
        let netdev = |netdev: &Option<(String, MacAddress)>| match netdev {
            Some((_, mac)) => format!("a network device with MAC {mac}"),
            None => "no network device".to_owned(),
        };
        let mac = |netdev: &Option<(String, MacAddress)>| netdev.as_ref().map(|(_, mac)| *mac);
        if mac(&original.netdev) != mac(&found.netdev) {
            all.push((netdev(&original.netdev), netdev(&found.netdev)));
        }
        all
    }

    /// The MAC that it had; or, where it had none, the one that its own driver chose then, which
    /// some PFs tell as theirs as soon as they hear of it.
    fn is_mac(&self, mac: MacAddress) -> bool {
        let original = self.record.original.as_ref();
        original.is_some_and(|original| {
            mac == original.mac
                || self.stand_in == Some(mac)
                || (original.netdev.as_ref()).is_some_and(|(_, own)| *own == mac)
        })
    }

    fn driver_difference(&self, found: Option<String>) -> Option<(String, String)> {
        let name = |driver: Option<&str>| {
            driver.map_or_else(|| "no driver".to_owned(), |name| format!("driver {name}"))
        };
        let was = self.record.host_driver.as_deref();
        (was != found.as_deref()).then(|| (name(was), name(found.as_deref())))
    }

    /// The device is the truth: where all is read to be as it was found, a step that failed on
    /// the way is no fault.
    fn into_faults(self) -> Vec<UndoFault> {
        let mut faults = self.certain;
        if faults.is_empty() && self.differences.is_empty() {
            for fault in self.doubtful {
                tracing::warn!(device = %self.record.device, %fault, "restored in spite of this");
            }
            return Vec::new();
        }
        faults.extend(self.doubtful);
        faults.extend(self.differences);
        faults
    }
}
