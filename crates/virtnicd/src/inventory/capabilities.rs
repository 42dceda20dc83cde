//! `<capabilities>`: what this host is, and which guests it can run.

use std::fs::File;
use std::path::Path;

use conf::xml::Writer;
use host::{Cpu, Host, NodeInfo, NumaCell};
use qemu::DEFAULT_EMULATOR;
use tokio::task::block_in_place;

use crate::daemon::Daemon;

/// The processors that QEMU's ordinary machines take.
const MAX_CPUS: u32 = 255;
/// The kinds of machine that guests here can be.
const MACHINES: [&str; 2] = ["pc", "q35"];

impl Daemon {
    /// The document that `virsh capabilities` shows.
    pub(crate) fn capabilities(&self) -> String {
        let abilities = block_in_place(|| Abilities {
            iommu: has_iommu(&*self.host),
            emulator: self.simulated || Path::new(DEFAULT_EMULATOR).exists(),
            kvm: self.simulated || kvm_opens(),
        });
        document(&self.node, abilities)
    }
}

/// What can be carried out here right now.
#[derive(Debug, Clone, Copy)]
struct Abilities {
    iommu: bool,
    emulator: bool,
    kvm: bool,
}

/// Whether the host's cards are behind an IOMMU, so that guests can have a part of one.
fn has_iommu(host: &dyn Host) -> bool {
    let groups = |address| host.iommu_group(address).is_ok_and(|group| group.is_some());
    let cards = host.physical_functions().unwrap_or_default();
    cards.iter().any(|card| groups(card.address))
}

fn kvm_opens() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// <https://libvirt.org/formatcaps.html>
fn document(node: &NodeInfo, abilities: Abilities) -> String {
    let mut writer = Writer::new();
    writer.element("capabilities", |w| {
        w.element("host", |w| {
            w.optional_text_element("uuid", node.uuid.as_deref());
            w.element("cpu", |w| cpu(w, node));
            w.element("iommu", |w| w.yes_no("support", abilities.iommu));
            w.element("topology", |w| {
                w.element("cells", |w| {
                    w.attribute("num", node.cells.len());
                    for cell in &node.cells {
                        numa_cell(w, cell);
                    }
                });
            });
        });
        // Without an emulator no guest can be run, and clients had better know.
        if abilities.emulator {
            w.element("guest", |w| guest(w, abilities.kvm));
        }
    });
    writer.finish()
}

/// Without `<model>`: that is a name from a table of libvirt's, not the one the processor has.
fn cpu(w: &mut Writer, node: &NodeInfo) {
    w.text_element("arch", &node.arch);
    w.optional_text_element("vendor", node.cpu_vendor.as_deref().map(vendor));
    w.element("topology", |w| {
        w.attribute("sockets", node.sockets);
        w.attribute("dies", 1);
        w.attribute("cores", node.cores);
        w.attribute("threads", node.threads);
    });
    // The two that say whether the processor can virtualize; the kernel calls them as libvirt does.
    let virtualizes = node.cpu_flags.iter();
    for flag in virtualizes.filter(|flag| matches!(flag.as_str(), "vmx" | "svm")) {
        w.element("feature", |w| w.attribute("name", flag));
    }
}

/// The maker by the name that libvirt uses.
fn vendor(id: &str) -> &str {
    match id {
        "GenuineIntel" => "Intel",
        "AuthenticAMD" => "AMD",
        "HygonGenuine" => "Hygon",
        other => other,
    }
}

fn numa_cell(w: &mut Writer, cell: &NumaCell) {
    w.element("cell", |w| {
        w.attribute("id", cell.id);
        w.element("memory", |w| {
            w.attribute("unit", "KiB");
            w.text(cell.memory_kib);
        });
        w.element("cpus", |w| {
            w.attribute("num", cell.cpus.len());
            for cpu in &cell.cpus {
                logical_cpu(w, cpu);
            }
        });
    });
}

fn logical_cpu(w: &mut Writer, cpu: &Cpu) {
    w.element("cpu", |w| {
        w.attribute("id", cpu.id);
        w.attribute("socket_id", cpu.socket);
        w.attribute("die_id", 0);
        w.attribute("cluster_id", 0);
        w.attribute("core_id", cpu.core);
        w.attribute("siblings", ranges(&cpu.siblings));
    });
}

