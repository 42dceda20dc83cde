//! What travels with a guest from one daemon to the other, in its client's hands.

use std::time::Duration;

use conf::Uuid;
use qemu::CpuWord;
use rpc::{Code, Error};
use serde::{Deserialize, Serialize};

use super::QEMU;
use crate::fault::Result;

/// The layout of cookies; a later one gets another number, and both are read.
const FORMAT: u32 = 1;

/// Bytes of the longest cookie that is read: it may hold a document.
const MAX: usize = 2 << 20;

/// What a daemon says to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cookie {
    /// The daemon where the guest comes from.
    pub(super) daemon: String,
    /// The guest.
    pub(super) guest: Uuid,
    /// This move of it.
    pub(super) id: Uuid,
    /// Its definition there, if it has one that is to be kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) definition: Option<String>,
    /// The features of the CPU that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<Vec<CpuWord>>,
    /// How it was sent, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sent: Option<Sent>,
}

/// How a guest was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    /// Milliseconds from begin to end.
    pub(super) took: u64,
    /// Milliseconds for which QEMU had halted it.
    pub(super) downtime: u64,
    /// Bytes that were sent.
    pub(super) transferred: u64,
    /// Bytes of its memory.
    pub(super) total: u64,
}

#[derive(Serialize, Deserialize)]
struct Stamped<T> {
    virtnic: u32,
    #[serde(flatten)]
    cookie: T,
}

impl Cookie {
    pub(super) fn write(&self) -> Vec<u8> {
        let stamped = Stamped {
            virtnic: FORMAT,
            cookie: self,
        };
        // Nothing of it can't be said in JSON.
        serde_json::to_vec(&stamped).unwrap_or_default()
    }

    /// # Errors
    /// It is not of a virtnicd, or of a later one.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let refused = |detail: String| Err(Error::new(Code::OperationFailed, QEMU, detail));
        if bytes.len() > MAX {
            return refused(format!(
                "the other host's cookie has {} bytes, and at most {MAX} are read",
                bytes.len()
            ));
        }
        let stamped = serde_json::from_slice::<Stamped<serde_json::Value>>(bytes);
        let Ok(Stamped { virtnic, cookie }) = stamped else {
            return refused(
                "the other host has no virtnicd: guests move between two hosts that run it"
                    .to_owned(),
            );
        };
        if virtnic != FORMAT {
            return refused(format!(
                "the other host's virtnicd is of another version: its cookies are of format {virtnic}, \
                 and {FORMAT} is known here"
            ));
        }
        serde_json::from_value(cookie)
            .or_else(|error| refused(format!("the other host's cookie makes no sense: {error}")))
    }
}

impl Sent {
    pub(super) fn of(info: &qemu::MigrationInfo) -> Self {
        let ram = info.ram.unwrap_or_default();
        Self {
            took: info.total_time,
            downtime: info.downtime,
            transferred: ram.transferred,
            total: ram.total,
        }
    }

    pub(super) fn info(self) -> qemu::MigrationInfo {
        qemu::MigrationInfo {
            total_time: self.took,
            downtime: self.downtime,
            ram: Some(qemu::RamInfo {
                transferred: self.transferred,
                total: self.total,
                ..qemu::RamInfo::default()
            }),
            ..qemu::MigrationInfo::default()
        }
    }

    pub(super) fn took(self) -> Duration {
        Duration::from_millis(self.took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_the_first_format_are_read() {
        let golden = r#"{"virtnic":1,"daemon":"b-1-2","guest":"51300000-0000-4000-8000-000000000001",
            "id":"51300000-0000-4000-8000-000000000002","definition":"<domain/>",
            "cpu":[{"cpuid-input-eax":7,"cpuid-input-ecx":0,"cpuid-register":"EBX","features":1}],
            "sent":{"took":7,"downtime":1,"transferred":5,"total":9},"more":[1]}"#;
        let cookie = Cookie::read(golden.as_bytes()).unwrap();
        assert_eq!(Cookie::read(&cookie.write()).unwrap(), cookie);
        assert_eq!(cookie.sent.unwrap().took, 7);
        assert_eq!(cookie.cpu.unwrap()[0].features, 1);
    }

    #[test]
    fn what_is_none_is_refused_and_says_whose_it_may_be() {
        let libvirts = b"<qemu-migration><name>g</name></qemu-migration>\0";
        for (bytes, part) in [
            (&libvirts[..], "has no virtnicd"),
            (b"", "has no virtnicd"),
            (b"{}", "has no virtnicd"),
            (&b"[".repeat(MAX + 1), "at most"),
            (&b"[".repeat(MAX), "has no virtnicd"),
            (b"{\"virtnic\":2}", "format 2"),
            (b"{\"virtnic\":1,\"daemon\":1}", "makes no sense"),
        ] {
            let error = Cookie::read(bytes).unwrap_err();
            assert!(error.message().contains(part), "{error}");
        }
    }
}
