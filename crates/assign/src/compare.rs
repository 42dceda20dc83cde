//! What is lent, as it was lent, and as it is.

use conf::NetdevName;
use host::{Host, HostError};

use crate::access;
use crate::assigner::Assigner;
use crate::link::{LowerNow, find_link, lower_now, name_of};
use crate::record::{LinkWork, Record, VfWork, VfioWork, Work};
use crate::settings::{describe, differing};
use crate::usb::compare_usb;
use crate::vf::driver_name;

/// Something that is not as the record says.
#[derive(Debug)]
pub(crate) enum Deviation {
    /// Set otherwise.
    Differs {
        /// As it was lent.
        wanted: String,
        /// As it is.
        found: String,
    },
    /// The device is not there.
    DeviceGone,
    /// The link is not there.
    LinkGone(NetdevName),
    /// It could not be looked at.
    Unknown(HostError),
}

impl Assigner {
    /// What is not so of what the record of a lent item says. Reads only.
    pub(crate) fn compare(&self, record: &Record) -> Vec<Deviation> {
        let host = &*self.host.0;
        let found = match &record.work {
            Work::Vfio(vfio) => compare_vfio(host, vfio),
            Work::Link(link) => compare_link(host, link, &self.tag_of(record)),
            Work::Usb(usb) => compare_usb(host, usb),
        };
        found.unwrap_or_else(|error| match error {
            HostError::NoPciDevice(_) | HostError::NoUsbDevice(_) => vec![Deviation::DeviceGone],
            error => vec![Deviation::Unknown(error)],
        })
    }
}

fn compare_vfio(host: &dyn Host, vfio: &VfioWork) -> Result<Vec<Deviation>, HostError> {
    let (driver, mut found) = match &vfio.vf {
        Some(work) => compare_vf(host, work)?,
        None => (host.pci_device(vfio.address)?.driver, Vec::new()),
    };
    if driver.as_deref() != Some(&vfio.driver) {
        found.push(Deviation::Differs {
            wanted: driver_name(Some(&vfio.driver)),
            found: driver_name(driver.as_deref()),
        });
    }
    if let Some(node) = vfio.node
        && let Some(now) = host.vfio_access(vfio.group)?
        && now != node.granted
    {
        found.push(Deviation::Differs {
            wanted: access::describe(node.granted),
            found: access::describe(now),
        });
    }
    Ok(found)
}

fn compare_vf(
    host: &dyn Host,
    work: &VfWork,
) -> Result<(Option<String>, Vec<Deviation>), HostError> {
    let state = host.vf_state(&work.vf)?;
    let differing = differing(&work.settings, &state).into_iter();
    let found = differing.map(|(wanted, found)| Deviation::Differs {
        wanted: describe(wanted),
        found: found.map_or_else(|| "nothing told".to_owned(), describe),
    });
    let found = found.collect();
    Ok((state.driver, found))
}

/// Its MAC is not compared: a guest may have changed it, where it is trusted to.
fn compare_link(host: &dyn Host, link: &LinkWork, tag: &str) -> Result<Vec<Deviation>, HostError> {
    if let Some(lower) = &link.lower
        && matches!(lower_now(host, lower)?, LowerNow::Gone)
    {
        return Ok(vec![Deviation::DeviceGone]);
    }
    let Some(netdev) = find_link(host, link, tag)? else {
        return Ok(vec![Deviation::LinkGone(link.name)]);
    };
    let mut found = match link.whole().and_then(|whole| whole.vf.as_ref()) {
        Some(work) => compare_vf(host, work)?.1,
        None => Vec::new(),
    };
    if !link.existing && netdev.master != link.bridge_index {
        let bridge = |bridge: Option<u32>, name: Option<NetdevName>| match (bridge, name) {
            (None, _) => "no bridge".to_owned(),
            (Some(_), Some(name)) => format!("bridge {name}"),
            (Some(index), None) => format!("bridge {}", name_of(host, index)),
        };
        found.push(Deviation::Differs {
            wanted: bridge(link.bridge_index, link.bridge),
            found: bridge(netdev.master, None),
        });
    }
    Ok(found)
}
