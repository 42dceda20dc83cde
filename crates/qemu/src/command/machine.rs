//! Machine, processor, memory, boot: what is no device.

use conf::{Cpu, TickPolicy, Timer, TimerName, VirtType};

use super::json::Object;
use super::{Builder, doubled};

/// The memory object that the machine takes as its RAM: QEMU's own name for it on `pc` and `q35`.
const RAM: &str = "pc.ram";

impl Builder<'_> {
    pub(super) fn machine(&mut self) {
        let domain = self.domain;
        self.option(
            "-name",
            format!("guest={},debug-threads=on", doubled(&domain.name)),
        );
        self.flag("-S");
        if domain.os.arch != "x86_64" {
            self.refuse(format!("architecture '{}'", domain.os.arch));
        }
        let machine = domain.os.machine.as_str();
        if !is_known_machine(machine) {
            self.refuse(format!("machine type '{machine}'"));
        }
        let switch = |name: &str, on: Option<bool>| match on {
            Some(true) => format!(",{name}=on"),
            Some(false) => format!(",{name}=off"),
            None => String::new(),
        };
        let vmport = switch("vmport", domain.features.vmport);
        let hpet = switch(
            "hpet",
            self.timer(TimerName::Hpet).and_then(|hpet| hpet.present),
        );
        let acpi = switch("acpi", Some(domain.features.acpi));
        self.option(
            "-machine",
            format!(
                "{machine},usb=off{vmport},dump-guest-core=off,memory-backend={RAM}{hpet}{acpi}"
            ),
        );
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

        self.option("-m", format!("size={}k", domain.memory_kib));
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
        self.option("-uuid", domain.uuid);

        self.option("-display", "none");
        self.flag("-no-user-config");
        self.flag("-nodefaults");
        self.option(
            "-chardev",
            format!(
                "socket,id=charmonitor,fd={},server=on,wait=off",
                self.resources.monitor
            ),
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
                let slew = if slew { ",driftfix=slew" } else { "" };
                self.option("-rtc", format!("base={base}{slew}"));
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
        let chipset = if self.is_q35() {
            "ICH9-LPC"
        } else {
            "PIIX4_PM"
        };
        for (state, enabled) in [("s3", power.suspend_to_mem), ("s4", power.suspend_to_disk)] {
            if let Some(enabled) = enabled {
                let disable = u8::from(!enabled);
                self.option("-global", format!("{chipset}.disable_{state}={disable}"));
            }
        }
    }

    fn cpu(&mut self, cpu: &Cpu) {
        let accelerated = self.domain.virt_type == VirtType::Kvm;
        let mut text = match cpu.mode.as_deref() {
            None | Some("custom") => match &cpu.model {
                Some(model) => doubled(&model.name),
                // Only a topology or the like: QEMU's default processor.
                None if cpu.features.is_empty() && self.cpu_clocks().is_empty() => return,
                None => "qemu64".to_owned(),
            },
            Some("host-passthrough") if accelerated => "host,migratable=on".to_owned(),
            Some("host-passthrough") => {
                return self.refuse("<cpu mode='host-passthrough'> without KVM");
            }
            // As near as QEMU comes without a database of models of ours.
            Some("host-model") if accelerated => "host,migratable=on".to_owned(),
            Some("host-model" | "maximum") => "max".to_owned(),
            Some(other) => return self.refuse(format!("<cpu mode='{other}'>")),
        };
        text.push_str(&self.cpu_clocks());
        for (policy, name) in &cpu.features {
            let state = match policy.as_deref() {
                None | Some("require" | "force" | "optional") => "on",
                Some("disable" | "forbid") => "off",
                Some(other) => {
                    self.refuse(format!("<feature policy='{other}' name='{name}'>"));
                    continue;
                }
            };
            text.push_str(&format!(",{}={state}", doubled(name)));
        }
        if cpu.check.as_deref() == Some("full") {
            // QEMU refuses to start rather than to leave out a feature.
            text.push_str(",enforce=on");
        }
        self.option("-cpu", text);
    }

    /// Clocks that are the processor's: the guest's paravirtual ones.
    fn cpu_clocks(&self) -> String {
        let clocks = [
            (TimerName::KvmClock, "kvmclock"),
            (TimerName::HypervClock, "hv-time"),
        ];
        let clocks = clocks.iter().filter_map(|&(name, feature)| {
            let state = if self.timer(name)?.present? {
                "on"
            } else {
                "off"
            };
            Some(format!(",{feature}={state}"))
        });
        clocks.collect()
    }

    fn smp(&mut self) {
        let max = self.domain.vcpus;
        let mut text = match self.domain.current_vcpus {
            Some(current) if current < max => format!("{current},maxcpus={max}"),
            _ => max.to_string(),
        };
        match self.domain.cpu.as_ref().and_then(|cpu| cpu.topology) {
            Some(t) => text.push_str(&format!(
                ",sockets={},dies={},clusters={},cores={},threads={}",
                t.sockets, t.dies, t.clusters, t.cores, t.threads
            )),
            None => text.push_str(&format!(",sockets={max},cores=1,threads=1")),
        }
        self.option("-smp", text);
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
                self.option(option, value);
            }
        }
    }
}

/// `pc`, `q35` and their versions.
fn is_known_machine(machine: &str) -> bool {
    matches!(machine, "pc" | "q35")
        || machine.starts_with("pc-i440fx-")
        || machine.starts_with("pc-q35-")
}
