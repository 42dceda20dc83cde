//! Where on the host a guest runs: told to its process at the start, and to the threads of its
//! virtual CPUs as soon as they are known.

use std::io;

use conf::{Domain, NumaMode, NumberSet};
use host::{MemoryMode, MemoryPolicy, own_cpus, pin_thread};

use super::LaunchError;
use crate::Qmp;

/// The host's CPUs of QEMU's process; `None`: all that we may use.
pub(super) fn emulator_cpus(domain: &Domain) -> Option<Vec<u16>> {
    let cpus = domain.placement.emulator_cpus()?;
    Some(cpus.iter().collect())
}

/// Where QEMU's memory, and with it the guest's, comes from; `None`: anywhere.
pub(super) fn memory_policy(domain: &Domain) -> Option<MemoryPolicy> {
    let memory = domain.placement.memory.as_ref()?;
    let mode = match memory.mode {
        NumaMode::Strict => MemoryMode::Bind,
        NumaMode::Preferred => MemoryMode::Preferred,
        NumaMode::Interleave => MemoryMode::Interleave,
        // Refused with the command line.
        NumaMode::Restrictive => return None,
    };
    let nodes = memory.nodes.as_ref()?.iter().collect();
    Some(MemoryPolicy { mode, nodes })
}

/// Moves the threads of virtual CPUs that are not to run where QEMU's others do.
pub(super) async fn pin_vcpus(qmp: &Qmp, process: u32, domain: &Domain) -> Result<(), LaunchError> {
    let placement = &domain.placement;
    let everywhere = placement.emulator_cpus();
    if (0..domain.vcpus).all(|number| placement.vcpu_cpus(number) == everywhere) {
        return Ok(());
    }
    let threads = qmp.vcpu_threads().await;
    for vcpu in threads.map_err(|source| LaunchError::Setting { source })? {
        let pin = placement.vcpu_cpus(vcpu.number);
        let moved = match pin {
            Some(cpus) => pin_thread(process, vcpu.thread, &cpus.iter().collect::<Vec<_>>()),
            None => own_cpus().and_then(|cpus| pin_thread(process, vcpu.thread, &cpus)),
        };
        moved.map_err(|source| not_moved(vcpu.number, pin, source))?;
    }
    Ok(())
}

fn not_moved(number: u32, pin: Option<&NumberSet>, source: io::Error) -> LaunchError {
    LaunchError::Pin {
        number,
        cpus: pin.map_or_else(|| "all".to_owned(), ToString::to_string),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(elements: &str) -> Domain {
        let xml = format!(
            "<domain type='kvm'><name>g</name><memory>65536</memory>{elements}\
             <os><type machine='q35'>hvm</type></os></domain>"
        );
        Domain::parse(&xml).unwrap()
    }

    fn policy(mode: &str) -> Option<MemoryPolicy> {
        let memory = format!("<memory mode='{mode}' nodeset='0-1'/>");
        memory_policy(&guest(&format!("<numatune>{memory}</numatune>")))
    }

    #[test]
    fn modes_are_the_kernels_policies() {
        for (mode, expected) in [
            ("strict", MemoryMode::Bind),
            ("preferred", MemoryMode::Preferred),
            ("interleave", MemoryMode::Interleave),
        ] {
            let policy = policy(mode).unwrap();
            assert_eq!((policy.mode, policy.nodes), (expected, vec![0, 1]));
        }
        assert_eq!(memory_policy(&guest("")), None);
    }

    #[test]
    fn a_pin_of_qemus_own_counts_before_the_set_for_all() {
        let set = "<vcpu cpuset='0-1'>1</vcpu>";
        assert_eq!(emulator_cpus(&guest(set)), Some(vec![0, 1]));
        let pin = "<cputune><emulatorpin cpuset='3'/></cputune>";
        assert_eq!(emulator_cpus(&guest(&format!("{set}{pin}"))), Some(vec![3]));
        assert_eq!(emulator_cpus(&guest("")), None);
    }
}
