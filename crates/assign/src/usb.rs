//! USB devices, lent whole. QEMU takes their interfaces from the host's drivers itself, through the
//! device's node; it only has to be let open that.

use conf::{DeviceId, UsbAddress};
use host::{GuestGroup, Host, HostError, UsbInterface};

use crate::access::describe;
use crate::assigner::Assigner;
use crate::compare::Deviation;
use crate::device::Item;
use crate::error::{Obstacle, UndoFault};
use crate::plan::ItemPlan;
use crate::prepare::LentKind;
use crate::record::{Record, UsbWork, Work};
use crate::restore::Restored;
use crate::step::Step;
use crate::vf::{Faults, driver_name};

impl Assigner {
    pub(crate) fn plan_usb(
        &self,
        address: UsbAddress,
        group: Option<GuestGroup>,
    ) -> Result<ItemPlan, Obstacle> {
        let host = &*self.host.0;
        let device = host.usb_device(address)?;
        if device.is_hub {
            return Err(Obstacle::UsbHub { address });
        }
        // QEMU would take its interfaces from the drivers, whatever is mounted.
        let usages = host.usb_usage(address.bus().into(), address.device().into())?;
        if !usages.is_empty() {
            return Err(Obstacle::InUse(usages));
        }
        let found = host.usb_access(address)?;
        let granted = self.access_for(group);
        let steps = granted.map(|_| Step::GrantUsb { address });
        Ok(ItemPlan {
            item: Item::Device(DeviceId::Usb(address)),
            steps: steps.into_iter().collect(),
            work: Work::Usb(UsbWork {
                address,
                found,
                granted,
                interfaces: device.interfaces,
            }),
        })
    }

    pub(crate) fn lend_usb(&self, usb: &UsbWork) -> Result<LentKind, Obstacle> {
        let host = &*self.host.0;
        if let Some(granted) = usb.granted {
            host.set_usb_access(usb.address, granted)?;
            let kept = host.usb_access(usb.address)?;
            if kept != granted {
                return Err(Obstacle::NotKept {
                    wanted: describe(granted),
                    found: describe(kept),
                });
            }
        }
        // It may have been pulled out, and another one be plugged in, before that.
        host.usb_device(usb.address)?;
        Ok(LentKind::Usb {
            address: usb.address,
        })
    }

    pub(crate) fn restore_usb(&self, record: &Record, usb: &UsbWork) -> Restored {
        let host = &*self.host.0;
        let mut faults = Faults::default();
        match restore(host, usb, &mut faults) {
            Ok(()) => Restored {
                faults: faults.settle(record.item),
                vanished: false,
            },
            // Its node went with it.
            Err(HostError::NoUsbDevice(_)) => Restored {
                faults: Vec::new(),
                vanished: true,
            },
            Err(error) => Restored {
                faults: vec![UndoFault::Host(error)],
                vanished: false,
            },
        }
    }
}

fn restore(host: &dyn Host, usb: &UsbWork, faults: &mut Faults) -> Result<(), HostError> {
    let address = usb.address;
    host.usb_device(address)?;
    if usb.granted.is_some() && host.usb_access(address)? != usb.found {
        faults.doubtful(host.set_usb_access(address, usb.found));
    }
    // A QEMU that was killed gave no interface back.
    if !left(usb, &host.usb_device(address)?.interfaces).is_empty() {
        faults.doubtful(host.probe_usb(address));
    }
    let now = host.usb_device(address)?;
    for interface in left(usb, &now.interfaces) {
        faults.differs(
            format!(
                "{} for {}",
                driver_name(interface.driver.as_deref()),
                interface.name
            ),
            driver_name(None),
        );
    }
    let access = host.usb_access(address)?;
    if usb.granted.is_some() && access != usb.found {
        faults.differs(describe(usb.found), describe(access));
    }
    Ok(())
}

/// The interfaces that a driver had, and that none has now. Another configuration of the device has
/// others.
fn left<'a>(usb: &'a UsbWork, now: &[UsbInterface]) -> Vec<&'a UsbInterface> {
    let is_left = |found: &&UsbInterface| {
        let same = now.iter().find(|one| one.name == found.name);
        found.driver.is_some() && same.is_some_and(|same| same.driver.is_none())
    };
    usb.interfaces.iter().filter(is_left).collect()
}

pub(crate) fn compare_usb(host: &dyn Host, usb: &UsbWork) -> Result<Vec<Deviation>, HostError> {
    host.usb_device(usb.address)?;
    let now = host.usb_access(usb.address)?;
    let differs = usb.granted.filter(|granted| *granted != now);
    let differs = differs.map(|granted| Deviation::Differs {
        wanted: describe(granted),
        found: describe(now),
    });
    Ok(differs.into_iter().collect())
}
