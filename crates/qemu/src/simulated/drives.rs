//! The block layer of a simulated guest: nodes, and sets of descriptors for them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::Refusal;

/// Nodes and sets.
#[derive(Debug, Default)]
pub(super) struct Drives {
    nodes: BTreeMap<String, Node>,
    sets: BTreeMap<u32, Vec<Member>>,
}

#[derive(Debug)]
struct Node {
    /// The node below.
    on: Option<String>,
    /// What it has open.
    file: String,
}

/// A descriptor of a set. Those of a start are known by no more than their number here.
#[derive(Debug)]
struct Member {
    _fd: Option<OwnedFd>,
    opaque: String,
}

fn refused(text: String) -> Refusal {
    ("GenericError", text)
}

impl Drives {
    /// `-add-fd` of a command line, `set=0,fd=7,opaque=ALIAS`.
    pub(super) fn add_at_start(&mut self, option: &str) {
        let value = |key: &str| {
            let mut values = option.split(',').filter_map(|pair| pair.split_once('='));
            values
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        if let Some(set) = value("set").and_then(|set| set.parse().ok()) {
            self.sets.entry(set).or_default().push(Member {
                _fd: None,
                opaque: value("opaque").unwrap_or_default().to_owned(),
            });
        }
    }

    pub(super) fn add_fd(&mut self, arguments: &Value, fd: Option<OwnedFd>) -> Value {
        let asked = arguments["fdset-id"].as_u64();
        let free = || (0..).find(|set| !self.sets.contains_key(set));
        let set = asked.and_then(|set| u32::try_from(set).ok());
        let set = set.or_else(free).unwrap_or_default();
        let opaque = arguments["opaque"].as_str().unwrap_or_default().to_owned();
        let members = self.sets.entry(set).or_default();
        members.push(Member { _fd: fd, opaque });
        json!({ "fdset-id": set, "fd": members.len() })
    }

    pub(super) fn remove_fd(&mut self, arguments: &Value) -> Result<(), Refusal> {
        let asked = arguments["fdset-id"].as_u64().unwrap_or(u64::MAX);
        let set = u32::try_from(asked)
            .ok()
            .and_then(|set| self.sets.remove(&set));
        let missing = || format!("File descriptor named 'fdset-id:{asked}' not found");
        set.map(drop).ok_or_else(|| refused(missing()))
    }

    pub(super) fn sets(&self) -> Value {
        let sets = self.sets.iter().map(|(set, members)| {
            let members = members.iter().enumerate();
            let fds = members.map(|(fd, member)| json!({ "fd": fd, "opaque": member.opaque }));
            json!({ "fdset-id": set, "fds": fds.collect::<Vec<_>>() })
        });
        sets.collect()
    }

    pub(super) fn set_numbers(&self) -> Vec<u32> {
        self.sets.keys().copied().collect()
    }

    pub(super) fn add_node(&mut self, options: &Value) -> Result<(), Refusal> {
        let text = |member: &str| options[member].as_str();
        let name = text("node-name").unwrap_or_default();
        if self.nodes.contains_key(name) {
            let text = format!("Duplicate nodes with node-name='{name}'");
            return Err(refused(text));
        }
        let on = text("file").map(str::to_owned);
        if let Some(on) = on.as_ref().filter(|on| !self.has(on)) {
            let text = format!("Cannot find device='' nor node-name='{on}'");
            return Err(refused(text));
        }
        let set = text("filename").and_then(|path| path.strip_prefix("/dev/fdset/"));
        if let Some(set) = set {
            let number = set.parse().ok();
            if !number.is_some_and(|number| self.sets.contains_key(&number)) {
                let text = format!("Could not open '/dev/fdset/{set}': No such file or directory");
                return Err(refused(text));
            }
        }
        let file = text("filename").unwrap_or_default().to_owned();
        self.nodes.insert(name.to_owned(), Node { on, file });
        Ok(())
    }

    /// Removes a node that nothing uses; `used` says whether a device does.
    pub(super) fn remove_node(&mut self, name: &str, used: bool) -> Result<(), Refusal> {
        if !self.has(name) {
            let text = format!("Failed to find node with node-name='{name}'");
            return Err(refused(text));
        }
        let below = self
            .nodes
            .values()
            .any(|node| node.on.as_deref() == Some(name));
        if used || below {
            return Err(refused(format!("Node {name} is in use")));
        }
        self.nodes.remove(name);
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// As QEMU shows them.
    pub(super) fn shown(&self) -> Value {
        let nodes = self.nodes.iter();
        let shown = nodes.map(|(name, node)| json!({ "node-name": name, "file": node.file }));
        shown.collect()
    }

    pub(super) fn nodes(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }
}
