//! What the host is: its processors, memory and identity.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::Paths;

/// The host as clients ask for it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInfo {
    /// Its name.
    pub hostname: String,
    /// Its identity, as `xxxxxxxx-xxxx-…`: the firmware's, else the machine id's digits.
    pub uuid: Option<String>,
    /// Architecture, `x86_64`.
    pub arch: String,
    /// The processors' name, as they tell it.
    pub cpu_model: Option<String>,
    /// The processors' maker, as they tell it (`GenuineIntel`).
    pub cpu_vendor: Option<String>,
    /// What the processors can, by the kernel's names.
    pub cpu_flags: Vec<String>,
    /// Clock rate, 0 where the kernel does not tell.
    pub mhz: u32,
    /// KiB.
    pub memory_kib: u64,
    /// NUMA nodes, at least one.
    pub cells: Vec<NumaCell>,
    /// Sockets per NUMA node, at least 1.
    pub sockets: u32,
    /// Cores per socket, at least 1.
    pub cores: u32,
    /// Threads per core, at least 1.
    pub threads: u32,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaCell {
    /// Its number.
    pub id: u32,
    /// KiB.
    pub memory_kib: u64,
    /// Its processors that are online, by number.
    pub cpus: Vec<Cpu>,
}

/// A logical processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// Its socket.
    pub socket: u32,
    /// Its core within the socket.
    pub core: u32,
    /// The threads of its core, itself among them.
    pub siblings: Vec<u32>,
}

/// The host does not tell something that every host has.
#[derive(Debug, thiserror::Error)]
#[error("what this host is can't be read from {path}")]
pub struct NodeInfoError {
    /// The file.
    path: String,
    /// What the kernel said.
    #[source]
    source: io::Error,
}

