//! The commands that virtnic uses, as typed calls.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use conf::PciAddress;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::Qmp;
use super::message::RunState;
use super::rx_filter::GuestRxFilter;
use crate::QmpError;

/// Time for a command that QEMU's main loop answers at once. A busy host makes even those late.
pub(crate) const QUICK: Duration = Duration::from_secs(30);

/// What a guest's balloon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct BalloonInfo {
    /// Memory that the guest has now, bytes.
    pub actual: u64,
}

/// A character device's host end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CharDeviceInfo {
    /// Its id: `char` and the device's alias.
    pub label: String,
    /// What it is connected to: `pty:/dev/pts/3`, `file`, …
    pub filename: String,
}

impl CharDeviceInfo {
    /// The alias of the device that it belongs to, and the path of its pseudo-terminal.
    #[must_use]
    pub fn pty(&self) -> Option<(&str, &str)> {
        Some((
            self.label.strip_prefix("char")?,
            self.filename.strip_prefix("pty:")?,
        ))
    }
}

/// A virtual CPU's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct VcpuThread {
    /// The virtual CPU, from 0.
    #[serde(rename = "cpu-index")]
    pub(crate) number: u32,
    /// The host's number of the thread that it runs in.
    #[serde(rename = "thread-id")]
    pub(crate) thread: u32,
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

/// A member of an object in QEMU's tree.
#[derive(Deserialize)]
struct ObjectMember {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct VirtioStatus {
    guest_features: VirtioFeatures,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct VirtioFeatures {
    #[serde(default)]
    dev_features: Vec<String>,
}

impl Qmp {
    /// `query-status`.
    pub async fn status(&self) -> Result<RunState, QmpError> {
        let status: Status = self.typed("query-status", Value::Null).await?;
        Ok(status.status.into())
    }

    /// `cont`: lets the virtual CPUs run.
    pub async fn cont(&self) -> Result<(), QmpError> {
        self.plain("cont", Value::Null).await
    }

    /// `stop`: halts the virtual CPUs.
    pub async fn stop(&self) -> Result<(), QmpError> {
        self.plain("stop", Value::Null).await
    }

    /// `system_powerdown`: presses the guest's power button.
    pub async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.plain("system_powerdown", Value::Null).await
    }

    /// `system_reset`: pulls the guest's reset line.
    pub async fn system_reset(&self) -> Result<(), QmpError> {
        self.plain("system_reset", Value::Null).await
    }

    /// `query-balloon`. QEMU refuses while the guest's driver is not there.
    pub async fn balloon_info(&self) -> Result<BalloonInfo, QmpError> {
        self.typed("query-balloon", Value::Null).await
    }

    /// `balloon`: asks the guest to live with that many bytes.
    pub async fn set_balloon(&self, bytes: u64) -> Result<(), QmpError> {
        self.plain("balloon", json!({ "value": bytes })).await
    }

    /// `query-chardev`.
    pub async fn character_devices(&self) -> Result<Vec<CharDeviceInfo>, QmpError> {
        self.typed("query-chardev", Value::Null).await
    }

    /// `query-cpus-fast`.
    pub(crate) async fn vcpu_threads(&self) -> Result<Vec<VcpuThread>, QmpError> {
        self.typed("query-cpus-fast", Value::Null).await
    }

    /// `human-monitor-command`: HMP, and what it prints.
    pub async fn human(&self, line: &str, deadline: Duration) -> Result<String, QmpError> {
        let command = "human-monitor-command";
        let answer = self
            .execute_long(command, json!({ "command-line": line }), deadline)
            .await?;
        decode(command, answer)
    }

    /// `getfd`: hands a descriptor over, under a name that later commands use.
    pub async fn give_descriptor(&self, name: &str, fd: OwnedFd) -> Result<(), QmpError> {
        self.execute("getfd", json!({ "fdname": name }), vec![fd], QUICK)
            .await
            .map(drop)
    }

    /// `closefd`: has QEMU close a descriptor that nothing took.
    pub async fn close_descriptor(&self, name: &str) -> Result<(), QmpError> {
        self.plain("closefd", json!({ "fdname": name })).await
    }

    /// `add-fd`: hands a descriptor over into a set, which QEMU opens as `/dev/fdset/SET`.
    pub async fn add_to_set(&self, set: u32, fd: OwnedFd) -> Result<(), QmpError> {
        self.execute("add-fd", json!({ "fdset-id": set }), vec![fd], QUICK)
            .await
            .map(drop)
    }

