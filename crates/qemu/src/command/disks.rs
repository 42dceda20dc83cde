//! Disks: a tree of `-blockdev` nodes and the device that shows it to the guest.

use conf::{Disk, DiskSource, Domain, GuestAddress};

use super::address::pci_address;
use super::json::Object;
use super::nodes::NodeNames;
use super::{Builder, Problem, is_q35};

impl Builder<'_> {
    pub(super) fn disks(&mut self) {
        for disk in &self.domain.devices.disks {
            let Some(alias) = self.alias(&disk.info, "disk") else {
                continue;
            };
            // What is wrong with the disk is known before anything is handed over for it.
            let names = NodeNames::new(&alias, 0);
            let nodes = nodes(disk, &names, None);
            let device = device(
                self.domain,
                disk,
                &alias,
                self.boot.index(&disk.info),
                &names,
            );
            match (nodes, device) {
                (Ok(_), Ok(device)) => {
                    let path = disk
                        .source
                        .is_some()
                        .then(|| self.file_set(&alias))
                        .flatten();
                    // They can be made with another path, too.
                    for node in self::nodes(disk, &names, path).into_iter().flatten() {
                        self.option("-blockdev", node.options);
                    }
                    self.option("-device", device);
                }
                (Err(problem), _) | (_, Err(problem)) => self.problems.push(problem),
            }
        }
    }
}

/// A node of the block layer.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// As `-blockdev` and `blockdev-add` take them.
    pub(crate) options: Object,
}

/// The nodes of a disk's medium, each on those before it; none of a drive that is empty. `path` is
/// where QEMU finds what it is to open, if not where the document says.
pub(crate) fn nodes(
    disk: &Disk,
    names: &NodeNames,
    path: Option<String>,
) -> Result<Vec<Node>, Problem> {
    let options = DriverOptions::parse(disk)?;
    let (driver, place) = match &disk.source {
        None => return Ok(Vec::new()),
        Some(DiskSource::File(path)) => ("file", path),
        Some(DiskSource::Block(path)) => ("host_device", path),
        Some(DiskSource::Other { kind, .. }) => {
            return Err(Problem::Unsupported(format!("<disk type='{kind}'>")));
        }
    };
    let path = path.unwrap_or_else(|| place.to_owned());
    let read_only = disk.read_only || disk.device == "cdrom";
    let raw = is_raw(disk);
    let mut node = Object::driver(driver)
        .with("filename", path)
        .maybe("aio", options.aio.as_deref())
        .with("node-name", &names.storage);
    if raw {
        node = node.with("read-only", read_only);
    } else {
        // The format layer above says whether it is written to.
        node = node.with("auto-read-only", true);
    }
    let detect_zeroes = options.detect_zeroes.as_deref();
    let node = node
        .maybe("discard", options.discard.as_deref())
        .maybe("detect-zeroes", detect_zeroes.filter(|_| raw))
        .maybe("cache", options.cache());
    let mut nodes = vec![Node {
        name: names.storage.clone(),
        options: node,
    }];
    if !raw {
        let node = Object::new()
            .with("node-name", &names.format)
            .with("read-only", read_only)
            .maybe("discard", options.discard.as_deref())
            .maybe("detect-zeroes", detect_zeroes)
            .maybe("cache", options.cache())
            .with("driver", &disk.format)
            .with("file", &names.storage);
        nodes.push(Node {
            name: names.format.clone(),
            options: node,
        });
    }
    Ok(nodes)
}

fn is_raw(disk: &Disk) -> bool {
    disk.format == "raw"
}

/// The device that shows a disk to the guest, on the topmost of its nodes.
pub(crate) fn device(
    domain: &Domain,
    disk: &Disk,
    alias: &str,
    boot_index: Option<u32>,
    names: &NodeNames,
) -> Result<Object, Problem> {
    let options = DriverOptions::parse(disk)?;
    let unsupported = |what: String| Err(Problem::Unsupported(what));
    if !matches!(disk.format.as_str(), "raw" | "qcow2") {
        return unsupported(format!("a disk of format '{}'", disk.format));
    }
    let cdrom = match disk.device.as_str() {
        "disk" => false,
        "cdrom" => true,
        other => return unsupported(format!("<disk device='{other}'>")),
    };
    if disk.source.is_none() && !cdrom {
        return unsupported(format!("disk '{}' without a source", disk.target));
    }
    let placed = match (disk.bus.as_str(), cdrom) {
        ("virtio", false) => Object::driver("virtio-blk-pci")
            .maybe("num-queues", options.queues)
            .and(pci_address(&domain.devices.controllers, &disk.info, alias)?),
        ("ide" | "sata" | "scsi", _) => drive_address(domain, disk, alias, cdrom)?,
        (bus, _) => {
            return unsupported(format!("<disk device='{}'> on bus '{bus}'", disk.device));
        }
    };
    let top = if is_raw(disk) {
        &names.storage
    } else {
        &names.format
    };
    Ok(placed
        .maybe("drive", disk.source.as_ref().map(|_| top))
        .with("id", alias)
        .maybe("bootindex", boot_index)
        .maybe("write-cache", options.write_cache())
        .maybe("werror", options.write_error.as_deref())
        .maybe("rerror", options.read_error.as_deref()))
}

