//! Bringing a VF's settings, driver and MAC back to what was found.

use conf::{MacAddress, PciAddress};
use host::{Host, HostError, VfSetting, VfState, VirtualFunction};

use crate::device::Item;
use crate::error::UndoFault;
use crate::patience::{insist, patiently};
use crate::record::VfWork;
use crate::settings::{describe, differing, told};

pub(crate) const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();
pub(crate) const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
pub(crate) const EADDRNOTAVAIL: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();

/// What went wrong on the way back.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Faults that leave their mark whatever is read afterwards.
    pub(crate) certain: Vec<UndoFault>,
    /// Faults that don't matter where all is read to be as it was found.
    pub(crate) doubtful: Vec<UndoFault>,
    /// What was read that is not as it was found.
    pub(crate) differences: Vec<UndoFault>,
}

impl Faults {
    pub(crate) fn certain(&mut self, outcome: Result<(), HostError>) {
        self.certain.extend(outcome.err().map(UndoFault::Host));
    }

    pub(crate) fn doubtful(&mut self, outcome: Result<(), HostError>) {
        self.doubtful.extend(outcome.err().map(UndoFault::Host));
    }

    /// `was` was found at first, and `is` is so now.
    pub(crate) fn differs(&mut self, was: String, is: String) {
        self.differences.push(UndoFault::NotRestored { was, is });
    }

    pub(crate) fn are_none(&self) -> bool {
        self.certain.is_empty() && self.doubtful.is_empty()
    }

    /// The device is the truth: where all is read to be as it was found, a step that failed on
    /// the way is no fault.
    pub(crate) fn settle(self, item: Item) -> Vec<UndoFault> {
        let mut faults = self.certain;
        if faults.is_empty() && self.differences.is_empty() {
            for fault in self.doubtful {
                tracing::warn!(%item, %fault, "restored in spite of this");
            }
            return Vec::new();
        }
        faults.extend(self.doubtful);
        faults.extend(self.differences);
        faults
    }
}

/// The restoration of one PCI function.
pub(crate) struct FunctionRestorer<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) address: PciAddress,
    /// The driver that it had.
    pub(crate) host_driver: Option<&'a str>,
    /// It was not taken from that driver, and whoever gave it to another since meant it.
    pub(crate) leaves_driver: bool,
    /// Where it is a VF: its settings.
    pub(crate) vf: Option<&'a VfWork>,
    pub(crate) faults: Faults,
    /// The MAC that was set because the driver takes no zeroes.
    stand_in: Option<MacAddress>,
}

impl<'a> FunctionRestorer<'a> {
    pub(crate) fn new(
        host: &'a dyn Host,
        address: PciAddress,
        host_driver: Option<&'a str>,
        vf: Option<&'a VfWork>,
    ) -> Self {
        Self {
            host,
            address,
            host_driver,
            leaves_driver: false,
            vf,
            faults: Faults::default(),
            stand_in: None,
        }
    }

    /// What is set through the PF. Before the driver: it takes up what it finds when it is bound.
    pub(crate) fn settings(&mut self) {
        let Some(VfWork { vf, original, .. }) = self.vf else {
            return;
        };
        let state = match self.host.vf_state(vf) {
            Ok(state) => state,
            Err(error) => return self.faults.doubtful(Err(error)),
        };
        for (setting, _) in differing(&told(original), &state).into_iter().rev() {
            let set = match setting {
                VfSetting::Mac(_) if self.is_mac(state.mac) => Ok(()),
                VfSetting::Mac(mac) if mac.is_zero() || self.lifts_first() => {
                    self.no_mac(vf, original)
                }
                _ => insist(|| self.host.set_vf(vf, setting)),
            };
            self.faults.doubtful(set);
        }
    }

    /// Whether the guest's MAC has to be lifted before the VF's driver is bound, and its own network
    /// device gets its own one, before the PF gives it the one that was found. Otherwise the driver
    /// takes up what the PF gave it, and is held to it as before.
    fn lifts_first(&self) -> bool {
        self.vf.is_some_and(|work| {
            let own = work.original.netdev.as_ref().map(|(_, own)| *own);
            own.is_some_and(|own| own != work.original.mac || work.mac_given == Some(false))
        })
    }

