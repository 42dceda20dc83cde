//! Machine, processor, memory, boot: what is no device.

use conf::{Cpu, TickPolicy, Timer, TimerName, VirtType};

use super::Builder;
use super::json::Object;
use super::options::{OptionList, OptionValue, Word};

/// The memory object that the machine takes as its RAM: QEMU's own name for it on `pc` and `q35`.
const RAM: &str = "pc.ram";

impl Builder<'_> {
    pub(super) fn machine(&mut self) {
        let domain = self.domain;
        self.option(
            "-name",
            OptionList::new()
                .with("guest", &domain.name)
                .with("debug-threads", "on"),
        );
        self.flag("-S");
        if domain.os.arch != "x86_64" {
            self.refuse(format!("architecture '{}'", domain.os.arch));
        }
        let machine = domain.os.machine.as_str();
        if !is_known_machine(machine) {
            self.refuse(format!("machine type '{machine}'"));
        }
        let hpet = self.timer(TimerName::Hpet).and_then(|hpet| hpet.present);
        let list = OptionList::of(machine)
            .with("usb", "off")
            .maybe("vmport", domain.features.vmport.map(switch))
            .with("dump-guest-core", "off")
            .with("memory-backend", RAM)
            .maybe("hpet", hpet.map(switch))
            .with("acpi", switch(domain.features.acpi));
        self.option("-machine", list);
        self.option(
            "-accel",
            match domain.virt_type {
                VirtType::Kvm => "kvm",
                VirtType::Qemu => "tcg",
            },
        );
        if let Some(cpu) = &domain.cpu {
            self.cpu(cpu);
        }

        let size = format_args!("{}k", domain.memory_kib).to_string();
        self.option("-m", OptionList::new().with("size", size));
        match domain.memory_kib.checked_mul(1024) {
            Some(bytes) => {
                let ram = Object::new()
                    .with("qom-type", "memory-backend-ram")
                    .with("id", RAM)
                    .with("size", bytes);
                self.option("-object", ram);
            }
            None => self.refuse(format!("a memory of {} KiB", domain.memory_kib)),
        }
        self.option("-overcommit", "mem-lock=off");
        self.smp();
        self.option("-uuid", OptionValue::whole(domain.uuid));

        self.option("-display", "none");
        self.flag("-no-user-config");
        self.flag("-nodefaults");
        self.option(
            "-chardev",
            OptionList::of("socket")
                .with("id", "charmonitor")
                .with("fd", self.resources.monitor)
                .with("server", "on")
                .with("wait", "off"),
        );
        self.option("-mon", "chardev=charmonitor,id=monitor,mode=control");
        self.clock();
        self.lifecycle();
        self.power();
        self.boot();
    }

    fn timer(&self, name: TimerName) -> Option<Timer> {
        let mut timers = self.domain.timers.iter();
        timers.find(|timer| timer.name == name).cloned()
    }

    fn clock(&mut self) {
        let late = |timer: Option<Timer>| timer.and_then(|timer| timer.tick_policy);
        match self.domain.clock_offset.as_str() {
            base @ ("utc" | "localtime") => {
                let slew = late(self.timer(TimerName::Rtc)) == Some(TickPolicy::Catchup);
                let rtc = OptionList::new().with("base", base);
                self.option("-rtc", rtc.maybe("driftfix", slew.then_some("slew")));
            }
            other => self.refuse(format!("<clock offset='{other}'>")),
        }
        if let Some(pit) = self.timer(TimerName::Pit) {
            match pit.tick_policy {
                // What kvm does of itself.
                Some(TickPolicy::Catchup) => {}
                None | Some(TickPolicy::Delay) => {
                    self.option("-global", "kvm-pit.lost_tick_policy=delay");
                }
                Some(TickPolicy::Discard) => {
                    self.option("-global", "kvm-pit.lost_tick_policy=discard");
                }
                Some(TickPolicy::Merge) => self.refuse("<timer name='pit' tickpolicy='merge'>"),
            }
        }
    }

    /// Whether the guest may suspend itself is the chipset's to say.
    fn power(&mut self) {
        let power = self.domain.power;
        let (s3, s4) = if self.is_q35() {
            ("ICH9-LPC.disable_s3", "ICH9-LPC.disable_s4")
        } else {
            ("PIIX4_PM.disable_s3", "PIIX4_PM.disable_s4")
        };
        for (property, enabled) in [(s3, power.suspend_to_mem), (s4, power.suspend_to_disk)] {
            if let Some(enabled) = enabled {
                let disable = u8::from(!enabled);
                self.option("-global", OptionList::new().with(property, disable));
            }
        }
    }

    fn cpu(&mut self, cpu: &Cpu) {
        let accelerated = self.domain.virt_type == VirtType::Kvm;
        let host = || OptionList::of("host").with("migratable", "on");
        let mut list = match cpu.mode.as_deref() {
            None | Some("custom") => match &cpu.model {
                Some(model) => match Word::parse(&model.name) {
                    Some(name) => OptionList::of(name),
                    None => return self.refuse(format!("<cpu><model>{}</model>", model.name)),
                },
                // Only a topology or the like: QEMU's default processor.
                None if cpu.features.is_empty() && self.cpu_clocks().next().is_none() => return,
                None => OptionList::of("qemu64"),
            },
            Some("host-passthrough") if accelerated => host(),
            Some("host-passthrough") => {
                return self.refuse("<cpu mode='host-passthrough'> without KVM");
            }
            // As near as QEMU comes without a database of models of ours.
            Some("host-model") if accelerated => host(),
            Some("host-model" | "maximum") => OptionList::of("max"),
            Some(other) => return self.refuse(format!("<cpu mode='{other}'>")),
        };
        for (feature, on) in self.cpu_clocks() {
            list = list.with(feature, switch(on));
        }
        for (policy, name) in &cpu.features {
            let on = match policy.as_deref() {
                None | Some("require" | "force" | "optional") => true,
                Some("disable" | "forbid") => false,
                Some(other) => {
                    self.refuse(format!("<feature policy='{other}' name='{name}'>"));
                    continue;
                }
            };
            match Word::parse(name) {
                Some(name) => list = list.with_word(name, switch(on)),
                None => self.refuse(format!("<feature name='{name}'>")),
            }
        }
        if cpu.check.as_deref() == Some("full") {
            // QEMU refuses to start rather than to leave out a feature.
            list = list.with("enforce", "on");
        }
        self.option("-cpu", list);
    }

    /// Clocks that are the processor's: the guest's paravirtual ones.
    fn cpu_clocks(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let clocks = [
            (TimerName::KvmClock, "kvmclock"),
            (TimerName::HypervClock, "hv-time"),
        ];
        let clocks = clocks.map(|(name, feature)| Some((feature, self.timer(name)?.present?)));
        clocks.into_iter().flatten()
    }

    fn smp(&mut self) {
        let max = self.domain.vcpus;
        let list = match self.domain.current_vcpus {
            Some(current) if current < max => OptionList::of(current).with("maxcpus", max),
            _ => OptionList::of(max),
        };
        let list = match self.domain.cpu.as_ref().and_then(|cpu| cpu.topology) {
            Some(topology) => list
                .with("sockets", topology.sockets)
                .with("dies", topology.dies)
                .with("clusters", topology.clusters)
                .with("cores", topology.cores)
                .with("threads", topology.threads),
            None => list
                .with("sockets", max)
                .with("cores", 1)
                .with("threads", 1),
        };
        self.option("-smp", list);
    }

    /// QEMU stays after a shutdown, so that what follows is decided here and not by it.
    fn lifecycle(&mut self) {
        let actions = &self.domain.lifecycle;
        self.flag("-no-shutdown");
        if actions.on_reboot != "restart" {
            // A reboot becomes a shutdown, with its reason in the event.
            self.flag("-no-reboot");
        }
        for (name, action) in [
            ("on_poweroff", &actions.on_poweroff),
            ("on_reboot", &actions.on_reboot),
            ("on_crash", &actions.on_crash),
        ] {
            if crate::Action::parse(action).is_none() {
                self.refuse(format!("<{name}>{action}</{name}>"));
            }
        }
    }

    fn boot(&mut self) {
        let os = &self.domain.os;
        if os.bios_use_serial == Some(true) {
            self.refuse("<bios useserial='yes'>");
        }
        for device in &os.boot {
            if !["hd", "cdrom", "network", "fd"].contains(&device.as_str()) {
                self.refuse(format!("<boot dev='{device}'>"));
            }
        }
        self.option("-boot", "strict=on");
        for (option, value) in [
            ("-kernel", &os.kernel),
            ("-initrd", &os.initrd),
            ("-append", &os.cmdline),
        ] {
            if let Some(value) = value {
                self.option(option, OptionValue::whole(value));
            }
        }
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// `pc`, `q35` and their versions.
fn is_known_machine(machine: &str) -> bool {
    Word::parse(machine).is_some()
        && (matches!(machine, "pc" | "q35")
            || machine.starts_with("pc-i440fx-")
            || machine.starts_with("pc-q35-"))
}
