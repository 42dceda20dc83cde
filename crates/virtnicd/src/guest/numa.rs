//! Where on the host a guest runs: which NUMA nodes that is, and whether the host has them.

use conf::{NumberSet, Placement};
use host::NodeInfo;

use crate::daemon::Daemon;

impl Daemon {
    /// The host's NUMA nodes that a guest runs on: those of its memory, else those of the CPUs
    /// that it is pinned to. Empty: anywhere.
    pub(super) fn numa_nodes_of(&self, domain: &conf::Domain) -> Vec<u16> {
        nodes_of(&self.node, domain)
    }

    /// CPUs and NUMA nodes that it asks for and the host does not have, each in words.
    pub(super) fn misplaced(&self, domain: &conf::Domain) -> Vec<String> {
        faults(&self.node, &domain.placement)
    }
}

fn nodes_of(host: &NodeInfo, domain: &conf::Domain) -> Vec<u16> {
    let placement = &domain.placement;
    if let Some(nodes) = placement.memory_nodes() {
        return nodes.iter().collect();
    }
    let cpus = placement.all_vcpu_cpus(domain.vcpus);
    let Some(cpus) = cpus.or_else(|| placement.emulator_pin.clone()) else {
        return Vec::new();
    };
    let is_wanted = |cpu: &host::Cpu| u16::try_from(cpu.id).is_ok_and(|id| cpus.contains(id));
    let cells = host.cells.iter();
    let near = cells.filter(|cell| cell.cpus.iter().any(is_wanted));
    near.filter_map(|cell| u16::try_from(cell.id).ok())
        .collect()
}

/// The most faults of placement that are told of one guest.
const MAX_FAULTS: usize = conf::MAX_FAULTS;