/// The driver and its place, of a disk on a controller with drives.
fn drive_address(
    domain: &Domain,
    disk: &Disk,
    alias: &str,
    cdrom: bool,
) -> Result<Object, Problem> {
    let Some(GuestAddress::Drive {
        controller,
        bus,
        target,
        unit,
    }) = disk.info.address
    else {
        return Err(Problem::NoAddress(alias.to_owned()));
    };
    let kind = disk.bus.as_str();
    let mut controllers = domain.devices.controllers.iter();
    let controller_alias = controllers
        .find(|c| c.kind == kind && c.index == controller)
        .and_then(|c| c.info.alias.as_deref())
        .ok_or_else(|| Problem::NoController {
            device: alias.to_owned(),
            bus: format!("{} controller {controller}", kind.to_uppercase()),
        })?;
    let driver = match (kind, cdrom) {
        ("scsi", false) => "scsi-hd",
        ("scsi", true) => "scsi-cd",
        (_, false) => "ide-hd",
        (_, true) => "ide-cd",
    };
    let device = Object::driver(driver);
    // The machine's own controller has a name of QEMU's.
    let built_in = controller == 0;
    Ok(match kind {
        "scsi" => device
            .with("bus", format!("{controller_alias}.0"))
            .with("channel", 0u32)
            .with("scsi-id", target)
            .with("lun", unit),
        "sata" if built_in && is_q35(domain) => device.with("bus", format!("ide.{unit}")),
        "sata" => device.with("bus", format!("{controller_alias}.{unit}")),
        _ => device.with("bus", format!("ide.{bus}")).with("unit", unit),
    })
}

/// `<driver>` of a disk.
#[derive(Debug, Default)]
struct DriverOptions {
    cache_mode: Option<CacheMode>,
    aio: Option<String>,
    discard: Option<String>,
    detect_zeroes: Option<String>,
    write_error: Option<String>,
    read_error: Option<String>,
    queues: Option<u32>,
}

/// What a cache mode means: the guest sees a write-back cache; the host's page cache is passed
/// by; flushes are ignored.
#[derive(Debug, Clone, Copy)]
struct CacheMode {
    write_back: bool,
    direct: bool,
    no_flush: bool,
}

impl DriverOptions {
    fn parse(disk: &Disk) -> Result<Self, Problem> {
        let mut options = Self::default();
        for (name, value) in &disk.driver_attributes {
            let known = |words: &[&str]| words.contains(&value.as_str()).then(|| value.clone());
            let understood = match name.as_str() {
                "name" => value == "qemu",
                "type" => true,
                "cache" => {
                    options.cache_mode = CacheMode::parse(value);
                    value == "default" || options.cache_mode.is_some()
                }
                "io" => {
                    options.aio = known(&["threads", "native", "io_uring"]);
                    options.aio.is_some()
                }
                "discard" => {
                    options.discard = known(&["unmap", "ignore"]);
                    options.discard.is_some()
                }
                "detect_zeroes" => {
                    options.detect_zeroes = known(&["on", "off", "unmap"]);
                    options.detect_zeroes.is_some()
                }
                "error_policy" => {
                    options.write_error = known(&["stop", "report", "ignore", "enospace"])
                        // QEMU's word for it.
                        .map(|word| word.replace("enospace", "enospc"));
                    options.write_error.is_some()
                }
                "rerror_policy" => {
                    options.read_error = known(&["stop", "report", "ignore"]);
                    options.read_error.is_some()
                }
                "queues" => {
                    options.queues = value.parse().ok();
                    options.queues.is_some()
                }
                _ => false,
            };
            if !understood {
                let what = format!("<driver {name}='{value}'> of disk '{}'", disk.target);
                return Err(Problem::Unsupported(what));
            }
        }
        Ok(options)
    }

    fn cache(&self) -> Option<Object> {
        let mode = self.cache_mode?;
        Some(
            Object::new()
                .with("direct", mode.direct)
                .with("no-flush", mode.no_flush),
        )
    }

    fn write_cache(&self) -> Option<&'static str> {
        let mode = self.cache_mode?;
        Some(if mode.write_back { "on" } else { "off" })
    }
}

impl CacheMode {
    fn parse(word: &str) -> Option<Self> {
        let (write_back, direct, no_flush) = match word {
            "none" => (true, true, false),
            "writethrough" => (false, false, false),
            "writeback" => (true, false, false),
            "directsync" => (false, true, false),
            "unsafe" => (true, false, true),
            _ => return None,
        };
        Some(Self {
            write_back,
            direct,
            no_flush,
        })
    }
}
