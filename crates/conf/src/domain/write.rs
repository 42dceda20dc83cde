//! Writing `<domain>`.

use super::shapes::DOMAIN;
use super::{Domain, PowerManagement, Written};
use crate::tree::Tree;
use crate::xml::Keyword;

impl Domain {
    pub(super) fn tree(&self, form: Written) -> Tree<'_> {
        let mut tree = Tree::new("domain").with("type", self.virt_type.word());
        tree.optional("id", self.id.filter(|_| form.is_running()));
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
        tree.child_unless_empty(self.placement.cputune_tree());
        tree.child_unless_empty(self.placement.numatune_tree());
        tree.child(self.os_tree());
        tree.child_unless_empty(self.features_tree());
        if let Some(cpu) = &self.cpu {
            tree.child(cpu.tree());
        }
        let mut clock = Tree::new("clock").with("offset", &self.clock_offset);
        for timer in &self.timers {
            clock.child(timer.tree());
        }
        tree.child(clock);
        tree.child(Tree::of_text("on_poweroff", &self.lifecycle.on_poweroff));
        tree.child(Tree::of_text("on_reboot", &self.lifecycle.on_reboot));
        tree.child(Tree::of_text("on_crash", &self.lifecycle.on_crash));
        tree.child_unless_empty(self.power.tree());
        tree.child(self.devices.tree(form));
        tree.keep(&self.unused, &DOMAIN);
        tree
    }

    fn vcpu_tree(&self) -> Tree<'_> {
        let kept = self.unused.inside("vcpu");
        let kept = |name: &str| kept.and_then(|kept| kept.attribute(name));
        let mut vcpu = Tree::of_text("vcpu", self.vcpus);
        vcpu.attribute("placement", kept("placement").unwrap_or("static"));
        vcpu.optional("cpuset", self.placement.cpus.as_ref());
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
        if self.features.vmport.is_some() {
            let mut vmport = Tree::new("vmport");
            vmport.on_off("state", self.features.vmport);
            features.child(vmport);
        }
        features
    }
}

impl PowerManagement {
    fn tree(self) -> Tree<'static> {
        let mut tree = Tree::new("pm");
        for (name, enabled) in [
            ("suspend-to-mem", self.suspend_to_mem),
            ("suspend-to-disk", self.suspend_to_disk),
        ] {
            let mut child = Tree::new(name);
            child.yes_no("enabled", enabled);
            tree.child_unless_empty(child);
        }
        tree
    }
}

fn kib(name: &str, amount: u64) -> Tree<'_> {
    Tree::of_text(name, amount).with("unit", "KiB")
}
