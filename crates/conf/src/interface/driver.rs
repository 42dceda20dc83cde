//! `<driver>` and `<backend>` of an interface.

use crate::domain::shapes::{GUEST_OFFLOADS, HOST_OFFLOADS};
use crate::tree::Tree;
use crate::xml::{Element, FromXml, Keyword, keywords};
use crate::{Error, ErrorKind, HostBackend, HostDriver, Hybrid, InterfaceSource};

/// `<driver>` of a virtio interface. What is `None` is left to QEMU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NicDriver {
    /// Who moves the frames.
    pub name: Option<NicDriverName>,
    /// How transmission is batched.
    pub tx_mode: Option<TxMode>,
    /// Kicks by eventfd.
    pub ioeventfd: Option<bool>,
    /// Interrupts and kicks are held back by the ring's event index.
    pub event_idx: Option<bool>,
    /// Queue pairs, at least 2: one is what there is anyway.
    pub queues: Option<u32>,
    /// Entries of the receive ring.
    pub rx_queue_size: Option<u32>,
    /// Entries of the transmit ring.
    pub tx_queue_size: Option<u32>,
    /// Receive side scaling in QEMU.
    pub rss: Option<bool>,
    /// The hash goes to the guest.
    pub rss_hash_report: Option<bool>,
    /// DMA goes through a virtual IOMMU.
    pub iommu: Option<bool>,
    /// Address translation service.
    pub ats: Option<bool>,
    /// Rings in virtio 1.1's packed layout.
    pub packed: Option<bool>,
    /// A doorbell page for each ring.
    pub page_per_vq: Option<bool>,
    /// `<host>`: what the host offloads, by name, in order.
    pub host: Offloads,
    /// `<guest>`: what the guest offloads, by name, in order.
    pub guest: Offloads,
}

/// Offloads that are switched on or off, by their names in XML.
pub type Offloads = Vec<(&'static str, bool)>;

/// `driver/@name` of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicDriverName {
    /// QEMU itself: never vhost.
    Qemu,
    /// The kernel's vhost: without it the guest doesn't start.
    Vhost,
}

/// `driver/@txmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub enum TxMode {
    Iothread,
    Timer,
}

/// `<backend>` of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NicBackend {
    /// Who serves it.
    pub kind: Option<NicBackendKind>,
    /// Another `/dev/net/tun`.
    pub tap: Option<String>,
    /// Another `/dev/vhost-net`.
    pub vhost: Option<String>,
    /// Where passt writes its log.
    pub log_file: Option<String>,
}

/// `backend/@type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicBackendKind {
    /// The hypervisor's own.
    Default,
    /// User-mode network by the `passt` program.
    Passt,
}

keywords!(NicDriverName {
    Qemu = "qemu",
    Vhost = "vhost",
});
keywords!(TxMode {
    Iothread = "iothread",
    Timer = "timer",
});
keywords!(NicBackendKind {
    Default = "default",
    Passt = "passt",
});

impl NicDriver {
    pub(super) fn read(element: Element<'_>) -> Result<Option<Self>, Error> {
        let number = |name: &str| match element.number::<u32>(name) {
            Ok(number) => Ok(number),
            Err(error) => Err(Error {
                message: format!(
                    "Invalid value for attribute '{name}' in element 'driver': '{}'. Expected \
                     non-negative integer value",
                    element.attribute(name).unwrap_or_default()
                ),
                ..error
            }),
        };
        let offloads = |child: &str, names: &[&'static str]| {
            let Some(child) = element.child(child) else {
                return Ok(Vec::new());
            };
            let mut offloads = Vec::new();
            for &name in names {
                if let Some(on) = child.on_off(name)? {
                    offloads.push((name, on));
                }
            }
            Ok::<_, Error>(offloads)
        };
        let driver = Self {
            name: element.keyword("name")?,
            tx_mode: element.keyword("txmode")?,
            ioeventfd: element.on_off("ioeventfd")?,
            event_idx: element.on_off("event_idx")?,
            queues: number("queues")?.filter(|&queues| queues > 1),
            rx_queue_size: number("rx_queue_size")?.filter(|&size| size > 0),
            tx_queue_size: number("tx_queue_size")?.filter(|&size| size > 0),
            rss: element.on_off("rss")?,
            rss_hash_report: element.on_off("rss_hash_report")?,
            iommu: element.on_off("iommu")?,
            ats: element.on_off("ats")?,
            packed: element.on_off("packed")?,
            page_per_vq: element.on_off("page_per_vq")?,
            host: offloads("host", &HOST_OFFLOADS)?,
            guest: offloads("guest", &GUEST_OFFLOADS)?,
        };
        for size in [driver.rx_queue_size, driver.tx_queue_size] {
            if size.is_some_and(|size| !size.is_power_of_two()) {
                return Err(element.error(
                    ErrorKind::ConfigUnsupported,
                    "rx_queue_size and tx_queue_size must be a power of two",
                ));
            }
        }
        Ok((driver != Self::default()).then_some(driver))
    }

