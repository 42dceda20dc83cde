//! `virsh domif-setlink` and `virsh update-device`: the link of an interface, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf::xml::{Document, Element};
use conf::{Form, Interface, InterfaceSource, VfLink};
use rpc::{Code, DomainUpdateDeviceFlags, Error};

use super::change::Edit;
use super::control::control;
use super::handle::Run;
use super::interface::Carrier;
use super::{GuestHandle, QEMU, Request};
use crate::affect::Read;
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// Changes a device of a guest into the one that is given.
pub(crate) async fn update_device(
    handle: &GuestHandle,
    args: &DomainUpdateDeviceFlags,
) -> Result<()> {
    let given = read_interface(&args.xml)?;
    let name = handle.name.clone();
    let edit = Edit::new(move |domain, which, _| {
        let place = find_like(&domain.devices.interfaces, &given, &name)?;
        let interface = &mut domain.devices.interfaces[place];
        check_same_but_link(interface, &given, which)?;
        interface.link_up = given.link_up;
        match which {
            Read::Live => Ok(()),
            // A definition that no start could carry out is refused now.
            Read::Config => interface.check_resolved().map_err(|error| {
                let name = format!("interface {}: ", interface.mac);
                fault::document(QEMU)(error).preceded_by(&name)
            }),
        }
    });
    let flags = args.flags.into();
    handle.request(Request::Change { flags, edit }).await
}

/// Has a running guest see the link of an interface as its document says.
pub(super) async fn set_link(daemon: &Arc<Daemon>, run: &Run, interface: &Interface) -> Result<()> {
    let up = interface.link_up != Some(false);
    match Carrier::of(interface, run, &daemon.lender) {
        Carrier::Vf { claim, .. } => {
            let link = if up {
                daemon.vf_link_of(interface)
            } else {
                VfLink::Off
            };
            let daemon = Arc::clone(daemon);
            blocking(QEMU, move || daemon.lender.set_vf_link(claim, link))
                .await?
                .map_err(fault::lending::change)
        }
        _ if interface.is_hostdev() => {
            let detail = format!(
                "interface {} is a host device, and none whose link could be set",
                interface.mac
            );
            Err(Error::new(Code::OperationUnsupported, QEMU, detail))
        }
        _ => {
            let Some(alias) = &interface.info.alias else {
                let detail = format!("interface {} has no alias", interface.mac);
                return Err(Error::new(Code::InternalError, QEMU, detail));
            };
            run.machine.set_link(alias, up).await.map_err(control)
        }
    }
}

impl Daemon {
    /// The link of a VF that is not switched off.
    fn vf_link_of(&self, interface: &Interface) -> VfLink {
        let settings = match &interface.source {
            InterfaceSource::Network {
                network,
                port_group,
            } => self
                .networks
                .by_name(network)
                .map(|network| network.vf_settings(interface.vf, port_group.as_deref())),
            _ => interface.vf,
        };
        settings.unwrap_or_default().link.unwrap_or_default()
    }
}

/// Of a guest's devices, interfaces alone can be changed.
fn read_interface(xml: &str) -> Result<Interface> {
    let document = Document::parse(xml).map_err(fault::document(QEMU))?;
    let kind = document.root().name();
    if kind != "interface" {
        let detail = format!("a <{kind}> can't be changed while its guest is there");
        return Err(Error::new(Code::OperationUnsupported, QEMU, detail));
    }
    Interface::parse(xml).map_err(fault::document(QEMU))
}

/// The interface that a client's document is about: that of the MAC, or of MAC and place.
fn find_like(interfaces: &[Interface], given: &Interface, guest: &str) -> Result<usize> {
    let same_mac = |place: &usize| interfaces[*place].mac == given.mac;
    let alike: Vec<usize> = (0..interfaces.len()).filter(same_mac).collect();
    let address = given.info.address.as_ref();
    let found = match alike.as_slice() {
        [place] => Some(*place),
        several => several
            .iter()
            .copied()
            .find(|&place| address.is_some() && interfaces[place].info.address.as_ref() == address),
    };
    found.ok_or_else(|| {
        let detail = match alike.len() {
            0 => format!("guest '{guest}' has no interface with MAC {}", given.mac),
            count => format!(
                "guest '{guest}' has {count} interfaces with MAC {}; say the <address> of one",
                given.mac
            ),
        };
        Error::new(Code::DeviceMissing, QEMU, detail)
    })
}

/// Refuses a change of anything but the link. A client may hand back what it was shown, as it runs
/// or as it is defined, and may leave out what was filled in for it.
fn check_same_but_link(own: &Interface, given: &Interface, which: Read) -> Result<()> {
    let shown = |form| Interface::parse(&own.to_xml(form)).map_err(fault::document(QEMU));
    let mut forms = vec![shown(Form::Inactive)?];
    if which == Read::Live {
        forms.push(shown(Form::Live)?);
    }
    let completed = |form: &Interface| {
        let mut given = given.clone();
        given.link_up = form.link_up;
        let info = &mut given.info;
        info.address = info.address.take().or_else(|| form.info.address.clone());
        info.alias = info.alias.take().or_else(|| form.info.alias.clone());
        given.model = given.model.take().or_else(|| form.model.clone());
        if given.target_name().is_none() {
            given.target.clone_from(&form.target);
        }
        given
    };
    if forms.iter().any(|form| completed(form) == *form) {
        return Ok(());
    }
    let found = forms.iter().map(|form| differing(&completed(form), form));
    let found = found.min_by_key(Vec::len).unwrap_or_default();
    let detail = format!(
        "of interface {} the link alone can be changed, and more than that differs: {}",
        own.mac,
        found.join(", ")
    );
    Err(Error::new(Code::OperationUnsupported, QEMU, detail))
}

/// The attributes of an interface, and the elements directly in it, that another has otherwise.
fn differing(given: &Interface, own: &Interface) -> Vec<String> {
    let texts = [given, own].map(|interface| interface.to_xml(Form::Live));
    let [given, own] = &texts;
    let (Ok(given), Ok(own)) = (Document::parse(given), Document::parse(own)) else {
        return Vec::new();
    };
    let (given, own) = (parts(given.root()), parts(own.root()));
    let names: BTreeSet<&String> = given.keys().chain(own.keys()).collect();
    let differs = |name: &&String| given.get(*name) != own.get(*name);
    names.into_iter().filter(differs).cloned().collect()
}

/// What stands in an element, by name.
fn parts(element: Element<'_>) -> BTreeMap<String, Vec<String>> {
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let attributes = element.attributes();
    let attributes = attributes.map(|(name, value)| (format!("'{name}'"), value.to_owned()));
    let children = element.children();
    let children = children.map(|one| (format!("<{}>", one.name()), one.raw().as_str().to_owned()));
    for (name, text) in attributes.chain(children) {
        parts.entry(name).or_default().push(text);
    }
    parts
}
