//! Devices that come and go: what clients ask for, made into documents. `virsh attach-device` and its
//! kin.

use std::sync::Arc;

use conf::{Device, DeviceRef, FindError, Interface, InterfaceSource, PairPrimary};
use lending::{Attachment, AttachmentState};
use rpc::flags::{Affect, ModifyDevice};
use rpc::{Code, Error};

use super::change::Edit;
use super::handle::{GuestHandle, Request, Run};
use super::pairs::Turn;
use super::{QEMU, medium};
use crate::blocking::blocking;
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

/// A device as a client gives it. A large document takes its time, and keeps nobody else waiting.
pub(super) async fn read_device(xml: &str) -> Result<Device> {
    let xml = xml.to_owned();
    blocking(QEMU, move || Device::parse(&xml))
        .await?
        .map_err(fault::document(QEMU))
}

/// Adds a device to what runs, the definition, or both.
pub(crate) async fn attach_device(
    handle: &GuestHandle,
    xml: &str,
    flags: ModifyDevice,
) -> Result<()> {
    let device = Arc::new(read_device(xml).await?);
    let flags = flags.into();
    handle.request(Request::Attach { flags, device }).await
}

/// Takes a device from what runs, the definition, or both.
pub(crate) async fn detach_device(
    handle: &GuestHandle,
    xml: &str,
    flags: ModifyDevice,
) -> Result<()> {
    let device = Arc::new(read_device(xml).await?);
    if let Some(pair) = PairMeant::of(handle, &device)? {
        return pair.detach(handle, flags.into()).await;
    }
    detach(handle, Meant::Like(device), flags.into(), true).await
}

/// A pair that one element means, in what runs, in the definition, or in both. Where one of them has a single
/// interface by now, the element means that.
struct PairMeant {
    /// In what runs.
    live: Option<Halves>,
    /// In the definition.
    config: Option<Halves>,
    device: Arc<Device>,
}

/// The aliases of a pair.
struct Halves {
    standby: String,
    primary: String,
}

impl PairMeant {
    fn of(handle: &GuestHandle, device: &Arc<Device>) -> Result<Option<Self>> {
        let Some(interface) = device.interface() else {
            return Ok(None);
        };
        let view = handle.view();
        let meant = |domain: Option<&conf::Domain>| match domain {
            Some(domain) => one_pair(domain, interface),
            None => Ok(None),
        };
        let live = meant(view.run.as_ref().map(|run| &run.domain))?;
        let config = meant(view.defined.as_deref())?;
        Ok((live.is_some() || config.is_some()).then(|| Self {
            live,
            config,
            device: Arc::clone(device),
        }))
    }

    /// First the VF, then the other half, then both out of the definition. A guest that does not let its
    /// VF go in time keeps both: who asks again later takes the rest.
    async fn detach(self, handle: &GuestHandle, flags: Affect) -> Result<()> {
        let view = handle.view();
        let affected = view.subject(&handle.name).affected(flags)?;
        if affected.config
            && self.config.is_none()
            && let Some(defined) = &view.defined
        {
            self.single().find(defined)?;
        }
        if affected.live {
            match &self.live {
                Some(halves) => halves.detach(handle).await?,
                None => detach(handle, self.single(), Affect::LIVE, true).await?,
            }
            if !self.is_out(handle) {
                return Ok(()); // it was asked
            }
        }
        if !affected.config {
            return Ok(());
        }
        let edit = match self.config {
            Some(_) => removal_of_pair(self.device),
            None => removal(self.single()),
        };
        let flags = Affect::CONFIG;
        handle.request(Request::Change { flags, edit }).await
    }

    fn single(&self) -> Meant {
        Meant::Like(Arc::clone(&self.device))
    }

    /// Whether what runs has nothing of it any more.
    fn is_out(&self, handle: &GuestHandle) -> bool {
        let view = handle.view();
        let Some(run) = &view.run else {
            return true;
        };
        match &self.live {
            Some(halves) => run.domain.find_alias(&halves.standby).is_none(),
            None => self.single().find(&run.domain).is_err(),
        }
    }
}

impl Halves {
    /// Asks a running guest for one after the other.
    async fn detach(&self, handle: &GuestHandle) -> Result<()> {
        let demote = Request::Turn {
            alias: self.primary.clone(),
            turn: Turn::Demote,
        };
        handle.request(demote).await?;
        let is_out =
            |one: &Attachment| one.alias == self.primary && one.state == AttachmentState::Demoted;
        let view = handle.view();
        if !(view.run.iter()).any(|run| run.attachments.iter().any(is_out)) {
            return Ok(()); // it was asked
        }
        let rest = Request::Detach {
            flags: Affect::LIVE,
            meant: Meant::Alias(self.standby.clone()),
            waits: true,
            as_pair: true,
        };
        handle.request(rest).await
    }
}

/// Takes both halves of a pair out of a definition.
fn removal_of_pair(device: Arc<Device>) -> Edit {
    Edit::new(move |domain, _, _| {
        let pair = device
            .interface()
            .map(|interface| one_pair(domain, interface));
        let Some(Halves { standby, primary }) = pair.transpose()?.flatten() else {
            let detail = format!("guest '{}' has no such pair", domain.name);
            return Err(Error::new(Code::DeviceMissing, QEMU, detail));
        };
        for alias in [primary, standby] {
            if let Some(place) = domain.find_alias(&alias) {
                domain.remove_device(place);
            }
        }
        Ok(())
    })
}

