//! Devices that come and go: what clients ask for, made into documents. `virsh attach-device` and its
//! kin.

use std::sync::Arc;

use conf::{Device, DeviceRef, FindError, InterfaceSource};
use rpc::flags::{Affect, ModifyDevice};
use rpc::{Code, Error};

use super::QEMU;
use super::change::Edit;
use super::handle::{GuestHandle, Request, Run};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// The device that a client means.
#[derive(Debug, Clone)]
pub(crate) enum Meant {
    /// By a document of it.
    Like(Arc<Device>),
    /// By its alias.
    Alias(String),
}

impl Meant {
    /// Where it is in the document.
    pub(super) fn find(&self, domain: &conf::Domain) -> Result<DeviceRef> {
        let missing = |detail: String| Error::new(Code::DeviceMissing, QEMU, detail);
        match self {
            Self::Like(device) => domain.find_device(device).map_err(|error| match error {
                FindError::None(_) => missing(format!("guest '{}': {error}", domain.name)),
                FindError::Several { .. } => {
                    let detail = format!(
                        "guest '{}': multiple devices matching: {error}",
                        domain.name
                    );
                    Error::new(Code::OperationFailed, QEMU, detail)
                }
            }),
            Self::Alias(alias) => domain.find_alias(alias).ok_or_else(|| {
                missing(format!(
                    "guest '{}' has no device with alias '{alias}'",
                    domain.name
                ))
            }),
        }
    }
}

/// Adds a device to what runs, the definition, or both.
pub(crate) async fn attach_device(
    handle: &GuestHandle,
    xml: &str,
    flags: ModifyDevice,
) -> Result<()> {
    let device = Arc::new(Device::parse(xml).map_err(fault::document(QEMU))?);
    let flags = flags.into();
    handle.request(Request::Attach { flags, device }).await
}

/// Takes a device from what runs, the definition, or both.
pub(crate) async fn detach_device(
    handle: &GuestHandle,
    xml: &str,
    flags: ModifyDevice,
) -> Result<()> {
    let device = Device::parse(xml).map_err(fault::document(QEMU))?;
    detach(handle, Meant::Like(Arc::new(device)), flags, true).await
}

/// The same by its alias; what runs is asked, and not waited for.
pub(crate) async fn detach_alias(
    handle: &GuestHandle,
    alias: String,
    flags: ModifyDevice,
) -> Result<()> {
    detach(handle, Meant::Alias(alias), flags, false).await
}

async fn detach(
    handle: &GuestHandle,
    meant: Meant,
    flags: ModifyDevice,
    waits: bool,
) -> Result<()> {
    let flags = flags.into();
    handle
        .request(Request::Detach {
            flags,
            meant,
            waits,
        })
        .await
}

/// Takes a device out of a definition.
pub(super) fn removal(meant: Meant) -> Edit {
    Edit::new(move |domain, _, _| {
        let place = meant.find(domain)?;
        domain.remove_device(place);
        Ok(())
    })
}

/// The request that takes a device out of the definition alone.
pub(super) fn remove_from_definition(meant: Meant) -> Request {
    Request::Change {
        flags: Affect::CONFIG,
        edit: removal(meant),
    }
}

impl Daemon {
    /// A definition with one device more, filled in as if it had been defined so. Blocks.
    pub(super) fn definition_with(
        &self,
        defined: &conf::Domain,
        device: &Device,
    ) -> Result<conf::Domain> {
        let mut domain = defined.clone();
        let place = add(&mut domain, device)?;
        self.check_new_device(&domain, place)?;
        let kept = (self.make_pairs(&mut domain)).map_err(fault::document(QEMU))?;
        self.filled(domain, &kept)
    }

    /// What runs with one device more, as far as that can be said before it is planned: its defaults, its
    /// alias and its place in the guest. Blocks.
    pub(super) fn running_with(
        &self,
        run: &Run,
        device: &Device,
    ) -> Result<(conf::Domain, DeviceRef)> {
        let mut domain = run.domain.clone();
        let before = domain.unsupported();
        let place = add(&mut domain, device)?;
        self.check_new_device(&domain, place)?;
        let lends = |network: &str| Some(self.networks.by_name(network)?.lends_host_devices());
        let controllers = domain.devices.controllers.len();
        domain.fill_defaults_with(&lends);
        if let Some(added) = domain.devices.controllers.get(controllers..)
            && let Some(controller) = added.first()
        {
            let detail = format!(
                "the running guest has no {} controller with index {} for that device\nAdd one to \
                 its definition, and start it anew.",
                controller.kind, controller.index
            );
            return Err(Error::new(Code::OperationUnsupported, QEMU, detail));
        }
        domain.validate().map_err(fault::document(QEMU))?;
        let unsupported = domain.unsupported().into_iter();
        let unsupported: Vec<_> = unsupported
            .filter(|one| !before.contains(one))
            .map(|one| one.to_string())
            .collect();
        if !unsupported.is_empty() {
            let detail = format!("not carried out: {}", unsupported.join(", "));
            return Err(Error::new(Code::ConfigUnsupported, QEMU, detail));
        }
        let is_host_device = self.is_host_device(&domain, place);
        let attachments = &run.attachments;
        let is_taken = |alias: &str| attachments.iter().any(|one| one.alias == alias);
        domain.name_plugged(place, is_host_device, &is_taken);
        domain
            .place_plugged(place, &|address| self.is_express(address))
            .map_err(fault::document(QEMU))?;
        domain.assign_usb_addresses();
        Ok((domain, place))
    }

    /// Whether a device is one of the host's that is given to the guest, also by a network.
    fn is_host_device(&self, domain: &conf::Domain, place: DeviceRef) -> bool {
        match place {
            DeviceRef::Interface(at) => {
                let interface = domain.devices.interfaces.get(at);
                interface.is_some_and(|interface| match &interface.source {
                    InterfaceSource::Network { network, .. } => (self.networks.by_name(network))
                        .is_some_and(|network| network.lends_host_devices()),
                    _ => interface.is_hostdev(),
                })
            }
            place => matches!(place, DeviceRef::Hostdev(_)),
        }
    }

    fn check_new_device(&self, domain: &conf::Domain, place: DeviceRef) -> Result<()> {
        let DeviceRef::Interface(at) = place else {
            return Ok(());
        };
        let Some(interface) = domain.devices.interfaces.get(at) else {
            return Ok(());
        };
        interface.check_resolved().map_err(|error| {
            let name = format!("interface {}: ", interface.mac);
            fault::document(QEMU)(error).preceded_by(&name)
        })
    }
}

fn add(domain: &mut conf::Domain, device: &Device) -> Result<DeviceRef> {
    domain.add_device(device).map_err(|error| {
        let detail = format!("guest '{}': {error}", domain.name);
        fault::invalid(QEMU, detail)
    })
}
