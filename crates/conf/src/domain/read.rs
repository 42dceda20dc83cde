//! Reading `<domain>`.

use uuid::Uuid;

use super::defaults::{is_i440fx, is_q35};
use super::shapes::DOMAIN;
use super::{
    Cpu, Domain, Features, LifecycleActions, Origin, Os, Placement, PowerManagement, Timer,
    VirtType,
};
use crate::kept::Kept;
use crate::xml::{Base, Keyword};
use crate::xml::{Element, parse_unsigned};
use crate::{Error, ErrorKind, Faults, object_name};

/// The architecture of this daemon's guests, where a document names none.
const DEFAULT_ARCHITECTURE: &str = "x86_64";

/// What libvirt calls architectures.
const ARCHITECTURES: [&str; 36] = [
    "alpha",
    "armv6l",
    "armv7l",
    "armv7b",
    "aarch64",
    "cris",
    "i686",
    "ia64",
    "lm32",
    "m68k",
    "microblaze",
    "microblazeel",
    "mips",
    "mipsel",
    "mips64",
    "mips64el",
    "or32",
    "parisc",
    "parisc64",
    "ppc",
    "ppc64",
    "ppc64le",
    "ppcemb",
    "riscv32",
    "riscv64",
    "s390",
    "s390x",
    "sh4",
    "sh4eb",
    "sparc",
    "sparc64",
    "unicore32",
    "x86_64",
    "xtensa",
    "xtensaeb",
    "loongarch64",
];

/// What may follow a power-off, a reboot or a crash.
const PLAIN_ACTIONS: [&str; 4] = ["destroy", "restart", "rename-restart", "preserve"];

/// What else may follow a crash.
const CRASH_ACTIONS: [&str; 2] = ["coredump-destroy", "coredump-restart"];

impl Domain {
    pub(super) fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        // In libvirt's order, so that of several faults the same one is told first.
        let mut faults = Faults::default();
        let memory_kib = faults.or_default(memory(element, "memory"));
        let current = faults.or_default(memory(element, "currentMemory"));
        let memory_kib = memory_kib.or(current).filter(|&memory| memory > 0);
        if memory_kib.is_none() && faults.is_empty() {
            let message = "<domain> needs a <memory> above 0";
            faults.push(element.error(ErrorKind::Xml, message));
        }
        let memory_kib = memory_kib.unwrap_or_default();
        let (vcpus, current_vcpus) = faults.or_default(vcpus(element));
        let mut unused = Kept::of(element, &DOMAIN);
        unused.forget(&["vcpu"], "placement", "static");
        unused.forget(&["numatune", "memory"], "placement", "static");
        let domain = Self {
            id: match origin {
                Origin::Status => faults.or_default(element.number("id")),
                Origin::Definition => None,
            },
            virt_type: faults.or(virt_type(element), || VirtType::Qemu),
            name: faults.or_default(name(element)),
            uuid: faults
                .or_default(element.child_uuid("uuid"))
                .unwrap_or_else(Uuid::new_v4),
            title: faults.or_default(title(element)),
            description: element.child_text("description"),
            metadata: element.child("metadata").map(Element::raw),
            memory_kib,
            current_memory_kib: current.unwrap_or(memory_kib).min(memory_kib),
            memory_hard_limit_kib: element
                .child("memtune")
                .and_then(|memtune| faults.or_default(memory(memtune, "hard_limit"))),
            vcpus,
            current_vcpus,
            placement: faults.or_default(Placement::read(element, vcpus)),
            os: faults.or_default(Os::read(element)),
            features: faults.or_default(Features::read(element)),
            cpu: element
                .child("cpu")
                .and_then(|cpu| faults.or_default(Cpu::read(cpu).map(Some))),
            clock_offset: faults.or_default(clock_offset(element)),
            timers: match element.child("clock") {
                Some(clock) => Timer::read_all(clock, &mut faults),
                None => Vec::new(),
            },
            power: match element.child("pm") {
                Some(pm) => faults.or_default(PowerManagement::read(pm)),
                None => PowerManagement::default(),
            },
            lifecycle: LifecycleActions::read(element, &mut faults),
            devices: faults.or_default(super::Devices::read(element.child("devices"), origin)),
            unused,
        };
        faults.finish()?;
        Ok(domain)
    }
}

fn virt_type(element: Element<'_>) -> Result<VirtType, Error> {
    let word = element.require("type")?;
    VirtType::from_word(word)
        .ok_or_else(|| element.invalid(ErrorKind::ConfigUnsupported, "type", VirtType::expected()))
}