impl NodeInfo {
    /// Reads all that from sysfs and procfs; costs a few files per processor.
    pub fn read(paths: &Paths) -> Result<Self, NodeInfoError> {
        let meminfo = paths.proc.join("meminfo");
        let memory_kib = total_kib(&required(&meminfo)?);
        let cpuinfo = required(&paths.proc.join("cpuinfo"))?;
        let online = optional(&paths.sysfs.join("devices/system/cpu/online"));
        let cpus = read_cpus(
            paths,
            &online.map(|text| cpu_list(&text)).unwrap_or_default(),
        );
        let cells = read_cells(paths, &cpus, memory_kib);
        let sockets: BTreeSet<u32> = cpus.iter().map(|cpu| cpu.socket).collect();
        let cores: BTreeSet<_> = cpus.iter().map(|cpu| (cpu.socket, cpu.core)).collect();
        let threads = cpus.iter().map(|cpu| cpu.siblings.len()).max();
        let uname = rustix::system::uname();
        Ok(Self {
            hostname: uname.nodename().to_string_lossy().into_owned(),
            uuid: host_uuid(paths),
            arch: uname.machine().to_string_lossy().into_owned(),
            cpu_model: cpuinfo_field(&cpuinfo, "model name"),
            cpu_vendor: cpuinfo_field(&cpuinfo, "vendor_id"),
            cpu_flags: cpuinfo_field(&cpuinfo, "flags")
                .map(|flags| flags.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            mhz: cpuinfo_field(&cpuinfo, "cpu MHz").map_or(0, |text| whole(&text)),
            memory_kib,
            // What clients multiply must give the processors that there are.
            sockets: at_least_one(sockets.len() / cells.len().max(1)),
            cores: at_least_one(cores.len() / sockets.len().max(1)),
            threads: at_least_one(threads.unwrap_or(1)),
            cells,
        })
    }

    /// A host of two sockets, as simulated ones are.
    #[must_use]
    pub fn simulated() -> Self {
        let cell = |id: u32| NumaCell {
            id,
            memory_kib: 16 << 20,
            cpus: (id * 4..id * 4 + 4)
                .map(|cpu| Cpu {
                    id: cpu,
                    socket: id,
                    core: cpu % 4,
                    siblings: vec![cpu],
                })
                .collect(),
        };
        Self {
            hostname: String::from("simulated"),
            uuid: Some(String::from("51300000-0000-4000-8000-000000000001")),
            arch: String::from("x86_64"),
            cpu_model: Some(String::from("Simulated CPU")),
            cpu_vendor: None,
            cpu_flags: Vec::new(),
            mhz: 2000,
            memory_kib: 32 << 20,
            cells: vec![cell(0), cell(1)],
            sockets: 1,
            cores: 4,
            threads: 1,
        }
    }

    /// Logical processors that are online.
    #[must_use]
    pub fn cpu_count(&self) -> usize {
        self.cells.iter().map(|cell| cell.cpus.len()).sum()
    }
}

fn read_cpus(paths: &Paths, online: &[u32]) -> Vec<Cpu> {
    let cpus = online.iter().map(|&id| {
        let topology = paths
            .sysfs
            .join(format!("devices/system/cpu/cpu{id}/topology"));
        // -1 where the platform does not tell.
        let number = |name: &str| optional(&topology.join(name)).map_or(0, |text| whole(&text));
        let siblings = optional(&topology.join("thread_siblings_list"));
        Cpu {
            id,
            socket: number("physical_package_id"),
            core: number("core_id"),
            siblings: siblings.map_or_else(|| vec![id], |text| cpu_list(&text)),
        }
    });
    cpus.collect()
}

/// The NUMA nodes that have processors or memory; one with all where the kernel has no NUMA.
fn read_cells(paths: &Paths, cpus: &[Cpu], memory_kib: u64) -> Vec<NumaCell> {
    let by_id: BTreeMap<u32, &Cpu> = cpus.iter().map(|cpu| (cpu.id, cpu)).collect();
    let nodes = paths.sysfs.join("devices/system/node");
    let online = optional(&nodes.join("online")).map(|text| cpu_list(&text));
    let cells = online.unwrap_or_default().into_iter().filter_map(|id| {
        let node = nodes.join(format!("node{id}"));
        let listed = cpu_list(&optional(&node.join("cpulist"))?);
        let memory = optional(&node.join("meminfo"));
        Some(NumaCell {
            id,
            memory_kib: memory.map_or(0, |text| total_kib(&text)),
            cpus: listed
                .iter()
                .filter_map(|cpu| by_id.get(cpu))
                .map(|cpu| (*cpu).clone())
                .collect(),
        })
    });
    let cells: Vec<_> = cells.collect();
    if !cells.is_empty() {
        return cells;
    }
    vec![NumaCell {
        id: 0,
        memory_kib,
        cpus: cpus.to_vec(),
    }]
}

fn host_uuid(paths: &Paths) -> Option<String> {
    let firmware = optional(&paths.sysfs.join("class/dmi/id/product_uuid"));
    let firmware = firmware.map(|text| text.trim().to_lowercase());
    // Some firmware has only placeholders: one digit all through.
    let real = firmware.filter(|text| {
        let digits: BTreeSet<char> = text.chars().filter(char::is_ascii_hexdigit).collect();
        text.len() == 36 && digits.len() > 1
    });
    real.or_else(|| {
        let id = optional(&paths.machine_id)?.trim().to_lowercase();
        let valid = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default();
        valid.then(|| {
            let parts = [
                part(0, 8),
                part(8, 12),
                part(12, 16),
                part(16, 20),
                part(20, 32),
            ];
            parts.join("-")
        })
    })
}

/// `0-3,8` and the like. Bounded, whatever the text claims.
fn cpu_list(text: &str) -> Vec<u32> {
    const MOST: u32 = 8192;
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?;
        (*range.end() < MOST).then_some(range)
    });
    ranges.flatten().collect()
}

/// `MemTotal`, of the host or of a node.
fn total_kib(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.split_once("MemTotal:"));
    let number = line.and_then(|(_, rest)| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn cpuinfo_field(cpuinfo: &str, name: &str) -> Option<String> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(key, _)| key.trim() == name);
    found
        .map(|(_, value)| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

/// The whole part of a number that is not negative, else 0.
fn whole(text: &str) -> u32 {
    let whole = text.trim().split('.').next().unwrap_or_default();
    whole.parse().unwrap_or(0)
}

fn at_least_one(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).max(1)
}

