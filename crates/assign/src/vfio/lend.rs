//! Lending a PCI function by vfio.

use host::Host;

use crate::assigner::Assigner;
use crate::error::Obstacle;
use crate::list::InHand;
use crate::patience::insist;
use crate::plan::ItemPlan;
use crate::prepare::LentKind;
use crate::record::{Record, VfioWork};
use crate::settings::read_back;
use crate::step::Step;
use crate::vf::driver_name;

impl Assigner {
    pub(crate) fn lend_vfio(
        &self,
        in_hand: &InHand<'_>,
        plan: &ItemPlan,
        vfio: &VfioWork,
        record: &mut Record,
    ) -> Result<LentKind, Obstacle> {
        let host = &*self.host.0;
        let is_grant = |step: &&Step| matches!(step, Step::Grant { .. });
        // Nobody else opens the device before all of it was read back.
        for step in plan.steps.iter().filter(|step| !is_grant(step)) {
            match (step, &vfio.vf) {
                (Step::Set(setting), Some(work)) => {
                    insist(|| host.set_vf(&work.vf, *setting))?;
                }
                (Step::Bind { driver }, _) => host.bind(vfio.address, driver)?,
                (Step::Profile { action, .. }, _) => self.join(in_hand, record, *action)?,
                // There are no others for vfio.
                _ => {}
            }
        }
        self.read_back_vfio(vfio)?;
        self.grant(vfio)?;
        Ok(LentKind::Vfio {
            address: vfio.address,
            vf: vfio.vf.as_ref().map(|work| work.vf.clone()),
            group: vfio.group,
            driver: vfio.driver.clone(),
        })
    }

    fn read_back_vfio(&self, vfio: &VfioWork) -> Result<(), Obstacle> {
        let host: &dyn Host = &*self.host.0;
        let driver = match &vfio.vf {
            Some(work) => read_back(host, work)?.driver,
            None => host.pci_device(vfio.address)?.driver,
        };
        if driver.as_deref() == Some(&vfio.driver) {
            return Ok(());
        }
        Err(Obstacle::NotKept {
            wanted: driver_name(Some(&vfio.driver)),
            found: driver_name(driver.as_deref()),
        })
    }
}