/// The one pair that an element means.
fn one_pair(domain: &conf::Domain, asked: &Interface) -> Result<Option<Halves>> {
    let pairs = domain.pairs_meant(asked);
    let pair = match pairs.as_slice() {
        [] => return Ok(None),
        [pair] => pair,
        several => {
            let detail = format!(
                "guest '{}': multiple devices matching: {} pairs are like that\nSay the MAC of one, or, \
                 where they have the same, take out one after the other: virsh detach-device-alias",
                domain.name,
                several.len()
            );
            return Err(Error::new(Code::OperationFailed, QEMU, detail));
        }
    };
    let interfaces = &domain.devices.interfaces;
    let alias = |place: usize| interfaces.get(place)?.info.alias.clone();
    let primary = match pair.primary {
        PairPrimary::Interface(place) => alias(place),
        PairPrimary::Hostdev(_) => None,
    };
    let halves = alias(pair.standby).zip(primary);
    Ok(halves.map(|(standby, primary)| Halves { standby, primary }))
}

/// The same by its alias; what runs is asked, and not waited for.
pub(crate) async fn detach_alias(
    handle: &GuestHandle,
    alias: String,
    flags: ModifyDevice,
) -> Result<()> {
    detach(handle, Meant::Alias(alias), flags.into(), false).await
}

async fn detach(handle: &GuestHandle, meant: Meant, flags: Affect, waits: bool) -> Result<()> {
    handle
        .request(Request::Detach {
            flags,
            meant,
            waits,
            as_pair: false,
        })
        .await
}

/// Takes a device out of a definition.
pub(super) fn removal(meant: Meant) -> Edit {
    Edit::new(move |domain, _, _| take_out(domain, &meant))
}

/// A definition without a device, with which its guest could still start.
pub(super) fn take_out(domain: &mut conf::Domain, meant: &Meant) -> Result<()> {
    let place = meant.find(domain)?;
    let before = domain.pair_faults();
    domain.remove_device(place);
    let faults = domain.pair_faults().into_iter();
    let new: Vec<_> = (faults.filter(|fault| !before.contains(fault)))
        .map(|fault| fault.to_string())
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "guest '{}' could not start any more: {}\nThe VF of a pair goes first; the one element, or \
         its MAC, takes both out.",
        domain.name,
        new.join(", ")
    );
    Err(Error::new(Code::OperationFailed, QEMU, detail))
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

    /// What runs with one device more, or with both halves of a pair, as far as that can be said before
    /// it is planned: defaults, aliases, places in the guest. Blocks.
    pub(super) fn running_with(
        &self,
        run: &Run,
        device: &Device,
    ) -> Result<(conf::Domain, Vec<DeviceRef>)> {
        let mut domain = run.domain.clone();
        let network = |name: &str| self.networks.by_name(name)?.pairs();
        let halves = match device.interface() {
            Some(interface) => domain.expand_hybrid(interface, &network),
            None => Ok(None),
        };
        let places = match halves.map_err(fault::document(QEMU))? {
            Some(halves) => {
                let halves = [halves.standby, halves.primary];
                halves.map(|half| domain.add_interface(half)).to_vec()
            }
            None => vec![add(&mut domain, device)?],
        };
        for &place in &places {
            self.check_new_device(&domain, place)?;
            if let DeviceRef::Disk(at) = place {
                medium::check_pluggable(&domain.devices.disks[at])?;
            }
        }
        let lends = |network: &str| Some(self.networks.by_name(network)?.lends_host_devices());
        domain.fill_defaults_with(&lends);
        let has = |wanted: &&conf::Controller| {
            let mut own = run.domain.devices.controllers.iter();
            own.any(|one| one.kind == wanted.kind && one.index == wanted.index)
        };
        // Of several of a kind the one that it sits on is the last.
        if let Some(controller) = (domain.devices.controllers.iter().rev()).find(|one| !has(one)) {
            let detail = format!(
                "the running guest has no {} controller with index {} for that device\nAdd one to \
                 its definition, and start it anew.",
                controller.kind, controller.index
            );
            return Err(Error::new(Code::OperationUnsupported, QEMU, detail));
        }
        domain.validate().map_err(fault::document(QEMU))?;
        check_carried_out(&run.domain, &domain)?;
        let attachments = &run.attachments;
        let is_taken = |alias: &str| attachments.iter().any(|one| one.alias == alias);
        for &place in &places {
            let is_host_device = self.is_host_device(&domain, place);
            domain.name_plugged(place, is_host_device, &is_taken);
            domain
                .place_plugged(place, &|address| self.is_express(address))
                .map_err(fault::document(QEMU))?;
        }
        domain.assign_usb_addresses();
        Ok((domain, places))
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
        if matches!(interface.source, InterfaceSource::Network { .. }) {
            return Ok(()); // what it is its network says
        }
        interface.check_resolved().map_err(|error| {
            let name = format!("interface {}: ", interface.mac);
            fault::document(QEMU)(error).preceded_by(&name)
        })
    }
}

/// What the new document of what runs says more is all carried out.
pub(super) fn check_carried_out(old: &conf::Domain, new: &conf::Domain) -> Result<()> {
    let (before, old_faults) = (old.unsupported(), old.pair_faults());
    let unsupported = new.unsupported().into_iter();
    let unsupported = unsupported.filter(|one| !before.contains(one));
    let faults = new.pair_faults().into_iter();
    let faults = faults.filter(|fault| !old_faults.contains(fault));
    let all = unsupported.map(|one| one.to_string());
    let all: Vec<_> = all.chain(faults.map(|fault| fault.to_string())).collect();
    if all.is_empty() {
        return Ok(());
    }
    let detail = format!("not carried out: {}", all.join(", "));
    Err(Error::new(Code::ConfigUnsupported, QEMU, detail))
}

fn add(domain: &mut conf::Domain, device: &Device) -> Result<DeviceRef> {
    domain.add_device(device).map_err(|error| {
        let detail = format!("guest '{}': {error}", domain.name);
        fault::invalid(QEMU, detail)
    })
}