fn optional(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn required(path: &Path) -> Result<String, NodeInfoError> {
    fs::read_to_string(path).map_err(|source| NodeInfoError {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn two_sockets(root: &Path) {
        write(
            root,
            "proc/meminfo",
            "MemTotal:       32000000 kB\nMemFree: 1 kB\n",
        );
        let cpuinfo = "processor\t: 0\nvendor_id\t: GenuineIntel\n\
            model name\t: Some CPU @ 2.00GHz\ncpu MHz\t\t: 1999.998\nflags\t\t: fpu vmx\n\n";
        write(root, "proc/cpuinfo", cpuinfo);
        write(root, "sys/devices/system/cpu/online", "0-7\n");
        write(root, "sys/devices/system/node/online", "0-1\n");
        for cpu in 0..8_u32 {
            let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            let socket = (cpu / 4).to_string();
            write(root, &format!("{topology}/physical_package_id"), &socket);
            write(
                root,
                &format!("{topology}/core_id"),
                &(cpu % 4 / 2).to_string(),
            );
            let first = cpu / 2 * 2;
            let siblings = format!("{first}-{}\n", first + 1);
            write(root, &format!("{topology}/thread_siblings_list"), &siblings);
        }
        for node in 0..2 {
            let directory = format!("sys/devices/system/node/node{node}");
            let memory = format!("Node {node} MemTotal:       16000000 kB\n");
            write(root, &format!("{directory}/meminfo"), &memory);
            let cpus = format!("{}-{}\n", node * 4, node * 4 + 3);
            write(root, &format!("{directory}/cpulist"), &cpus);
        }
    }

    #[test]
    fn two_sockets_with_two_threads_a_core() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        let info = NodeInfo::read(&Paths::under(root.path())).unwrap();
        assert_eq!((info.sockets, info.cores, info.threads), (1, 2, 2));
        assert_eq!((info.cells.len(), info.cpu_count(), info.mhz), (2, 8, 1999));
        assert_eq!(info.memory_kib, 32_000_000);
        assert_eq!(info.cells[1].memory_kib, 16_000_000);
        assert_eq!(info.cells[1].cpus[1].siblings, [4, 5]);
        assert_eq!(info.cpu_model.as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(info.cpu_flags, ["fpu", "vmx"]);
    }

    #[test]
    fn without_numa_there_is_one_cell_with_everything() {
        let root = tempfile::tempdir().unwrap();
        two_sockets(root.path());
        fs::remove_dir_all(root.path().join("sys/devices/system/node")).unwrap();
        let info = NodeInfo::read(&Paths::under(root.path())).unwrap();
        assert_eq!(
            (info.cells.len(), info.cpu_count(), info.sockets),
            (1, 8, 2)
        );
        assert_eq!(info.cells[0].memory_kib, 32_000_000);
    }

    #[test]
    fn the_identity_is_the_firmwares_unless_that_is_a_placeholder() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert_eq!(host_uuid(&paths), None);
        write(
            root.path(),
            "etc/machine-id",
            "0123456789ABCDEF0123456789abcdef\n",
        );
        let own = Some(String::from("01234567-89ab-cdef-0123-456789abcdef"));
        assert_eq!(host_uuid(&paths), own);
        let firmware = "sys/class/dmi/id/product_uuid";
        write(
            root.path(),
            firmware,
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n",
        );
        assert_eq!(host_uuid(&paths), own);
        write(
            root.path(),
            firmware,
            "4C4C4544-0042-3510-8053-B4C04F564433\n",
        );
        let theirs = "4c4c4544-0042-3510-8053-b4c04f564433";
        assert_eq!(host_uuid(&paths).as_deref(), Some(theirs));
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cpu_list(""), [0_u32; 0]);
        assert_eq!(cpu_list("0-4294967295,x,3-1,7"), [7]);
    }

    #[test]
    fn this_host_can_be_read() {
        let info = NodeInfo::read(&Paths::default()).unwrap();
        assert!(info.memory_kib > 0 && info.cpu_count() > 0 && !info.hostname.is_empty());
    }
}
