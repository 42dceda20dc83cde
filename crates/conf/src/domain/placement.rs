//! Where on the host a guest runs: `vcpu/@cpuset`, `<cputune>`'s pins and `<numatune>`.

use std::collections::{BTreeMap, HashMap};

use super::number_set::{NumberSet, ParseNumberSetError};
use crate::tree::Tree;
use crate::xml::{Base, Element, Keyword, keywords};
use crate::{Error, ErrorKind};

/// Where on the host a guest runs. Nothing said: anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// `vcpu/@cpuset`: the host's CPUs for whatever has no pin of its own.
    pub cpus: Option<NumberSet>,
    /// `<vcpupin>`: the host's CPUs for one virtual CPU, by its number. Pins that say the same share
    /// a set.
    pub vcpu_pins: BTreeMap<u32, NumberSet>,
    /// `<emulatorpin>`: the host's CPUs for QEMU's own threads.
    pub emulator_pin: Option<NumberSet>,
    /// `<numatune><memory>`.
    pub memory: Option<NumaMemory>,
}

/// `<numatune><memory>`: where the guest's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaMemory {
    /// `memory/@mode`.
    pub mode: NumaMode,
    /// `memory/@nodeset`: NUMA nodes of the host; missing only where the placement is not static,
    /// which can't be started.
    pub nodes: Option<NumberSet>,
}

/// `numatune/memory/@mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NumaMode {
    /// Those nodes' memory and no other.
    #[default]
    Strict,
    /// Those nodes' memory, as long as there is any.
    Preferred,
    /// Page by page from one node after the other.
    Interleave,
    /// By control groups alone; can't be started.
    Restrictive,
}

keywords!(NumaMode {
    Strict = "strict",
    Preferred = "preferred",
    Interleave = "interleave",
    Restrictive = "restrictive",
});

impl Placement {
    /// The host's CPUs for QEMU's own threads; `None`: any.
    #[must_use]
    pub fn emulator_cpus(&self) -> Option<&NumberSet> {
        self.emulator_pin.as_ref().or(self.cpus.as_ref())
    }

    /// The host's CPUs for a virtual CPU; `None`: any.
    #[must_use]
    pub fn vcpu_cpus(&self, number: u32) -> Option<&NumberSet> {
        self.vcpu_pins.get(&number).or(self.cpus.as_ref())
    }

    /// All of the host's CPUs that one of so many virtual CPUs may run on, as far as they are
    /// told; `None`: nothing is told of any of them.
    #[must_use]
    pub fn all_vcpu_cpus(&self, vcpus: u32) -> Option<NumberSet> {
        let pins = self.vcpu_pins.range(..vcpus).map(|(_, cpus)| cpus);
        let all_pinned = u32::try_from(pins.clone().count()) == Ok(vcpus);
        NumberSet::union(pins.chain(self.cpus.as_ref().filter(|_| !all_pinned)))
    }

    /// The NUMA nodes that the guest's memory comes from; `None`: any.
    #[must_use]
    pub fn memory_nodes(&self) -> Option<&NumberSet> {
        self.memory.as_ref()?.nodes.as_ref()
    }

    /// Of a domain with that many virtual CPUs. Pins of further ones are left out.
    pub(super) fn read(domain: Element<'_>, vcpus: u32) -> Result<Self, Error> {
        let mut placement = Self {
            cpus: match domain.child("vcpu") {
                Some(vcpu) => set(vcpu, "cpuset")?,
                None => None,
            },
            memory: memory(domain)?,
            ..Self::default()
        };
        let Some(cputune) = domain.child("cputune") else {
            return Ok(placement);
        };
        let mut sets: HashMap<Option<&str>, NumberSet> = HashMap::new();
        for pin in cputune.children_named("vcpupin") {
            let number = pin.number_in::<u32>("vcpu", Base::Ten, u64::from(u32::MAX))?;
            let number = number.ok_or_else(|| pin.missing(ErrorKind::Xml, "vcpu"))?;
            let text = pin.attribute("cpuset");
            let cpus = match sets.get(&text) {
                Some(cpus) => cpus.clone(),
                None => sets.entry(text).or_insert(required_set(pin)?).clone(),
            };
            if number < vcpus && placement.vcpu_pins.insert(number, cpus).is_some() {
                let message = format!("<vcpupin> is there twice for vcpu='{number}'");
                return Err(pin.attribute_error(ErrorKind::Internal, "vcpu", message));
            }
        }
        for pin in cputune.children_named("emulatorpin") {
            if placement.emulator_pin.replace(required_set(pin)?).is_some() {
                let message = "<cputune> may have one <emulatorpin>";
                return Err(pin.error(ErrorKind::Xml, message));
            }
        }
        Ok(placement)
    }

    /// `<cputune>`, as far as it is modelled.
    pub(super) fn cputune_tree(&self) -> Tree<'_> {
        let mut cputune = Tree::new("cputune");
        for (number, cpus) in &self.vcpu_pins {
            let pin = Tree::new("vcpupin").with("vcpu", number);
            cputune.child(pin.with("cpuset", cpus));
        }
        if let Some(cpus) = &self.emulator_pin {
            cputune.child(Tree::new("emulatorpin").with("cpuset", cpus));
        }
        cputune
    }

    /// `<numatune>`, as far as it is modelled.
    pub(super) fn numatune_tree(&self) -> Tree<'_> {
        let mut numatune = Tree::new("numatune");
        if let Some(memory) = &self.memory {
            let mut child = Tree::new("memory").with("mode", memory.mode.word());
            child.optional("nodeset", memory.nodes.as_ref());
            numatune.child(child);
        }
        numatune
    }
}

fn memory(domain: Element<'_>) -> Result<Option<NumaMemory>, Error> {
    if let Some(second) = domain.children_named("numatune").nth(1) {
        return Err(second.error(ErrorKind::Xml, "<domain> may have one <numatune>"));
    }
    let numatune = domain.child("numatune");
    let Some(memory) = numatune.and_then(|numatune| numatune.child("memory")) else {
        return Ok(None);
    };
    let mode = memory.keyword_or(ErrorKind::ConfigUnsupported, "mode")?;
    let placement = memory.attribute("placement");
    if placement.is_some_and(|word| !["static", "auto"].contains(&word)) {
        return Err(memory.invalid(ErrorKind::ConfigUnsupported, "placement", "static or auto"));
    }
    let nodes = set(memory, "nodeset")?;
    let vcpu = domain.child("vcpu");
    let is_auto = placement.or_else(|| vcpu?.attribute("placement")) == Some("auto");
    if nodes.is_none() && !is_auto {
        return Err(memory.missing(ErrorKind::Xml, "nodeset"));
    }
    Ok(Some(NumaMemory {
        mode: mode.unwrap_or_default(),
        nodes,
    }))
}

fn required_set(pin: Element<'_>) -> Result<NumberSet, Error> {
    set(pin, "cpuset")?.ok_or_else(|| pin.missing(ErrorKind::Internal, "cpuset"))
}

fn set(element: Element<'_>, name: &str) -> Result<Option<NumberSet>, Error> {
    let Some(text) = element.attribute(name) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|error| {
        let kind = match error {
            ParseNumberSetError::Syntax => ErrorKind::InvalidArgument,
            ParseNumberSetError::Empty => ErrorKind::ConfigUnsupported,
        };
        let text: String = text.chars().take(80).collect();
        let message = format!("{name}='{text}' on <{}>: {error}", element.name());
        element.attribute_error(kind, name, message)
    })
}
