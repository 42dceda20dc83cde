//! Host devices given to a guest: `<hostdev>`, and the inside of `<interface type='hostdev'>`.

use serde::{Deserialize, Serialize};

use crate::domain::info::{pci_address, pci_attributes};
use crate::domain::shapes::HOSTDEV;
use crate::domain::{Origin, Written};
use crate::kept::Kept;
use crate::tree::Tree;
use crate::xml::{Base, Document, Element, FromXml};
use crate::{DeviceInfo, Error, ErrorKind, Faults, Form, GuestAddress, PciAddress, Teaming};

/// `<driver>` of a host device or of a `hostdev` network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDriver {
    /// `driver/@name`: who drives it for the guest.
    pub backend: Option<HostBackend>,
    /// A host kernel driver's name, for a vfio variant driver.
    pub model: Option<String>,
}

/// `driver/@name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostBackend {
    /// The only one that QEMU has today.
    Vfio,
    /// Gone from QEMU; refused when used.
    Kvm,
    /// Xen's; refused when used.
    Xen,
}

/// A device of the host, by whatever the document calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSource {
    /// A PCI function.
    Pci(PciAddress),
    /// A USB device.
    Usb(UsbSource),
    /// The device behind a network device's name, looked up when it is used (seed form, ours).
    NetDevice(String),
    /// Some VF of the PF of that name, chosen when it is used: of the VF half of a pair alone (ours).
    VfOf(String),
}

/// How a USB device is named: ids, place, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsbSource {
    /// Vendor and product.
    pub ids: Option<(u16, u16)>,
    /// Bus and device.
    pub place: Option<(u32, u32)>,
    /// `startupPolicy`.
    pub startup_policy: Option<String>,
    /// `guestReset`.
    pub guest_reset: Option<String>,
}

/// `<hostdev mode='subsystem'>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Bound and given back by us.
    pub managed: bool,
    /// How it is bound (PCI).
    pub driver: Option<HostDriver>,
    /// The function or device, as the document names it.
    pub source: HostSource,
    /// Its part in a failover pair.
    pub teaming: Option<Teaming>,
    /// Alias, guest address, boot order, rom.
    pub info: DeviceInfo,
    /// Children and attributes that are kept and not used, each by name.
    pub unused: Kept,
}

impl HostDevice {
    /// Reads a definition, as a client gives it to plug a device.
    ///
    /// # Errors
    /// What is wrong, with its place; [`ErrorKind::ConfigUnsupported`] for anything but a PCI or
    /// USB device.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text)?;
        document.read_definition("hostdev", |element| {
            Self::read(element, Origin::Definition)?.ok_or_else(|| {
                let message =
                    "only host devices of mode 'subsystem' and type 'pci' or 'usb' are lent";
                element.error(ErrorKind::ConfigUnsupported, message)
            })
        })
    }

    /// libvirt's canonical document.
    #[must_use]
    pub fn to_xml(&self, form: Form) -> String {
        self.tree(Written::Form(form))
            .finish(crate::tree::Secrets::Hidden)
    }

    /// `None` for kinds that are only carried through.
    pub(crate) fn read(element: Element<'_>, origin: Origin) -> Result<Option<Self>, Error> {
        let kind = element.require("type")?;
        match element.attribute("mode") {
            None | Some("subsystem") => {}
            Some("capabilities") => return Ok(None),
            Some(_) => {
                let expected = "subsystem or capabilities";
                return Err(element.invalid(ErrorKind::Xml, "mode", expected));
            }
        }
        let source = match HostSource::read_plain(element, kind).transpose() {
            Some(source) => source,
            None => return Ok(None),
        };
        let mut faults = Faults::default();
        let known = source.is_ok();
        let source = faults.or(source, || HostSource::Pci(PciAddress::default()));
        let info = faults.or_default(DeviceInfo::read(element, origin));
        let fits = match (&source, &info.address) {
            (_, None) | (HostSource::Pci(_), Some(GuestAddress::Unassigned)) => true,
            (HostSource::Usb(_), Some(address)) => matches!(address, GuestAddress::Usb { .. }),
            (_, Some(address)) => matches!(address, GuestAddress::Pci { .. }),
        };
        if known && !fits {
            let message =
                format!("a host device of type '{kind}' needs a guest address of type '{kind}'");
            faults.push(element.error(ErrorKind::Internal, message));
        }
        let managed = faults.or_default(element.yes_no("managed"));
        let driver = element.child("driver").map(HostDriver::from_xml);
        let teaming = element.child("teaming").map(Teaming::read);
        let device = Self {
            managed: managed.unwrap_or(false),
            driver: faults
                .or_default(driver.transpose())
                .filter(|d| *d != HostDriver::default()),
            source,
            teaming: faults.or_default(teaming.transpose()).flatten(),
            info,
            unused: Kept::of(element, &HOSTDEV),
        };
        faults.finish()?;
        Ok(Some(device))
    }

    pub(crate) fn tree(&self, form: Written) -> Tree<'_> {
        let kind = match self.source {
            HostSource::Usb(_) => "usb",
            HostSource::Pci(_) | HostSource::NetDevice(_) | HostSource::VfOf(_) => "pci",
        };
        let mut tree = Tree::new("hostdev").with("mode", "subsystem");
        tree.attribute("type", kind);
        tree.yes_no("managed", Some(self.managed));
        tree.noun("driver", self.driver.as_ref());
        tree.child(self.source.tree(false));
        if let Some(teaming) = &self.teaming {
            tree.child(teaming.tree());
        }
        self.info.write_for(&mut tree, form);
        tree.keep(&self.unused, &HOSTDEV);
        tree
    }
}

