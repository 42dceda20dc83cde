//! What uses the disks that are behind a device.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;

use rustix::fs::{Mode, OFlags};

use super::LinuxHost;
use super::sysfs::Reading;
use crate::{BlockUse, HostError, Usage};

/// Volumes on volumes on a disk that are looked at.
const MOST_VISITED: usize = 256;
/// Uses that are told of one device.
const MOST_TOLD: usize = 16;

/// What the host has mounted, and where its swap is.
#[derive(Debug, Default)]
struct Uses {
    /// Mount points by `major:minor`.
    mounted: BTreeMap<String, String>,
    /// Mount points by the name of what is mounted: file systems over several disks have a number of
    /// their own.
    mounted_names: BTreeMap<String, String>,
    /// Names of block devices.
    swap: BTreeSet<String>,
    /// Members of mounted btrfs file systems, by name.
    btrfs: BTreeSet<String>,
}

impl LinuxHost {
    /// What the host does with the disks below that directory of sysfs (`/sys/devices/…`).
    pub(super) fn block_usage_below(
        &self,
        below: &str,
        reading: Reading<'_>,
    ) -> Result<Vec<Usage>, HostError> {
        let disks = self.disks_below(below, reading)?;
        if disks.is_empty() {
            return Ok(Vec::new());
        }
        let uses = self.block_uses(reading)?;
        let mut usages = Vec::new();
        for disk in &disks {
            for by in self.uses_of(disk, &uses, reading)? {
                let device = disk.clone();
                usages.push(Usage::Block { device, by });
            }
        }
        // ZFS, and whatever else shows itself nowhere, has what it uses for itself.
        if usages.is_empty()
            && let Some(device) = disks.into_iter().find(|disk| self.is_held(disk))
        {
            let zfs = self.sysfs.module_dir("zfs").exists();
            let by = BlockUse::Held { zfs };
            usages.push(Usage::Block { device, by });
        }
        usages.truncate(MOST_TOLD);
        Ok(usages)
    }

    /// Disks and partitions below that directory.
    fn disks_below(
        &self,
        below: &str,
        reading: Reading<'_>,
    ) -> Result<BTreeSet<String>, HostError> {
        let all = reading.names(&self.sysfs.class_dir("block"))?;
        let mut found = BTreeSet::new();
        for name in all {
            let path = self
                .sysfs
                .canonical(&self.sysfs.class_dir("block").join(&name));
            if path.is_some_and(|path| is_below(&path, below)) {
                // One path to a disk that may have several; the disk is the host's under that name.
                found.extend(nvme_head(&name));
                found.insert(name);
            }
        }
        Ok(found)
    }

    fn block_uses(&self, reading: Reading<'_>) -> Result<Uses, HostError> {
        let mut uses = Uses::default();
        // The first process sees all that was not mounted out of everybody's sight.
        for process in ["1", "self"] {
            let file = self.paths.proc.join(process).join("mountinfo");
            let Ok(Some(mounts)) = reading.table(&file) else {
                continue;
            };
            for (number, source, at) in mounts.lines().filter_map(mount) {
                uses.mounted
                    .entry(number.to_owned())
                    .or_insert_with(|| at.clone());
                if let Some(name) = source.strip_prefix("/dev/") {
                    uses.mounted_names.entry(name.to_owned()).or_insert(at);
                }
            }
        }
        let swaps = reading.table(&self.paths.proc.join("swaps"))?;
        for line in swaps.iter().flat_map(|swaps| swaps.lines().skip(1)) {
            let file = line.split_whitespace().next().unwrap_or_default();
            let real = fs::canonicalize(file).unwrap_or_else(|_| file.into());
            if let Some(name) = real
                .strip_prefix("/dev")
                .ok()
                .and_then(|name| name.to_str())
            {
                uses.swap.insert(name.to_owned());
            }
        }
        let btrfs = self.sysfs.file_systems().join("btrfs");
        for file_system in reading.names(&btrfs)? {
            let devices = btrfs.join(file_system).join("devices");
            uses.btrfs.extend(reading.names(&devices)?);
        }
        Ok(uses)
    }

