//! Disks: a tree of `-blockdev` nodes and the device that shows it to the guest.

use conf::{Disk, DiskSource, GuestAddress};

use super::json::Object;
use super::{Builder, Problem};

impl Builder<'_> {
    pub(super) fn disks(&mut self) {
        for (index, disk) in self.domain.devices.disks.iter().enumerate() {
            let Some(alias) = self.alias(&disk.info, "disk") else {
                continue;
            };
            let options = match DriverOptions::parse(disk) {
                Ok(options) => options,
                Err(problem) => {
                    self.problems.push(problem);
                    continue;
                }
            };
            let node = match &disk.source {
                None => None,
                Some(DiskSource::File(path)) => {
                    Some(self.nodes(index, disk, ("file", path), &alias, &options))
                }
                Some(DiskSource::Block(path)) => {
                    Some(self.nodes(index, disk, ("host_device", path), &alias, &options))
                }
                Some(DiskSource::Other { kind, .. }) => {
                    self.refuse(format!("<disk type='{kind}'>"));
                    continue;
                }
            };
            let device = self.disk_device(disk, &alias, node, &options);
            self.device(device);
        }
    }

    /// Adds the disk's nodes, and returns the name of the topmost.
    fn nodes(
        &mut self,
        index: usize,
        disk: &Disk,
        (driver, path): (&str, &str),
        alias: &str,
        options: &DriverOptions,
    ) -> String {
        // Node names have 31 bytes, aliases may have more.
        let storage = format!("disk{index}-storage");
        let path = self.file_set(alias).unwrap_or_else(|| path.to_owned());
        let read_only = disk.read_only || disk.device == "cdrom";
        let raw = disk.format == "raw";
        let mut node = Object::driver(driver)
            .with("filename", path)
            .maybe("aio", options.aio.as_deref())
            .with("node-name", &storage);
        if raw {
            node = node.with("read-only", read_only);
        } else {
            // The format layer above says whether it is written to.
            node = node.with("auto-read-only", true);
        }
        let node = node
            .maybe("discard", options.discard.as_deref())
            .maybe(
                "detect-zeroes",
                options.detect_zeroes.as_deref().filter(|_| raw),
            )
            .maybe("cache", options.cache());
        self.option("-blockdev", node);
        if raw {
            return storage;
        }
        let format = format!("disk{index}-format");
        let node = Object::new()
            .with("node-name", &format)
            .with("read-only", read_only)
            .maybe("discard", options.discard.as_deref())
            .maybe("detect-zeroes", options.detect_zeroes.as_deref())
            .maybe("cache", options.cache())
            .with("driver", &disk.format)
            .with("file", storage);
        self.option("-blockdev", node);
        format
    }

    fn disk_device(
        &self,
        disk: &Disk,
        alias: &str,
        node: Option<String>,
        options: &DriverOptions,
    ) -> Result<Object, Problem> {
        let unsupported = |what: String| Err(Problem::Unsupported(what));
        if !matches!(disk.format.as_str(), "raw" | "qcow2") {
            return unsupported(format!("a disk of format '{}'", disk.format));
        }
        let cdrom = match disk.device.as_str() {
            "disk" => false,
            "cdrom" => true,
            other => return unsupported(format!("<disk device='{other}'>")),
        };
        if node.is_none() && !cdrom {
            return unsupported(format!("disk '{}' without a source", disk.target));
        }
        let placed = match (disk.bus.as_str(), cdrom) {
            ("virtio", false) => Object::driver("virtio-blk-pci")
                .maybe("num-queues", options.queues)
                .and(self.pci_address(&disk.info, alias)?),
            ("ide" | "sata" | "scsi", _) => self.drive_address(disk, alias, cdrom)?,
            (bus, _) => {
                return unsupported(format!("<disk device='{}'> on bus '{bus}'", disk.device));
            }
        };
        Ok(placed
            .maybe("drive", node)
            .with("id", alias)
            .maybe("bootindex", self.boot.index(&disk.info))
            .maybe("write-cache", options.write_cache())
            .maybe("werror", options.write_error.as_deref())
            .maybe("rerror", options.read_error.as_deref()))
    }

    /// The driver and its place, of a disk on a controller with drives.
    fn drive_address(&self, disk: &Disk, alias: &str, cdrom: bool) -> Result<Object, Problem> {
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
        let found = self.controllers_of(kind).find(|c| c.index == controller);
        let controller_alias =
            found
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
            "sata" if built_in && self.is_q35() => device.with("bus", format!("ide.{unit}")),
            "sata" => device.with("bus", format!("{controller_alias}.{unit}")),
            _ => device.with("bus", format!("ide.{bus}")).with("unit", unit),
        })
    }
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