/// What a guest asks for that the host does not have, as far as anybody reads it.
fn faults(host: &NodeInfo, placement: &Placement) -> Vec<String> {
    let cpus = host.cells.iter().flat_map(|cell| &cell.cpus);
    let cpus = NumberSet::of(cpus.filter_map(|cpu| u16::try_from(cpu.id).ok()));
    let with_memory = host.cells.iter().filter(|cell| cell.memory_kib > 0);
    let nodes = NumberSet::of(with_memory.filter_map(|cell| u16::try_from(cell.id).ok()));

    let all = placement
        .cpus
        .iter()
        .map(|set| ("<vcpu cpuset>".to_owned(), set));
    let pins = placement.vcpu_pins.iter();
    let all = all.chain(pins.map(|(number, set)| (format!("<vcpupin vcpu='{number}'>"), set)));
    let emulator = placement.emulator_pin.iter();
    let all = all.chain(emulator.map(|set| ("<emulatorpin>".to_owned(), set)));
    let all = all.map(|(place, set)| (place, set, "CPU", &cpus));
    let memory = placement.memory_nodes().into_iter();
    let memory = memory.map(|set| ("<numatune>".to_owned(), set, "NUMA node", &nodes));
    let lacking = all
        .chain(memory)
        .filter_map(|(place, wanted, kind, there)| {
            let (lacking, there) = match there {
                Some(there) => (wanted.without(there)?, there.to_string()),
                None => (wanted.clone(), "none".to_owned()),
            };
            Some(format!(
                "{place} asks for {kind} {lacking}; this host has {there}"
            ))
        });
    lacking.take(MAX_FAULTS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a host of two nodes with four CPUs each.
    fn guest(elements: &str) -> conf::Domain {
        let xml = format!(
            "<domain type='kvm'><name>g</name><memory>65536</memory>{elements}\
             <os><type machine='q35'>hvm</type></os></domain>"
        );
        conf::Domain::parse(&xml).unwrap()
    }

    fn nodes(elements: &str) -> Vec<u16> {
        nodes_of(&NodeInfo::simulated(), &guest(elements))
    }

    fn faults_of(elements: &str) -> Vec<String> {
        faults(&NodeInfo::simulated(), &guest(elements).placement)
    }

    #[test]
    fn a_guest_that_says_nothing_runs_anywhere() {
        assert_eq!(nodes("<vcpu>2</vcpu>"), [0_u16; 0]);
        assert_eq!(faults_of("<vcpu>2</vcpu>"), [""; 0]);
    }

    #[test]
    fn memory_counts_before_cpus() {
        let memory = "<numatune><memory mode='preferred' nodeset='1'/></numatune>";
        assert_eq!(nodes(&format!("<vcpu cpuset='0-3'>2</vcpu>{memory}")), [1]);
    }

    #[test]
    fn cpus_stand_for_their_nodes() {
        assert_eq!(nodes("<vcpu cpuset='4'>2</vcpu>"), [1]);
        assert_eq!(nodes("<vcpu cpuset='3-4'>2</vcpu>"), [0, 1]);
    }

    #[test]
    fn a_pin_counts_before_the_set_for_all() {
        let pin = |vcpu: u32, cpu: u32| format!("<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>");
        let both = format!("<cputune>{}{}</cputune>", pin(0, 5), pin(1, 6));
        assert_eq!(nodes(&format!("<vcpu cpuset='0'>2</vcpu>{both}")), [1]);
        let one = format!("<cputune>{}</cputune>", pin(0, 5));
        assert_eq!(nodes(&format!("<vcpu cpuset='0'>2</vcpu>{one}")), [0, 1]);
    }

    #[test]
    fn qemus_own_threads_count_where_no_virtual_cpu_is_pinned() {
        let emulator = "<emulatorpin cpuset='7'/>";
        let alone = format!("<vcpu>1</vcpu><cputune>{emulator}</cputune>");
        assert_eq!(nodes(&alone), [1]);
        let pin = "<vcpupin vcpu='0' cpuset='0'/>";
        let both = format!("<vcpu>1</vcpu><cputune>{pin}{emulator}</cputune>");
        assert_eq!(nodes(&both), [0]);
    }

    #[test]
    fn what_the_host_lacks_is_named_all_at_once() {
        let elements = "<vcpu cpuset='6-9'>1</vcpu><cputune><vcpupin vcpu='0' cpuset='8'/>\
            <emulatorpin cpuset='0,99'/></cputune>\
            <numatune><memory nodeset='0-2,4'/></numatune>";
        assert_eq!(
            faults_of(elements),
            [
                "<vcpu cpuset> asks for CPU 8-9; this host has 0-7",
                "<vcpupin vcpu='0'> asks for CPU 8; this host has 0-7",
                "<emulatorpin> asks for CPU 99; this host has 0-7",
                "<numatune> asks for NUMA node 2,4; this host has 0-1",
            ]
        );
    }

    #[test]
    fn no_more_is_told_of_many_pins_than_anybody_reads() {
        let pins: String = (0..65_535)
            .map(|vcpu| format!("<vcpupin vcpu='{vcpu}' cpuset='0-16383'/>"))
            .collect();
        let elements = format!("<vcpu cpuset='8'>65535</vcpu><cputune>{pins}</cputune>");
        assert_eq!(nodes(&elements), [0, 1]);
        let faults = faults_of(&elements);
        assert_eq!(faults.len(), conf::MAX_FAULTS);
        let last = "<vcpupin vcpu='18'> asks for CPU 8-16383; this host has 0-7";
        assert_eq!(faults.last().unwrap(), last);
    }

    #[test]
    fn a_node_without_memory_gives_none() {
        let mut host = NodeInfo::simulated();
        host.cells[1].memory_kib = 0;
        let domain = guest("<vcpu>1</vcpu><numatune><memory nodeset='1'/></numatune>");
        assert_eq!(
            faults(&host, &domain.placement),
            ["<numatune> asks for NUMA node 1; this host has 0"]
        );
    }
}