fn name(element: Element<'_>) -> Result<String, Error> {
    let child = element.child("name");
    let name = child.map(Element::text).unwrap_or_default();
    if name.is_empty() {
        return Err(element.error(ErrorKind::NoName, "<domain> needs a <name>"));
    }
    if let Some(fault) = object_name::unfit(&name) {
        let message = format!("the guest's name {:?} {fault}", object_name::shown(&name));
        return Err(child.unwrap_or(element).error(ErrorKind::Xml, message));
    }
    Ok(name)
}

fn title(element: Element<'_>) -> Result<Option<String>, Error> {
    let title = element.child_text("title");
    if title.as_ref().is_some_and(|title| title.contains('\n')) {
        let place = element.child("title").unwrap_or(element);
        return Err(place.error(ErrorKind::Xml, "<title> must not contain a line feed"));
    }
    Ok(title)
}

/// An amount of memory in KiB, rounded up, from any of libvirt's units.
fn memory(element: Element<'_>, name: &str) -> Result<Option<u64>, Error> {
    let Some(child) = element.child(name) else {
        return Ok(None);
    };
    let text = child.text();
    let amount = parse_unsigned(text.trim(), Base::Ten).ok_or_else(|| {
        let text: String = text.trim().chars().take(40).collect();
        child.error(
            ErrorKind::Xml,
            format!("<{name}> is '{text}': expected a number"),
        )
    })?;
    let unit = match child.attribute("unit").unwrap_or("KiB") {
        "b" | "byte" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        "PB" => 1_000_000_000_000_000,
        "P" | "PiB" => 1 << 50,
        "EB" => 1_000_000_000_000_000_000,
        "E" | "EiB" => 1_u64 << 60,
        _ => {
            let expected = "bytes, KiB, MiB, GiB, TiB, PiB, EiB or KB, MB, GB, TB, PB, EB";
            return Err(child.invalid(ErrorKind::InvalidArgument, "unit", expected));
        }
    };
    let bytes = amount.checked_mul(unit);
    let bytes = bytes.filter(|&bytes| bytes <= i64::MAX.unsigned_abs());
    let bytes = bytes.ok_or_else(|| {
        child.error(
            ErrorKind::Overflow,
            format!("<{name}> is more memory than can be counted in 63 bits"),
        )
    })?;
    Ok(Some(bytes.div_ceil(1024)))
}

fn vcpus(element: Element<'_>) -> Result<(u32, Option<u32>), Error> {
    let Some(child) = element.child("vcpu") else {
        return Ok((1, None));
    };
    // Of several, the rest is kept, and must be fit to be read again.
    for child in element.children_named("vcpu") {
        let placement = child.attribute("placement");
        if placement.is_some_and(|word| !["static", "auto"].contains(&word)) {
            return Err(child.invalid(ErrorKind::Xml, "placement", "static or auto"));
        }
    }
    let text = child.text();
    let text = text.trim();
    let count = match text {
        "" => 1,
        "0" if child
            .number::<u32>("current")?
            .is_some_and(|current| current > 0) =>
        {
            let message = "<vcpu> is 0, and less than current";
            return Err(child.error(ErrorKind::ConfigUnsupported, message));
        }
        "0" => {
            let message = "<vcpu> is 0: a guest needs one at least";
            return Err(child.error(ErrorKind::Internal, message));
        }
        _ => parse_unsigned(text, Base::Ten)
            .filter(|count| (1..=u64::from(u16::MAX)).contains(count))
            .ok_or_else(|| {
                let text: String = text.chars().take(40).collect();
                let message = format!("<vcpu> is '{text}': expected a number from 1 to 65535");
                child.error(ErrorKind::Xml, message)
            })?,
    };
    let count = u32::try_from(count).unwrap_or(1);
    let current = child.number::<u32>("current")?;
    if let Some(current) = current.filter(|current| !(1..=count).contains(current)) {
        return Err(child.attribute_error(
            ErrorKind::ConfigUnsupported,
            "current",
            format!("current='{current}' on <vcpu>: expected a number from 1 to {count}"),
        ));
    }
    Ok((count, current.filter(|&current| current != count)))
}

