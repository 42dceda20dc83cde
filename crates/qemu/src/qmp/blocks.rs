//! Commands of QEMU's block layer, and its sets of descriptors.

use std::os::fd::OwnedFd;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Qmp;
use super::commands::{QUICK, decode};
use crate::QmpError;

/// A node of the block layer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct BlockNode {
    #[serde(rename = "node-name", default)]
    pub(crate) name: String,
    /// What it has open, such as `/dev/fdset/3`.
    #[serde(default)]
    pub(crate) file: String,
}

/// A drive, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Drive {
    /// Its place in QEMU's tree of objects.
    #[serde(default)]
    qdev: String,
    pub(crate) inserted: Option<BlockNode>,
}

impl Drive {
    /// Whether it is the device with that alias, or a part of it.
    pub(crate) fn is_of(&self, alias: &str) -> bool {
        let place = self.qdev.strip_prefix("/machine/peripheral/");
        place.is_some_and(|place| place.split('/').next() == Some(alias))
    }
}

/// A set of descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct DescriptorSet {
    #[serde(rename = "fdset-id")]
    pub(crate) number: u32,
    fds: Vec<SetMember>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct SetMember {
    #[serde(default)]
    opaque: String,
}

impl DescriptorSet {
    /// Whether it was handed over for that device.
    pub(crate) fn is_of(&self, alias: &str) -> bool {
        !self.fds.is_empty() && self.fds.iter().all(|member| member.opaque == alias)
    }

    /// What QEMU opens it as.
    pub(crate) fn path(number: u32) -> String {
        format!("/dev/fdset/{number}")
    }
}

#[derive(Deserialize)]
struct AddedFd {
    #[serde(rename = "fdset-id")]
    set: u32,
}

impl Qmp {
    /// `add-fd`: hands a descriptor over for a device, into that set or into a new one; which it is.
    pub(crate) async fn add_fd(
        &self,
        alias: &str,
        set: Option<u32>,
        fd: OwnedFd,
    ) -> Result<u32, QmpError> {
        let mut arguments = json!({ "opaque": alias });
        if let Some(set) = set {
            arguments["fdset-id"] = set.into();
        }
        let answer = self.execute("add-fd", arguments, vec![fd], QUICK).await?;
        let added: AddedFd = decode("add-fd", answer)?;
        Ok(added.set)
    }

    /// `remove-fd`, of a whole set. QEMU closes it when no node has it open any more.
    pub(crate) async fn remove_set(&self, set: u32) -> Result<(), QmpError> {
        self.plain("remove-fd", json!({ "fdset-id": set })).await
    }

    /// `query-fdsets`.
    pub(crate) async fn descriptor_sets(&self) -> Result<Vec<DescriptorSet>, QmpError> {
        self.typed("query-fdsets", Value::Null).await
    }

    /// `blockdev-add`.
    pub(crate) async fn add_node(&self, options: Value) -> Result<(), QmpError> {
        self.plain("blockdev-add", options).await
    }

    /// `blockdev-del`.
    pub(crate) async fn remove_node(&self, name: &str) -> Result<(), QmpError> {
        self.plain("blockdev-del", json!({ "node-name": name }))
            .await
    }

    /// `query-named-block-nodes`.
    pub(crate) async fn block_nodes(&self) -> Result<Vec<BlockNode>, QmpError> {
        let command = "query-named-block-nodes";
        let flat = json!({ "flat": true });
        decode(command, self.execute_long(command, flat, QUICK).await?)
    }

    /// `query-block`.
    pub(crate) async fn drives(&self) -> Result<Vec<Drive>, QmpError> {
        let command = "query-block";
        decode(command, self.execute_long(command, json!({}), QUICK).await?)
    }

    /// `blockdev-open-tray`. A guest that holds it locked is asked to open it, which it may do later or
    /// never: that is no error here.
    pub(crate) async fn open_tray(&self, alias: &str, force: bool) -> Result<(), QmpError> {
        let arguments = json!({ "id": alias, "force": force });
        self.plain("blockdev-open-tray", arguments).await
    }

    /// `blockdev-close-tray`.
    pub(crate) async fn close_tray(&self, alias: &str) -> Result<(), QmpError> {
        self.plain("blockdev-close-tray", json!({ "id": alias }))
            .await
    }

    /// `blockdev-remove-medium`. An open drive that is empty is fine.
    pub(crate) async fn remove_medium(&self, alias: &str) -> Result<(), QmpError> {
        self.plain("blockdev-remove-medium", json!({ "id": alias }))
            .await
    }

    /// `blockdev-insert-medium`.
    pub(crate) async fn insert_medium(&self, alias: &str, node: &str) -> Result<(), QmpError> {
        let arguments = json!({ "id": alias, "node-name": node });
        self.plain("blockdev-insert-medium", arguments).await
    }
}
