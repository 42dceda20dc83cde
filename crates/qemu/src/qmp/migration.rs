//! Migration, in QEMU's words (`qapi/migration.json`, as of QEMU 10).

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Qmp;
use crate::QmpError;

/// How far a migration has come: QEMU's `MigrationStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "String")]
pub enum MigrationStatus {
    /// There was none yet.
    #[default]
    None,
    /// It begins; a destination waits for its source in it.
    Setup,
    /// Memory is on its way.
    Active,
    /// The guest is halted, and the last of it is on its way.
    Switching,
    /// All of it was sent, and taken.
    Completed,
    /// It came to nothing.
    Failed,
    /// Somebody ended it, and QEMU has not done that yet.
    Cancelling,
    /// Somebody ended it.
    Cancelled,
    /// One that is never asked for here.
    Other,
}

impl From<String> for MigrationStatus {
    fn from(word: String) -> Self {
        match &*word {
            "none" => Self::None,
            "setup" | "wait-unplug" => Self::Setup,
            "active" => Self::Active,
            "pre-switchover" | "device" => Self::Switching,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "cancelling" | "failing" => Self::Cancelling,
            "cancelled" => Self::Cancelled,
            _ => Self::Other,
        }
    }
}

impl MigrationStatus {
    /// Whether nothing will follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Whether the guest may be halted for it now.
    pub(crate) fn may_halt(self) -> bool {
        matches!(self, Self::Active | Self::Switching | Self::Completed)
    }
}

/// What `query-migrate` says. Of a migration that has not begun all is 0.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MigrationInfo {
    /// How far it is.
    pub status: MigrationStatus,
    /// Since it began, milliseconds.
    pub total_time: u64,
    /// For how long the guest was halted, milliseconds; known afterwards.
    pub downtime: u64,
    /// For how long it would be halted now, milliseconds.
    pub expected_downtime: u64,
    /// Until memory was on its way, milliseconds.
    pub setup_time: u64,
    /// The guest's memory.
    pub ram: Option<RamInfo>,
    /// Why it failed.
    pub error_desc: Option<String>,
    /// Why the guest can't be migrated.
    pub blocked_reasons: Vec<String>,
}

/// What became of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RamInfo {
    /// Bytes that were sent.
    pub transferred: u64,
    /// Bytes that are left.
    pub remaining: u64,
    /// The guest's memory, bytes.
    pub total: u64,
    /// Pages that are all zero, of which only that was sent.
    pub duplicate: u64,
    /// Pages that were sent whole.
    pub normal: u64,
    /// The same, bytes.
    pub normal_bytes: u64,
    /// Pages that the guest changes, each second.
    pub dirty_pages_rate: u64,
    /// Millions of bits that are sent each second.
    pub mbps: f64,
    /// How often the guest's changes were collected.
    pub dirty_sync_count: u64,
    /// Bytes of a page.
    pub page_size: u64,
}

/// How the memory is sent. By default plainly, as fast as it goes, with QEMU's own limit of the time that
/// the guest is halted (300 ms).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrationSettings {
    /// Bytes a second, at most; 0: no limit.
    pub bandwidth: u64,
    /// For how long the guest may be halted, at most.
    pub downtime: Option<Duration>,
    /// The guest is slowed down if it changes memory faster than that is sent: by how many percent at first,
    /// and more each time; `Some((None, None))`: by QEMU's own.
    pub auto_converge: Option<(Option<u8>, Option<u8>)>,
    /// Several connections side by side.
    pub parallel: Option<u8>,
    /// How it is compressed.
    pub compression: Option<Compression>,
}

/// How memory is compressed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Only what changed of a page is sent again; the size of what is kept for that, bytes (a power of 2);
    /// `None`: QEMU's own, 64 MiB.
    Xbzrle(Option<u64>),
    /// zlib, by parallel connections only; its level, 0 to 9, or QEMU's own.
    Zlib(Option<u8>),
    /// zstd, by parallel connections only; its level, 0 to 20, or QEMU's own.
    Zstd(Option<u8>),
}

impl Qmp {
    /// `query-migrate`.
    pub(crate) async fn migration(&self) -> Result<MigrationInfo, QmpError> {
        self.typed("query-migrate", Value::Null).await
    }