impl HostSource {
    /// Reads the `<source>` of a plain `<hostdev>`; `None` for kinds that are only carried through.
    fn read_plain(element: Element<'_>, kind: &str) -> Result<Option<Self>, Error> {
        let source = || element.require_child("source");
        match kind {
            "pci" => {
                let source = source()?;
                for (name, what) in [
                    (
                        "startupPolicy",
                        "Setting startupPolicy is only allowed for USB devices",
                    ),
                    (
                        "writeFiltering",
                        "Write filtering of PCI device configuration space is not supported by \
                         qemu",
                    ),
                ] {
                    if source.attribute(name).is_some() {
                        let kind = ErrorKind::ConfigUnsupported;
                        return Err(source.attribute_error(kind, name, what));
                    }
                }
                Ok(Some(Self::Pci(Self::read_pci(source)?)))
            }
            "usb" => Ok(Some(Self::Usb(UsbSource::read(source()?)?))),
            "scsi" | "scsi_host" | "mdev" => Ok(None),
            _ => {
                let expected = "pci, usb, scsi, scsi_host or mdev";
                Err(element.invalid(ErrorKind::Xml, "type", expected))
            }
        }
    }

    fn read_pci(source: Element<'_>) -> Result<PciAddress, Error> {
        let address = pci_address(source.require_child("address")?)?;
        if address == PciAddress::default() {
            let message = "the PCI address of a host device must not be all zeroes";
            return Err(source.error(ErrorKind::Xml, message));
        }
        Ok(address)
    }

    /// Reads the `<source>` inside an interface, which says itself what kind it is.
    pub(crate) fn read_in_interface(source: Element<'_>) -> Result<Self, Error> {
        if let Some(dev) = source.attribute("dev").filter(|dev| !dev.is_empty()) {
            return Ok(Self::NetDevice(dev.to_owned()));
        }
        let address = source.child("address");
        match address.and_then(|address| address.attribute("type")) {
            Some("pci") => Ok(Self::Pci(Self::read_pci(source)?)),
            Some("usb") => Ok(Self::Usb(UsbSource::read(source)?)),
            None if source.child("vendor").is_some() => Ok(Self::Usb(UsbSource::read(source)?)),
            _ => Err(source.error(
                ErrorKind::ConfigUnsupported,
                "<source> of an interface of type 'hostdev' needs an <address> of type 'pci' or \
                 'usb', a USB <vendor> and <product>, or the attribute 'dev'",
            )),
        }
    }

    pub(crate) fn tree(&self, typed: bool) -> Tree<'_> {
        let mut source = Tree::new("source");
        match self {
            Self::Pci(pci) => {
                let mut address = Tree::new("address");
                address.optional("type", typed.then_some("pci"));
                source.child(pci_attributes(address, *pci));
            }
            Self::Usb(usb) => {
                source.optional("startupPolicy", usb.startup_policy.as_ref());
                source.optional("guestReset", usb.guest_reset.as_ref());
                if let Some((vendor, product)) = usb.ids {
                    let id = |name, id| Tree::new(name).with("id", format_args!("0x{id:04x}"));
                    source.child(id("vendor", vendor));
                    source.child(id("product", product));
                }
                if let Some((bus, device)) = usb.place {
                    let mut address = Tree::new("address");
                    address.optional("type", typed.then_some("usb"));
                    source.child(address.with("bus", bus).with("device", device));
                }
            }
            Self::NetDevice(dev) | Self::VfOf(dev) => {
                source.attribute("dev", dev);
            }
        }
        source
    }
}

impl UsbSource {
    fn read(source: Element<'_>) -> Result<Self, Error> {
        let id = |name: &str| match source.child(name) {
            Some(child) => match child.number_in::<u16>("id", Base::Any, 0xffff)? {
                Some(id) => Ok(Some(id)),
                None => Err(child.missing(ErrorKind::Xml, "id")),
            },
            None => Ok(None),
        };
        let ids = match (id("vendor")?, id("product")?) {
            (Some(0), _) => {
                return Err(source.error(ErrorKind::Xml, "vendor cannot be 0."));
            }
            (Some(vendor), Some(product)) => Some((vendor, product)),
            (None, None) => None,
            _ => {
                let message = "a USB host device needs <vendor> and <product>, or neither";
                return Err(source.error(ErrorKind::Internal, message));
            }
        };
        let place = match source.child("address") {
            Some(address) => {
                let number = |name: &str| {
                    let number = address.number::<u32>(name)?;
                    number.ok_or_else(|| address.missing(ErrorKind::Xml, name))
                };
                Some((number("bus")?, number("device")?))
            }
            None => None,
        };
        if ids.is_none() && place.is_none() {
            let message = "a USB host device needs <vendor> and <product>, or an <address>";
            return Err(source.error(ErrorKind::Xml, message));
        }
        let word = |name: &str, words: &[&str]| match source.attribute(name) {
            Some(word) if !words.contains(&word) => {
                Err(source.invalid(ErrorKind::Xml, name, words.join(", ")))
            }
            word => Ok(word.map(str::to_owned)),
        };
        Ok(Self {
            ids,
            place,
            startup_policy: word("startupPolicy", &["mandatory", "requisite", "optional"])?,
            guest_reset: word("guestReset", &["off", "uninitialized", "on"])?,
        })
    }
}