    /// Takes the MAC from a VF that had none, or gets its own one first. Some drivers refuse zeroes; then the VF gets for good
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

    /// Gives it back to its driver.
    pub(crate) fn driver(&mut self) {
        let unbound = self.host.unbind(self.address, self.host_driver);
        // An override left behind can't be read back.
        self.faults.certain(unbound);
    }

    /// A driver that found no MAC makes a new one up; the network device gets its old one.
    pub(crate) fn netdev_mac(&mut self) {
        let set = self.set_netdev_mac();
        self.faults.doubtful(set);
    }

    fn set_netdev_mac(&mut self) -> Result<(), HostError> {
        let Some(VfWork { vf, original, .. }) = self.vf else {
            return Ok(());
        };
        let Some((_, mac)) = &original.netdev else {
            return Ok(());
        };
        let host = self.host;
        let set = || match host.vf_state(vf)?.netdev {
            Some((name, now)) if now != *mac => host.set_netdev_mac(&name, *mac),
            _ => Ok(()),
        };
        match insist(set) {
            // Its PF holds it to another one: the guest's own was the one that was found.
            Err(error) if is_locked(&error) => {
                self.no_mac(vf, original)?;
                insist(set)
            }
            settled => settled,
        }
    }

    /// The MAC that the PF had given, last: while it stands the VF can't change its own.
    pub(crate) fn admin_mac(&mut self) {
        let Some(VfWork { vf, original, .. }) = self.vf else {
            return;
        };
        let set = match self.host.vf_state(vf) {
            Ok(now) if now.mac != original.mac && !original.mac.is_zero() => {
                insist(|| self.host.set_vf(vf, VfSetting::Mac(original.mac)))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        self.faults.doubtful(set);
    }

    /// Reads what is so now.
    pub(crate) fn verify(&mut self) {
        let read = match self.vf {
            Some(VfWork { vf, original, .. }) => patiently(|| {
                let state = self.host.vf_state(vf)?;
                let differences = self.differences(original, &state);
                // What is known to have failed is not waited for.
                let will_do = differences.is_empty() || !self.faults.are_none();
                Ok((differences, will_do))
            }),
            None => self.plain_differences(),
        };
        match read {
            Ok(differences) => {
                for (was, is) in differences {
                    self.faults.differs(was, is);
                }
            }
            Err(error) => self.faults.certain(Err(error)),
        }
    }

    fn plain_differences(&self) -> Result<Vec<(String, String)>, HostError> {
        let found = self.host.pci_device(self.address)?.driver;
        Ok(self
            .driver_difference(found.as_deref())
            .into_iter()
            .collect())
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
        if self.leaves_driver && found.driver.as_deref() != self.host_driver {
            return all; // its network device is that driver's
        }
        all.extend(self.driver_difference(found.driver.as_deref()));
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
        self.vf.is_some_and(|VfWork { original, .. }| {
            let is_own = || (original.netdev.as_ref()).is_some_and(|(_, own)| *own == mac);
            let had_none = original.mac.is_zero();
            mac == original.mac || (had_none && (self.stand_in == Some(mac) || is_own()))
        })
    }

    fn driver_difference(&self, found: Option<&str>) -> Option<(String, String)> {
        let was = self.host_driver;
        (was != found && !self.leaves_driver).then(|| (driver_name(was), driver_name(found)))
    }
}

/// A driver in words.
pub(crate) fn driver_name(driver: Option<&str>) -> String {
    driver.map_or_else(|| "no driver".to_owned(), |name| format!("driver {name}"))
}

/// A VF's driver refuses a MAC because its PF has set another.
pub(crate) fn is_locked(error: &HostError) -> bool {
    matches!(error.errno(), Some(EPERM | EADDRNOTAVAIL))
}

/// Takes a function from its driver and gives it back, so that the driver looks at it anew. Cut
/// short, it has no driver.
pub(crate) fn rebind(
    host: &dyn Host,
    address: PciAddress,
    driver: Option<&str>,
) -> Result<(), HostError> {
    host.unbind(address, None)?;
    host.unbind(address, driver)
}
