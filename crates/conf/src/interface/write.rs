//! Writing `<interface>`.

use super::{ActualDevice, Interface, InterfaceSource, Teaming};
use crate::domain::Written;
use crate::domain::info::pci_attributes;
use crate::domain::shapes::INTERFACE_HOSTDEV;
use crate::tree::Tree;
use crate::xml::{Keyword, VIRTNIC_NAMESPACE};
use crate::{Form, Plug};

impl Interface {
    pub(crate) fn tree(&self, form: Written) -> Tree<'_> {
        let resolved = self.actual.as_ref();
        let shown = resolved.filter(|_| form == Written::Form(Form::Live));
        let mut tree = Tree::new("interface");
        self.write_head(&mut tree, shown);
        let mut mac = Tree::new("mac").with("address", self.mac);
        mac.optional(
            "type",
            self.mac_generated
                .map(|made_up| if made_up { "generated" } else { "static" }),
        );
        mac.yes_no("check", self.mac_check);
        tree.child(mac);
        self.write_source(&mut tree, shown, form);
        let (vlan, port, bandwidth, isolated) = match shown {
            Some(actual) => (
                &actual.vlan,
                &actual.virtual_port,
                &actual.bandwidth,
                actual.isolated,
            ),
            None => (
                &self.vlan,
                &self.virtual_port,
                &self.bandwidth,
                self.isolated,
            ),
        };
        tree.noun("vlan", vlan.as_ref());
        tree.noun("virtualport", port.as_ref());
        tree.noun("bandwidth", bandwidth.as_ref());
        write_isolated(&mut tree, isolated);
        if let Some(actual) = resolved.filter(|_| form == Written::Status) {
            tree.child(actual.tree());
        }
        for (name, attribute, value) in [
            ("script", "path", &self.script),
            ("downscript", "path", &self.downscript),
            ("backenddomain", "name", &self.backend_domain),
        ] {
            if let Some(value) = value {
                tree.child(Tree::new(name).with(attribute, value));
            }
        }
        let mut target = Tree::new("target");
        target.optional(
            "dev",
            self.target
                .as_ref()
                .filter(|dev| self.shows_target(dev, form)),
        );
        target.yes_no("managed", self.target_managed);
        tree.child_unless_empty(target);
        if let Some(model) = &self.model {
            tree.child(Tree::new("model").with("type", model));
        }
        let pair = matches!(self.source, InterfaceSource::HostdevHybrid { .. });
        tree.noun("driver", self.vf_driver.as_ref().filter(|_| pair));
        if let Some(driver) = self.driver.as_ref().filter(|_| pair || self.is_virtio()) {
            tree.child_unless_empty(driver.tree());
        }
        if let Some(backend) = &self.backend {
            tree.child_unless_empty(backend.tree());
        }
        if let Some(bytes) = self.send_buffer {
            let mut tune = Tree::new("tune");
            tune.child(Tree::of_text("sndbuf", bytes));
            tree.child(tune);
        }
        if let Some(teaming) = &self.teaming {
            tree.child(teaming.tree());
        }
        if let Some(up) = self.link_up {
            tree.child(Tree::new("link").with("state", if up { "up" } else { "down" }));
        }
        if let Some(mtu) = self.mtu {
            tree.child(Tree::new("mtu").with("size", mtu));
        }
        if let Some(frames) = self.coalesce_rx_frames {
            let (mut coalesce, mut rx) = (Tree::new("coalesce"), Tree::new("rx"));
            rx.child(Tree::new("frames").with("max", frames));
            coalesce.child(rx);
            tree.child(coalesce);
        }
        if let Some(vf) = &self.vf {
            tree.written("virtnic:vf", |writer| vf.write(writer));
        }
        if let Some(mode) = self.direct_mode {
            tree.child(Tree::new("virtnic:direct").with("mode", mode.word()));
        }
        if let Some(hybrid) = &self.hybrid {
            tree.written("virtnic:hybrid", |writer| hybrid.write(writer));
        }
        if let Some(port) = shown.and_then(|actual| self.port_shown(actual)) {
            tree.child(port);
        }
        self.info.write_for(&mut tree, form);
        let shape = if shown.is_some_and(ActualDevice::is_hostdev) {
            &INTERFACE_HOSTDEV
        } else {
            self.source.shape()
        };
        tree.keep(&self.unused, shape);
        tree
    }

    /// The network that lent a host device: libvirt's form of one has no place for it.
    fn port_shown<'a>(&'a self, actual: &ActualDevice) -> Option<Tree<'a>> {
        let InterfaceSource::Network {
            network,
            port_group,
        } = &self.source
        else {
            return None;
        };
        if !actual.is_hostdev() {
            return None;
        }
        let mut port = Tree::new("virtnic:port").with("network", network);
        port.optional("portgroup", port_group.as_ref());
        Some(port.with("portid", actual.port))
    }

    fn write_head<'a>(&'a self, tree: &mut Tree<'a>, shown: Option<&'a ActualDevice>) {
        let (kind, managed) = match (shown, &self.source) {
            (Some(actual), _) => actual.kind(),
            (None, InterfaceSource::Hostdev { managed, .. }) => ("hostdev", *managed),
            (None, source) => (source.kind(), false),
        };
        tree.attribute("type", kind);
        tree.yes_no("managed", managed.then_some(true));
        let trust = match shown {
            Some(actual) => actual.trust_guest_rx_filters,
            None => self.trust_guest_rx_filters,
        };
        tree.yes_no("trustGuestRxFilters", trust);
        // Here and not further out: clients cut the element out of a guest's document and send it
        // back as it stands.
        let lent = shown.is_some_and(|actual| self.port_shown(actual).is_some());
        let own = self.vf.is_some() || self.direct_mode.is_some() || self.hybrid.is_some();
        if lent || own {
            tree.attribute("xmlns:virtnic", VIRTNIC_NAMESPACE);
        }
    }

    fn write_source<'a>(
        &'a self,
        tree: &mut Tree<'a>,
        shown: Option<&'a ActualDevice>,
        form: Written,
    ) {
        let mut source = Tree::new("source");
        match &self.source {
            InterfaceSource::Network {
                network,
                port_group,
            } if !shown.is_some_and(ActualDevice::is_hostdev) => {
                source.attribute("network", network);
                source.optional("portgroup", port_group.as_ref());
                let port = self.actual.as_ref().map(|actual| actual.port);
                source.optional("portid", port.filter(|_| form.is_running()));
            }
            InterfaceSource::Network { .. } | InterfaceSource::Ethernet => {}
            InterfaceSource::User | InterfaceSource::Null => {}
            InterfaceSource::Direct { dev, mode } => {
                source.attribute("dev", dev);
                source.attribute("mode", mode.word());
            }
            InterfaceSource::Hostdev { driver, source, .. } => {
                tree.noun("driver", driver.as_ref());
                let mut source = source.tree(true);
                if let Some(address) = self.host_address.filter(|_| form.is_running()) {
                    let element = Tree::new("address").with("type", "pci");
                    source.child(pci_attributes(element, address));
                }
                tree.child(source);
                return;
            }
            InterfaceSource::HostdevHybrid { dev } => {
                source.attribute("dev", dev);
            }
            InterfaceSource::Bridge { bridge } => {
                source.attribute("bridge", bridge);
            }
            InterfaceSource::Other { source, .. } => {
                if let Some(source) = source {
                    tree.carried(source);
                }
                return;
            }
        }
        if let Some(actual) = shown {
            actual.write_source(tree, source);
        } else {
            tree.child_unless_empty(source);
        }
    }

    /// A name that a running guest's tap was given is not part of the definition.
    fn shows_target(&self, dev: &str, form: Written) -> bool {
        let made_up = ["vnet", "macvtap", "macvlan"];
        form.is_running()
            || self.target_managed == Some(false)
            || !made_up.iter().any(|prefix| dev.starts_with(prefix))
    }
}

