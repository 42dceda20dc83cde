//! `<cpu>`.

use std::collections::HashSet;

use super::shapes::CPU;
use crate::kept::Kept;
use crate::tree::Tree;
use crate::xml::Element;
use crate::{Error, ErrorKind};

/// `<cpu>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// `custom`, `host-model`, `host-passthrough` or `maximum`.
    pub mode: Option<String>,
    /// `cpu/@match`.
    pub match_: Option<String>,
    /// `cpu/@check`.
    pub check: Option<String>,
    /// `cpu/@migratable`: leave out what would bind the guest to this host.
    pub migratable: Option<bool>,
    /// `<model>`: its fallback and name.
    pub model: Option<CpuModel>,
    /// `<topology>`: sockets, dies, clusters, cores, threads.
    pub topology: Option<CpuTopology>,
    /// `<feature policy name>`.
    pub features: Vec<(Option<String>, String)>,
    /// Attributes and children that are kept and not used.
    pub unused: Kept,
}

/// `<cpu><model>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuModel {
    /// `model/@fallback`.
    pub fallback: Option<String>,
    /// The model's name as QEMU has it.
    pub name: String,
}

/// `<cpu><topology>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are the document's")]
pub struct CpuTopology {
    pub sockets: u32,
    pub dies: u32,
    pub clusters: u32,
    pub cores: u32,
    pub threads: u32,
}

impl CpuTopology {
    /// How many CPUs that makes; as many as there can be where it is more than that.
    pub(super) fn cpus(self) -> u64 {
        let factors = [
            self.sockets,
            self.dies,
            self.clusters,
            self.cores,
            self.threads,
        ];
        (factors.into_iter()).fold(1, |count: u64, one| count.saturating_mul(one.into()))
    }
}

const MODES: [&str; 4] = ["custom", "host-model", "host-passthrough", "maximum"];
const MATCHES: [&str; 3] = ["minimum", "exact", "strict"];
const CHECKS: [&str; 3] = ["none", "partial", "full"];
const FALLBACKS: [&str; 2] = ["allow", "forbid"];
const POLICIES: [&str; 5] = ["force", "require", "optional", "disable", "forbid"];

impl Cpu {
    pub(super) fn read(element: Element<'_>) -> Result<Self, Error> {
        let model = match element.child("model") {
            Some(model) => {
                let name = model.text().trim().to_owned();
                let fallback = one_of(model, "fallback", &FALLBACKS)?;
                (!name.is_empty() || fallback.is_some()).then_some(CpuModel { fallback, name })
            }
            None => None,
        };
        let mut features = Vec::new();
        let mut seen = HashSet::new();
        for feature in element.children_named("feature") {
            let name = feature.require("name")?.to_owned();
            if !seen.insert(name.clone()) {
                return Err(feature.attribute_error(
                    ErrorKind::Xml,
                    "name",
                    format!("CPU feature '{name}' specified more than once"),
                ));
            }
            features.push((one_of(feature, "policy", &POLICIES)?, name));
        }
        let topology = element.child("topology").map(topology).transpose()?;
        Ok(Self {
            mode: one_of(element, "mode", &MODES).map_err(|error| Error {
                kind: ErrorKind::ConfigUnsupported,
                ..error
            })?,
            match_: one_of(element, "match", &MATCHES)?,
            check: one_of(element, "check", &CHECKS)?,
            migratable: element.on_off("migratable")?,
            model,
            topology,
            features,
            unused: Kept::of(element, &CPU),
        })
    }

    pub(super) fn tree(&self) -> Tree<'_> {
        let mut tree = Tree::new("cpu");
        tree.optional("mode", self.mode.as_ref());
        tree.optional("match", self.match_.as_ref());
        tree.optional("check", self.check.as_ref());
        tree.on_off("migratable", self.migratable);
        if let Some(model) = &self.model {
            let mut child = Tree::new("model");
            child.optional("fallback", model.fallback.as_ref());
            if !model.name.is_empty() {
                child.text(&model.name);
            }
            tree.child(child);
        }
        if let Some(topology) = self.topology {
            let child = Tree::new("topology")
                .with("sockets", topology.sockets)
                .with("dies", topology.dies)
                .with("clusters", topology.clusters)
                .with("cores", topology.cores)
                .with("threads", topology.threads);
            tree.child(child);
        }
        for (policy, name) in &self.features {
            let mut child = Tree::new("feature");
            child.optional("policy", policy.as_ref());
            child.attribute("name", name);
            tree.child(child);
        }
        tree.keep(&self.unused, &CPU);
        tree
    }
}

fn topology(element: Element<'_>) -> Result<CpuTopology, Error> {
    let number = |name: &str, default: Option<u32>| match element.number::<u32>(name)? {
        Some(0) => Err(element.invalid(ErrorKind::Xml, name, "a number above 0")),
        Some(number) => Ok(number),
        None => default.ok_or_else(|| element.missing(ErrorKind::Xml, name)),
    };
    Ok(CpuTopology {
        sockets: number("sockets", None)?,
        dies: number("dies", Some(1))?,
        clusters: number("clusters", Some(1))?,
        cores: number("cores", None)?,
        threads: number("threads", None)?,
    })
}

fn one_of(element: Element<'_>, name: &str, words: &[&str]) -> Result<Option<String>, Error> {
    match element.attribute(name) {
        Some(value) if !words.contains(&value) => {
            Err(element.invalid(ErrorKind::Xml, name, words.join(", ")))
        }
        value => Ok(value.map(str::to_owned)),
    }
}