fn clock_offset(element: Element<'_>) -> Result<String, Error> {
    let Some(clock) = element.child("clock") else {
        return Ok("utc".to_owned());
    };
    match clock.attribute("offset") {
        None => Ok("utc".to_owned()),
        Some(offset @ ("utc" | "localtime" | "variable" | "timezone" | "absolute")) => {
            Ok(offset.to_owned())
        }
        Some(_) => Err(clock.invalid(
            ErrorKind::ConfigUnsupported,
            "offset",
            "utc, localtime, variable, timezone or absolute",
        )),
    }
}

impl Os {
    fn read(domain: Element<'_>) -> Result<Self, Error> {
        let missing = || domain.error(ErrorKind::Xml, "an os <type> must be specified");
        let os = domain.child("os").ok_or_else(missing)?;
        let kind = os.child("type").ok_or_else(missing)?;
        let text = kind.text();
        if text.trim() != "hvm" {
            let text: String = text.trim().chars().take(40).collect();
            let known = ["xen", "linux", "exe", "uml", "xenpvh"].contains(&text.trim());
            let class = match known {
                true => ErrorKind::OsType,
                false => ErrorKind::ConfigUnsupported,
            };
            return Err(kind.error(
                class,
                format!("<os><type> is '{text}': expected hvm, a whole machine"),
            ));
        }
        let arch = kind.attribute_string("arch");
        if arch
            .as_deref()
            .is_some_and(|arch| !ARCHITECTURES.contains(&arch))
        {
            let expected = ARCHITECTURES.join(", ");
            return Err(kind.invalid(ErrorKind::ConfigUnsupported, "arch", expected));
        }
        let machine = kind.attribute_string("machine").unwrap_or_default();
        if !machine.is_empty() && !is_q35(&machine) && !is_i440fx(&machine) {
            let expected = "q35 or pc, or one of their versions";
            return Err(kind.invalid(ErrorKind::Xml, "machine", expected));
        }
        let mut boot = Vec::new();
        for child in os.children_named("boot") {
            match child.require("dev")? {
                dev @ ("fd" | "hd" | "cdrom" | "network") => boot.push(dev.to_owned()),
                _ => {
                    return Err(child.invalid(ErrorKind::Xml, "dev", "fd, hd, cdrom, network"));
                }
            }
        }
        let path = |name: &str| os.child_text(name).filter(|text| !text.trim().is_empty());
        Ok(Self {
            arch: arch.unwrap_or_else(|| DEFAULT_ARCHITECTURE.to_owned()),
            machine,
            kernel: path("kernel"),
            initrd: path("initrd"),
            cmdline: path("cmdline"),
            boot,
            bios_use_serial: match os.child("bios") {
                Some(bios) => bios.yes_no("useserial")?,
                None => None,
            },
        })
    }
}

impl Features {
    fn read(domain: Element<'_>) -> Result<Self, Error> {
        let features = domain.child("features");
        let child = |name| features.and_then(|features| features.child(name));
        Ok(Self {
            acpi: child("acpi").is_some(),
            apic: child("apic").is_some(),
            pae: child("pae").is_some(),
            vmport: match child("vmport") {
                Some(vmport) => vmport.on_off("state")?,
                None => None,
            },
        })
    }
}

impl PowerManagement {
    fn read(pm: Element<'_>) -> Result<Self, Error> {
        let enabled = |name: &str| match pm.child(name) {
            Some(child) => child.yes_no("enabled"),
            None => Ok(None),
        };
        Ok(Self {
            suspend_to_mem: enabled("suspend-to-mem")?,
            suspend_to_disk: enabled("suspend-to-disk")?,
        })
    }
}

impl LifecycleActions {
    fn read(domain: Element<'_>, faults: &mut Faults) -> Self {
        let mut action = |name: &str, default: &str, crash: bool| {
            let text = domain.child_text(name);
            let word = text.map_or_else(|| default.to_owned(), |text| text.trim().to_owned());
            let known = PLAIN_ACTIONS.contains(&word.as_str())
                || crash && CRASH_ACTIONS.contains(&word.as_str());
            if known {
                return word;
            }
            let shown: String = word.chars().take(40).collect();
            let expected = PLAIN_ACTIONS.join(", ");
            let message = format!("<{name}> is '{shown}': expected {expected}");
            let place = domain.child(name).unwrap_or(domain);
            faults.or_default(Err(place.error(ErrorKind::ConfigUnsupported, message)))
        };
        Self {
            on_poweroff: action("on_poweroff", "destroy", false),
            on_reboot: action("on_reboot", "restart", false),
            on_crash: action("on_crash", "destroy", true),
        }
    }
}