fn write_isolated(tree: &mut Tree<'_>, isolated: Option<bool>) {
    if let Some(isolated) = isolated {
        let word = if isolated { "yes" } else { "no" };
        tree.child(Tree::new("port").with("isolated", word));
    }
}

impl ActualDevice {
    fn is_hostdev(&self) -> bool {
        matches!(self.plug, Plug::HostdevPci { .. })
    }

    /// The type that stands for the plug, and whether the device is managed.
    fn kind(&self) -> (&'static str, bool) {
        match self.plug {
            Plug::Network { .. } => ("network", false),
            Plug::Bridge { .. } => ("bridge", false),
            Plug::Direct { .. } => ("direct", false),
            Plug::HostdevPci { managed, .. } => ("hostdev", managed),
        }
    }

    /// `<driver>` and `<source>`; attributes that `source` has already stay.
    fn write_source<'a>(&'a self, tree: &mut Tree<'a>, mut source: Tree<'a>) {
        match &self.plug {
            Plug::Network {
                bridge,
                mac_table_manager,
            }
            | Plug::Bridge {
                bridge,
                mac_table_manager,
            } => {
                source.attribute("bridge", bridge);
                source.optional("macTableManager", mac_table_manager.map(Keyword::word));
            }
            Plug::Direct { dev, mode } => {
                source.attribute("dev", dev);
                source.attribute("mode", mode.word());
            }
            Plug::HostdevPci {
                driver, address, ..
            } => {
                tree.noun("driver", driver.as_ref());
                let child = Tree::new("address").with("type", "pci");
                source.child(pci_attributes(child, *address));
            }
        }
        tree.child(source);
    }

    /// `<actual>`, as our own status has it.
    fn tree(&self) -> Tree<'_> {
        let (kind, managed) = self.kind();
        let mut tree = Tree::new("actual").with("type", kind);
        tree.yes_no("managed", managed.then_some(true));
        tree.yes_no("trustGuestRxFilters", self.trust_guest_rx_filters);
        self.write_source(&mut tree, Tree::new("source"));
        tree.noun("vlan", self.vlan.as_ref());
        tree.noun("virtualport", self.virtual_port.as_ref());
        tree.noun("bandwidth", self.bandwidth.as_ref());
        write_isolated(&mut tree, self.isolated);
        tree
    }
}

impl Teaming {
    pub(crate) fn tree(&self) -> Tree<'_> {
        match self {
            Self::Persistent => Tree::new("teaming").with("type", "persistent"),
            Self::Transient { persistent } => Tree::new("teaming")
                .with("type", "transient")
                .with("persistent", persistent),
        }
    }
}