    pub(super) fn tree(&self) -> Tree<'_> {
        let mut tree = Tree::new("driver");
        tree.optional("name", self.name.map(Keyword::word));
        tree.optional("txmode", self.tx_mode.map(Keyword::word));
        tree.on_off("ioeventfd", self.ioeventfd);
        tree.on_off("event_idx", self.event_idx);
        tree.optional("queues", self.queues);
        tree.optional("rx_queue_size", self.rx_queue_size);
        tree.optional("tx_queue_size", self.tx_queue_size);
        tree.on_off("rss", self.rss);
        tree.on_off("rss_hash_report", self.rss_hash_report);
        tree.on_off("iommu", self.iommu);
        tree.on_off("ats", self.ats);
        tree.on_off("packed", self.packed);
        tree.on_off("page_per_vq", self.page_per_vq);
        for (name, offloads) in [("host", &self.host), ("guest", &self.guest)] {
            let mut child = Tree::new(name);
            for &(name, on) in offloads {
                child.on_off(name, Some(on));
            }
            tree.child_unless_empty(child);
        }
        tree
    }
}

impl NicBackend {
    pub(super) fn read(element: Element<'_>, virtio: bool) -> Result<Option<Self>, Error> {
        let path = |name| {
            let path = element.attribute_string(name);
            path.filter(|path| !path.is_empty())
        };
        let backend = Self {
            kind: element.keyword("type")?,
            tap: path("tap"),
            vhost: path("vhost").filter(|_| virtio),
            log_file: path("logFile"),
        };
        Ok((backend != Self::default()).then_some(backend))
    }

    pub(super) fn tree(&self) -> Tree<'_> {
        let mut tree = Tree::new("backend");
        tree.optional("type", self.kind.map(Keyword::word));
        tree.optional("tap", self.tap.as_ref());
        tree.optional("vhost", self.vhost.as_ref());
        tree.optional("logFile", self.log_file.as_ref());
        tree
    }
}

/// What the `<driver>`s of an interface say.
#[derive(Default)]
pub(super) struct Drivers {
    /// Of the guest's NIC.
    pub(super) nic: Option<NicDriver>,
    /// Of the VF, in an element that asks for a pair.
    pub(super) vf: Option<HostDriver>,
}

impl Drivers {
    /// `without_model`: the document leaves open what NIC it is.
    pub(super) fn read(
        element: Element<'_>,
        source: &InterfaceSource,
        virtio: bool,
        without_model: bool,
    ) -> Result<Self, Error> {
        let pair = source.may_be_pair(element, without_model);
        let driver = nic_driver(element, source, pair);
        let nic = match source {
            // It is virtio, if its network lends pairs; all others forget what is said here.
            InterfaceSource::Network { .. } if without_model => {
                driver.and_then(|driver| NicDriver::read(driver).ok().flatten())
            }
            InterfaceSource::HostdevHybrid { .. } if without_model => {
                driver.map(NicDriver::read).transpose()?.flatten()
            }
            _ if virtio => driver.map(NicDriver::read).transpose()?.flatten(),
            _ => None,
        };
        let vf = binding_driver(element).filter(|_| pair);
        Ok(Self {
            nic,
            vf: vf.map(HostDriver::from_xml).transpose()?,
        })
    }
}

impl InterfaceSource {
    /// Whether the element asks for a pair or, of a network without more words, may turn out to.
    fn may_be_pair(&self, element: Element<'_>, without_model: bool) -> bool {
        match self {
            Self::HostdevHybrid { .. } => true,
            Self::Network { .. } => {
                let wants = |hybrid: Element<'_>| hybrid.attribute("pair").is_none();
                element.attribute("type") == Some("network")
                    && match Hybrid::element_of(element) {
                        Some(hybrid) => wants(hybrid),
                        None => without_model,
                    }
            }
            _ => false,
        }
    }
}

/// The `<driver>` of the guest's NIC. An interface that is shown as the host device that its network
/// lent it says first how that is bound.
fn nic_driver<'d>(
    element: Element<'d>,
    source: &InterfaceSource,
    pair: bool,
) -> Option<Element<'d>> {
    let is_lent = element.attribute("type") == Some("hostdev") && source.kind() != "hostdev";
    let mut drivers = element.children_named("driver");
    drivers.find(|driver| !((is_lent || pair) && binds(*driver)))
}

/// The `<driver>` that says how a host device is bound, where another may stand beside it.
fn binding_driver(element: Element<'_>) -> Option<Element<'_>> {
    let mut drivers = element.children_named("driver");
    drivers.find(|driver| binds(*driver))
}

fn binds(driver: Element<'_>) -> bool {
    HostBackend::WORDS
        .iter()
        .any(|(word, _)| driver.attribute("name") == Some(word))
        || driver.attribute("model").is_some()
}