    /// How one disk or partition is used: by itself, and through what is built on it.
    fn uses_of(
        &self,
        disk: &str,
        uses: &Uses,
        reading: Reading<'_>,
    ) -> Result<Vec<BlockUse>, HostError> {
        let (mut told, mut seen) = (Vec::new(), BTreeSet::new());
        let mut waiting = VecDeque::from([disk.to_owned()]);
        while let Some(name) = waiting.pop_front() {
            if !seen.insert(name.clone()) || seen.len() > MOST_VISITED {
                continue;
            }
            let directory = self.sysfs.class_dir("block").join(&name);
            let number = reading.text(&directory.join("dev"))?.unwrap_or_default();
            let mounted = uses
                .mounted
                .get(&number)
                .or_else(|| uses.mounted_names.get(&name));
            if let Some(at) = mounted {
                told.push(BlockUse::Mounted(at.clone()));
            } else if uses.btrfs.contains(&name) {
                told.push(BlockUse::Member("a btrfs file system".to_owned()));
            }
            if uses.swap.contains(&name) {
                told.push(BlockUse::Swap);
            }
            for holder in reading.names(&directory.join("holders"))? {
                told.push(BlockUse::Member(self.volume(&holder, reading)?));
                waiting.push_back(holder);
            }
        }
        Ok(told)
    }

    /// What people call a device that is built of others.
    fn volume(&self, name: &str, reading: Reading<'_>) -> Result<String, HostError> {
        let directory = self.sysfs.class_dir("block").join(name).join("dm");
        let Some(own) = reading.text(&directory.join("name"))? else {
            return Ok(name.to_owned());
        };
        let uuid = reading.text(&directory.join("uuid"))?.unwrap_or_default();
        let kind = match uuid.split('-').next() {
            Some("LVM") => "LVM volume",
            Some("CRYPT") => "encrypted volume",
            Some("mpath") => "multipath device",
            _ => "volume",
        };
        Ok(format!("{kind} {own} ({name})"))
    }

    /// Whether somebody has the disk for itself. It is opened for a moment as such a one would.
    fn is_held(&self, disk: &str) -> bool {
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // `!` stands for `/` in sysfs: cciss!c0d0.
        let node = self.paths.dev.join(disk.replace('!', "/"));
        match rustix::fs::open(&node, flags, Mode::empty()) {
            Err(rustix::io::Errno::BUSY) => true,
            Err(error) => {
                tracing::debug!(disk, error = %io::Error::from(error), "not looked into");
                false
            }
            Ok(_) => false,
        }
    }
}

/// Whether a path is inside that directory.
pub(super) fn is_below(path: &str, directory: &str) -> bool {
    (path.strip_prefix(directory)).is_some_and(|rest| rest.starts_with('/'))
}

/// `nvme0c1n2` is controller 1's path to `nvme0n2`.
fn nvme_head(name: &str) -> Option<String> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, disk) = rest.split_once('n')?;
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let all = numeric(subsystem) && numeric(controller) && numeric(disk);
    all.then(|| format!("nvme{subsystem}n{disk}"))
}

/// Number, source and mount point of a line of `mountinfo`.
fn mount(line: &str) -> Option<(&str, &str, String)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let (number, _, at) = (fields.next()?, fields.next()?, fields.next()?);
    let source = after.split(' ').nth(1)?;
    Some((number, source, unescape(at)))
}

/// Blanks and the like stand as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_several_to_an_nvme_disk_is_that_disk() {
        assert_eq!(nvme_head("nvme0c1n2").as_deref(), Some("nvme0n2"));
        for other in ["nvme0n1", "nvme0n1p1", "nvmec1n1", "sda", "nvme0c1n"] {
            assert_eq!(nvme_head(other), None, "{other}");
        }
    }

    #[test]
    fn a_mount_tells_its_number_its_source_and_where_it_is() {
        let line = "36 35 8:2 /root /mnt\\040a rw,noatime shared:1 - ext4 /dev/sda2 rw";
        let read = mount(line).unwrap();
        assert_eq!(read, ("8:2", "/dev/sda2", "/mnt a".to_owned()));
        for mangled in ["", " - ", "36 35 8:2 - ext4", "1 2 - x y"] {
            assert_eq!(mount(mangled), None, "{mangled}");
        }
        assert_eq!(unescape("a\\"), "a\\");
        assert_eq!(unescape("a\\9é"), "a\\9é");
    }

    #[test]
    fn what_is_inside_a_directory() {
        assert!(is_below("/sys/devices/a/b", "/sys/devices/a"));
        assert!(!is_below("/sys/devices/ab", "/sys/devices/a"));
        assert!(!is_below("/sys/devices/a", "/sys/devices/a"));
    }
}
