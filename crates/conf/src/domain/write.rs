//! Writing `<domain>`.

use super::shapes::DOMAIN;
use super::{Domain, Written};
use crate::Interface;
use crate::tree::Tree;
use crate::xml::{Keyword, VIRTNIC_NAMESPACE};

impl Domain {
    pub(super) fn tree(&self, form: Written) -> Tree<'_> {
        let mut tree = Tree::new("domain").with("type", self.virt_type.word());
        tree.optional("id", self.id.filter(|_| form.is_running()));
        if self
            .devices
            .interfaces
            .iter()
            .any(Interface::needs_namespace)
        {
            tree.attribute("xmlns:virtnic", VIRTNIC_NAMESPACE);
        }
        tree.child(Tree::of_text("name", &self.name));
        tree.child(Tree::of_text("uuid", self.uuid));
        tree.text_child("title", self.title.as_ref());
        tree.text_child("description", self.description.as_ref());
        if let Some(metadata) = &self.metadata {
            tree.raw(metadata);
        }
        tree.child(kib("memory", self.memory_kib));
        tree.child(kib("currentMemory", self.current_memory_kib));
        if let Some(limit) = self.memory_hard_limit_kib {
            let mut memtune = Tree::new("memtune");
            memtune.child(kib("hard_limit", limit));
            tree.child(memtune);
        }
        tree.child(self.vcpu_tree());
        tree.child(self.os_tree());
        tree.child_unless_empty(self.features_tree());
        if let Some(cpu) = &self.cpu {
            tree.child(cpu.tree());
        }
        tree.child(Tree::new("clock").with("offset", &self.clock_offset));
        tree.child(Tree::of_text("on_poweroff", &self.lifecycle.on_poweroff));
        tree.child(Tree::of_text("on_reboot", &self.lifecycle.on_reboot));
        tree.child(Tree::of_text("on_crash", &self.lifecycle.on_crash));
        tree.child(self.devices.tree(form));
        tree.keep(&self.unused, &DOMAIN);
        tree
    }

    fn vcpu_tree(&self) -> Tree<'_> {
        let kept = self.unused.inside("vcpu");
        let kept = |name: &str| kept.and_then(|kept| kept.attribute(name));
        let mut vcpu = Tree::of_text("vcpu", self.vcpus);
        vcpu.attribute("placement", kept("placement").unwrap_or("static"));
        vcpu.optional("cpuset", kept("cpuset"));
        vcpu.optional("current", self.current_vcpus);
        vcpu
    }

    fn os_tree(&self) -> Tree<'_> {
        let mut os = Tree::new("os");
        let mut kind = Tree::of_text("type", "hvm").with("arch", &self.os.arch);
        if !self.os.machine.is_empty() {
            kind.attribute("machine", &self.os.machine);
        }
        os.child(kind);
        os.text_child("kernel", self.os.kernel.as_ref());
        os.text_child("initrd", self.os.initrd.as_ref());
        os.text_child("cmdline", self.os.cmdline.as_ref());
        for dev in &self.os.boot {
            os.child(Tree::new("boot").with("dev", dev));
        }
        let mut bios = Tree::new("bios");
        bios.yes_no("useserial", self.os.bios_use_serial);
        os.child_unless_empty(bios);
        os
    }

    fn features_tree(&self) -> Tree<'_> {
        let mut features = Tree::new("features");
        for (name, on) in [
            ("acpi", self.features.acpi),
            ("apic", self.features.apic),
            ("pae", self.features.pae),
        ] {
            if on {
                features.child(Tree::new(name));
            }
        }
        features
    }
}

fn kib(name: &str, amount: u64) -> Tree<'_> {
    Tree::of_text(name, amount).with("unit", "KiB")
}