    /// `netdev_add`, with the arguments that [`crate::nic_netdev`] makes.
    pub async fn netdev_add(&self, arguments: Value) -> Result<(), QmpError> {
        self.plain("netdev_add", arguments).await
    }

    /// `netdev_del`.
    pub async fn netdev_del(&self, id: &str) -> Result<(), QmpError> {
        self.plain("netdev_del", json!({ "id": id })).await
    }

    /// `device_add`, with the arguments that [`crate::nic_device`] and
    /// [`crate::hostdev_device`] make.
    pub async fn device_add(&self, arguments: Value) -> Result<(), QmpError> {
        self.plain("device_add", arguments).await
    }

    /// `device_del`: asks the guest to let the device go. It is gone with the event
    /// `DEVICE_DELETED`, not before.
    pub async fn device_del(&self, id: &str) -> Result<(), QmpError> {
        self.plain("device_del", json!({ "id": id })).await
    }

    /// `set_link`: the guest's view of its cable.
    pub async fn set_link(&self, id: &str, up: bool) -> Result<(), QmpError> {
        self.plain("set_link", json!({ "name": id, "up": up }))
            .await
    }

    /// `query-rx-filter`, of one card or of all that have any. Asking is also what has QEMU tell of
    /// a card's next change.
    pub(crate) async fn rx_filters(
        &self,
        alias: Option<&str>,
    ) -> Result<Vec<GuestRxFilter>, QmpError> {
        let command = "query-rx-filter";
        let arguments = alias.map_or(Value::Null, |alias| json!({ "name": alias }));
        let answer = self.execute(command, arguments, Vec::new(), QUICK).await?;
        GuestRxFilter::list(&answer).ok_or(QmpError::Nonsense { command })
    }

    /// The devices with an alias, as `qom-list` has them: those that `-device` and `device_add`
    /// made and that are not yet gone.
    pub(crate) async fn device_aliases(&self) -> Result<BTreeSet<String>, QmpError> {
        let place = json!({ "path": "/machine/peripheral" });
        let members: Vec<ObjectMember> = self.typed("qom-list", place).await?;
        let devices = members
            .into_iter()
            .filter(|member| member.kind.starts_with("child<"));
        Ok(devices.map(|member| member.name).collect())
    }

    /// The function of the host that a vfio device is, by the property of its device; `None`: it has none that
    /// is an address.
    pub(crate) async fn host_of(&self, alias: &str) -> Result<Option<PciAddress>, QmpError> {
        let path = format!("/machine/peripheral/{alias}");
        let property = json!({ "path": path, "property": "host" });
        let host: String = self.typed("qom-get", property).await?;
        Ok(host.parse().ok())
    }

    /// Whether a virtio card's driver in the guest has taken up a feature, by QEMU's name for it;
    /// `None`: this QEMU (before 7.2) doesn't tell, or there is no such card.
    pub(crate) async fn guest_has_feature(
        &self,
        alias: &str,
        feature: &str,
    ) -> Result<Option<bool>, QmpError> {
        let path = format!("/machine/peripheral/{alias}/virtio-backend");
        let status = self.typed("x-query-virtio-status", json!({ "path": path }));
        let status: VirtioStatus = match status.await {
            Ok(status) => status,
            // Its name says that it may change, and it is of use only for what can be missed.
            Err(QmpError::Refused { .. } | QmpError::Answer { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let features = &status.guest_features.dev_features;
        // Each is followed by what it means.
        let mut names = features.iter().filter_map(|text| text.split(':').next());
        Ok(Some(names.any(|name| name == feature)))
    }

    pub(super) async fn plain(&self, command: &str, arguments: Value) -> Result<(), QmpError> {
        self.execute(command, arguments, Vec::new(), QUICK)
            .await
            .map(drop)
    }

    pub(super) async fn typed<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<T, QmpError> {
        let answer = self.execute(command, arguments, Vec::new(), QUICK).await?;
        decode(command, answer)
    }
}

pub(super) fn decode<T: DeserializeOwned>(command: &str, answer: Value) -> Result<T, QmpError> {
    serde_json::from_value(answer).map_err(|source| QmpError::Answer {
        command: command.to_owned(),
        source,
    })
}
