//! Reading `<domain>`.

use uuid::Uuid;

use super::shapes::DOMAIN;
use super::{Cpu, Domain, Features, LifecycleActions, Origin, Os, VirtType};
use crate::kept::Kept;
use crate::xml::{Base, Keyword};
use crate::xml::{Element, parse_unsigned};
use crate::{Error, ErrorKind};

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

impl Domain {
    pub(super) fn read(element: Element<'_>, origin: Origin) -> Result<Self, Error> {
        let memory_kib = memory(element, "memory")?;
        let current = memory(element, "currentMemory")?;
        let memory_kib = memory_kib
            .or(current)
            .filter(|&memory| memory > 0)
            .ok_or_else(|| element.error(ErrorKind::Xml, "<domain> needs a <memory> above 0"))?;
        let (vcpus, current_vcpus) = vcpus(element)?;
        let text = |name: &str| element.child_text(name);
        let action = |name: &str, default: &str| {
            let text = text(name).map(|text| text.trim().to_owned());
            text.unwrap_or_else(|| default.to_owned())
        };
        let mut unused = Kept::of(element, &DOMAIN);
        unused.forget("vcpu", "placement", "static");
        let hard_limit = element.child("memtune");
        let hard_limit = hard_limit.map(|memtune| memory(memtune, "hard_limit"));
        Ok(Self {
            id: match origin {
                Origin::Status => element.number("id")?,
                Origin::Definition => None,
            },
            virt_type: virt_type(element)?,
            name: name(element)?,
            uuid: element.child_uuid("uuid")?.unwrap_or_else(Uuid::new_v4),
            title: title(element)?,
            description: text("description"),
            metadata: element.child("metadata").map(Element::raw),
            memory_kib,
            current_memory_kib: current.unwrap_or(memory_kib).min(memory_kib),
            memory_hard_limit_kib: hard_limit.transpose()?.flatten(),
            vcpus,
            current_vcpus,
            os: Os::read(element)?,
            features: Features::read(element),
            cpu: element.child("cpu").map(Cpu::read).transpose()?,
            clock_offset: clock_offset(element)?,
            lifecycle: LifecycleActions {
                on_poweroff: action("on_poweroff", "destroy"),
                on_reboot: action("on_reboot", "restart"),
                on_crash: action("on_crash", "destroy"),
            }
            .checked(element)?,
            devices: super::Devices::read(element.child("devices"), origin)?,
            unused,
        })
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
    if name.contains('/') || name.contains('\n') || name.trim().is_empty() {
        let shown: String = name.chars().take(60).collect();
        return Err(element.error(
            ErrorKind::Xml,
            format!("the name {shown:?} must not be blank or contain '/' or a line feed"),
        ));
    }
    Ok(name)
}

fn title(element: Element<'_>) -> Result<Option<String>, Error> {
    let title = element.child_text("title");
    if title.as_ref().is_some_and(|title| title.contains('\n')) {
        return Err(element.error(ErrorKind::Xml, "<title> must not contain a line feed"));
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
            machine: kind.attribute_string("machine").unwrap_or_default(),
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
    fn read(domain: Element<'_>) -> Self {
        let has = |name| {
            let features = domain.child("features");
            features.is_some_and(|features| features.child(name).is_some())
        };
        Self {
            acpi: has("acpi"),
            apic: has("apic"),
            pae: has("pae"),
        }
    }
}

impl LifecycleActions {
    fn checked(self, domain: Element<'_>) -> Result<Self, Error> {
        let plain = ["destroy", "restart", "rename-restart", "preserve"];
        let crash = ["coredump-destroy", "coredump-restart"];
        for (name, action) in [
            ("on_poweroff", &self.on_poweroff),
            ("on_reboot", &self.on_reboot),
            ("on_crash", &self.on_crash),
        ] {
            let of_crash = name == "on_crash" && crash.contains(&action.as_str());
            if !of_crash && !plain.contains(&action.as_str()) {
                let action: String = action.chars().take(40).collect();
                return Err(domain.error(
                    ErrorKind::ConfigUnsupported,
                    format!("<{name}> is '{action}': expected {}", plain.join(", ")),
                ));
            }
        }
        Ok(self)
    }
}