/// Numbers as `0-3,8`.
fn ranges(numbers: &[u32]) -> String {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    let runs = numbers.chunk_by(|before, next| next - before == 1);
    let texts = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        run => run.iter().map(u32::to_string).collect(),
    });
    texts.collect::<Vec<_>>().join(",")
}

fn guest(w: &mut Writer, kvm: bool) {
    w.text_element("os_type", "hvm");
    w.element("arch", |w| {
        w.attribute("name", "x86_64");
        w.text_element("wordsize", 64);
        w.text_element("emulator", DEFAULT_EMULATOR);
        for machine in MACHINES {
            w.element("machine", |w| {
                w.attribute("maxCpus", MAX_CPUS);
                w.text(machine);
            });
        }
        w.element("domain", |w| w.attribute("type", "qemu"));
        if kvm {
            w.element("domain", |w| w.attribute("type", "kvm"));
        }
    });
    w.element("features", |w| {
        let toggles = [("acpi", true), ("apic", false)];
        for (feature, toggle) in toggles {
            w.element(feature, |w| {
                w.attribute("default", "on");
                w.yes_no("toggle", toggle);
            });
        }
        w.element("cpuselection", |_| ());
    });
}

#[cfg(test)]
mod tests {
    use host::{SimulatedHost, SimulatedShape};

    use super::*;

    const ALL: Abilities = Abilities {
        iommu: true,
        emulator: true,
        kvm: true,
    };

    #[test]
    fn the_document_tells_host_and_guests() {
        let mut node = NodeInfo::simulated();
        node.cpu_vendor = Some("GenuineIntel".into());
        node.cpu_flags = vec!["fpu".into(), "vmx".into()];
        node.cells.truncate(1);
        node.cells[0].cpus.truncate(1);
        node.cells[0].cpus[0].siblings = vec![0, 4];
        assert_eq!(
            document(&node, ALL),
            "\
<capabilities>
  <host>
    <uuid>51300000-0000-4000-8000-000000000001</uuid>
    <cpu>
      <arch>x86_64</arch>
      <vendor>Intel</vendor>
      <topology sockets='1' dies='1' cores='4' threads='1'/>
      <feature name='vmx'/>
    </cpu>
    <iommu support='yes'/>
    <topology>
      <cells num='1'>
        <cell id='0'>
          <memory unit='KiB'>16777216</memory>
          <cpus num='1'>
            <cpu id='0' socket_id='0' die_id='0' cluster_id='0' core_id='0' siblings='0,4'/>
          </cpus>
        </cell>
      </cells>
    </topology>
  </host>
  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'>
      <wordsize>64</wordsize>
      <emulator>/usr/bin/qemu-system-x86_64</emulator>
      <machine maxCpus='255'>pc</machine>
      <machine maxCpus='255'>q35</machine>
      <domain type='qemu'/>
      <domain type='kvm'/>
    </arch>
    <features>
      <acpi default='on' toggle='yes'/>
      <apic default='on' toggle='no'/>
      <cpuselection/>
    </features>
  </guest>
</capabilities>
"
        );
    }

    #[test]
    fn what_is_not_there_is_not_promised() {
        let node = NodeInfo::simulated();
        let no_kvm = document(&node, Abilities { kvm: false, ..ALL });
        assert!(no_kvm.contains("'qemu'") && !no_kvm.contains("'kvm'"));
        let nothing = Abilities {
            emulator: false,
            iommu: false,
            ..ALL
        };
        let nothing = document(&node, nothing);
        assert!(!nothing.contains("<guest>") && nothing.contains("<iommu support='no'/>"));
    }

    #[test]
    fn an_iommu_is_seen_by_the_groups_of_the_cards() {
        let host = SimulatedHost::new("pfs=1,vfs=2".parse::<SimulatedShape>().unwrap());
        assert!(has_iommu(&host));
        host.set_iommu(false);
        assert!(!has_iommu(&host));
    }

    #[test]
    fn siblings_are_ranges() {
        assert_eq!(ranges(&[3, 0, 1, 8, 2]), "0-3,8");
        assert_eq!(ranges(&[7]), "7");
        assert_eq!(ranges(&[]), "");
    }
}