    /// `migrate-set-capabilities` and `migrate-set-parameters`: all that a migration here depends on, so that
    /// nothing is left of an earlier one.
    pub(crate) async fn set_migration(&self, wanted: &MigrationSettings) -> Result<(), QmpError> {
        let (multifd, compression) = (wanted.parallel.is_some(), wanted.compression);
        let capability = |name: &str, state: bool| json!({ "capability": name, "state": state });
        let capabilities = [
            capability("events", true),
            // The source knows by it that the destination has taken all.
            capability("return-path", true),
            capability("auto-converge", wanted.auto_converge.is_some()),
            capability("multifd", multifd),
            capability(
                "xbzrle",
                matches!(compression, Some(Compression::Xbzrle(_))),
            ),
        ];
        let capabilities = json!({ "capabilities": capabilities });
        self.plain("migrate-set-capabilities", capabilities).await?;
        let method = match compression {
            Some(Compression::Zlib(_)) => "zlib",
            Some(Compression::Zstd(_)) => "zstd",
            Some(Compression::Xbzrle(_)) | None => "none",
        };
        let mut parameters = json!({
            "max-bandwidth": wanted.bandwidth,
            "multifd-channels": wanted.parallel.unwrap_or(2),
            "multifd-compression": method,
        });
        let mut set = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                parameters[name] = value.into();
            }
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        set("downtime-limit", wanted.downtime.map(millis));
        if let Some((initial, increment)) = wanted.auto_converge {
            set("cpu-throttle-initial", initial.map(u64::from));
            set("cpu-throttle-increment", increment.map(u64::from));
        }
        match compression {
            Some(Compression::Xbzrle(size)) => set("xbzrle-cache-size", size),
            Some(Compression::Zlib(level)) => set("multifd-zlib-level", level.map(u64::from)),
            Some(Compression::Zstd(level)) => set("multifd-zstd-level", level.map(u64::from)),
            None => {}
        }
        self.plain("migrate-set-parameters", parameters).await
    }

    /// `migrate-set-parameters`, of one that may be under way: bytes a second, 0 for no limit.
    pub(crate) async fn set_migration_bandwidth(&self, bytes: u64) -> Result<(), QmpError> {
        let parameters = json!({ "max-bandwidth": bytes });
        self.plain("migrate-set-parameters", parameters).await
    }

    /// The same, for how long the guest may be halted.
    pub(crate) async fn set_migration_downtime(&self, limit: Duration) -> Result<(), QmpError> {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let parameters = json!({ "downtime-limit": limit });
        self.plain("migrate-set-parameters", parameters).await
    }

    /// `migrate`: begins to send the guest to that URI.
    pub(crate) async fn migrate(&self, uri: &str) -> Result<(), QmpError> {
        self.plain("migrate", json!({ "uri": uri })).await
    }

    /// `migrate-incoming`: waits for a guest there.
    pub(crate) async fn migrate_incoming(&self, uri: &str) -> Result<(), QmpError> {
        self.plain("migrate-incoming", json!({ "uri": uri })).await
    }

    /// `migrate_cancel`. QEMU may take its time.
    pub(crate) async fn migrate_cancel(&self) -> Result<(), QmpError> {
        self.plain("migrate_cancel", Value::Null).await
    }

    /// `announce-self`: has the guest's cards, or QEMU for them, tell the network where they are, a few times
    /// within a second.
    pub(crate) async fn announce_self(&self) -> Result<(), QmpError> {
        let rounds = json!({ "initial": 20, "max": 300, "rounds": 6, "step": 80 });
        self.plain("announce-self", rounds).await
    }

    /// `qom-get` of the words of CPU features that the guest's first virtual CPU really has, in an order that
    /// is the same everywhere; `None`: this machine's CPUs have none.
    pub(crate) async fn cpu_features(&self) -> Result<Option<Vec<CpuWord>>, QmpError> {
        let cpus: Vec<CpuPath> = self.typed("query-cpus-fast", Value::Null).await?;
        let Some(cpu) = cpus.into_iter().find_map(|cpu| cpu.qom_path) else {
            return Ok(None);
        };
        let place = json!({ "path": cpu, "property": "feature-words" });
        let mut words: Vec<CpuWord> = match self.typed("qom-get", place).await {
            Ok(words) => words,
            Err(QmpError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        words.retain(|word| word.features != 0);
        words.sort_by(|one, other| one.place().cmp(&other.place()));
        Ok(Some(words))
    }
}

#[derive(Deserialize)]
struct CpuPath {
    #[serde(rename = "qom-path")]
    qom_path: Option<String>,
}

/// A word of a virtual CPU's features: QEMU's `X86CPUFeatureWordInfo`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuWord {
    /// What CPUID is asked with.
    pub cpuid_input_eax: u32,
    /// And, where that counts.
    #[serde(default)]
    pub cpuid_input_ecx: Option<u32>,
    /// The register that has the answer.
    pub cpuid_register: String,
    /// The features, a bit each.
    pub features: u32,
}

impl CpuWord {
    /// Which word it is.
    #[must_use]
    pub fn place(&self) -> (u32, Option<u32>, &str) {
        (
            self.cpuid_input_eax,
            self.cpuid_input_ecx,
            &self.cpuid_register,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_of_a_migration_is_read() {
        let answer = json!({
            "status": "active", "total-time": 120, "expected-downtime": 300, "setup-time": 3,
            "ram": {
                "total": 136_000_000, "remaining": 1000, "transferred": 99, "mbps": 268.4, "page-size": 4096,
                "dirty-sync-count": 2, "duplicate": 5, "normal": 6, "normal-bytes": 24576, "dirty-pages-rate": 0,
                "multifd-bytes": 0
            },
            "blocked-reasons": ["0000:01:10.0: VFIO migration is not supported in kernel"]
        });
        let info: MigrationInfo = serde_json::from_value(answer).unwrap();
        assert_eq!(info.status, MigrationStatus::Active);
        let ram = info.ram.unwrap();
        assert_eq!(
            (ram.total, ram.remaining, ram.dirty_sync_count),
            (136_000_000, 1000, 2)
        );
        assert_eq!(info.blocked_reasons.len(), 1);
        let none: MigrationInfo = serde_json::from_value(json!({})).unwrap();
        assert_eq!(none, MigrationInfo::default());
        for word in ["wait-unplug", "device", "completed", "of-tomorrow"] {
            let status = MigrationStatus::from(word.to_owned());
            assert_eq!(status.is_final(), word == "completed", "{word}");
        }
    }
}
