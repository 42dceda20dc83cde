//! What source and destination tell each other by way of the client.

use conf::Uuid;
use rpc::{Code, Error};
use serde::{Deserialize, Serialize};

use super::QEMU;
use crate::fault::Result;

/// Bytes of a cookie, at most; libvirt's protocol takes four millions.
const MAX: usize = 64 * 1024;

/// Of this layout; a later one gets another number.
const FORMAT: u32 = 1;

/// Names the guest and its definition to the one that handed them out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cookie {
    /// The daemon that it is from.
    pub(super) daemon: String,
    /// The guest.
    pub(super) guest: Uuid,
    /// Its definition, as that daemon tells it from others.
    pub(super) definition: u64,
}

#[derive(Serialize, Deserialize)]
struct Written {
    virtnic: u32,
    #[serde(flatten)]
    cookie: serde_json::Value,
}

impl Cookie {
    pub(super) fn write(&self) -> Vec<u8> {
        let cookie = serde_json::json!({
            "virtnic": FORMAT,
            "daemon": self.daemon,
            "guest": self.guest,
            "definition": self.definition,
        });
        cookie.to_string().into_bytes()
    }

    /// # Errors
    /// It is not of a virtnicd, or of a later one.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let refused = |detail: String| Err(Error::new(Code::OperationFailed, QEMU, detail));
        let written = (bytes.len() <= MAX).then(|| serde_json::from_slice::<Written>(bytes));
        let Some(Ok(Written { virtnic, cookie })) = written else {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_the_first_format_are_read() {
        let golden = r#"{"daemon":"b-1-2","definition":7,
            "guest":"51300000-0000-4000-8000-000000000001","virtnic":1,"more":[1]}"#;
        let cookie = Cookie::read(golden.as_bytes()).unwrap();
        assert_eq!(Cookie::read(&cookie.write()).unwrap(), cookie);
        assert_eq!((cookie.daemon.as_str(), cookie.definition), ("b-1-2", 7));
    }

    #[test]
    fn what_is_none_is_refused_and_says_whose_it_may_be() {
        let libvirts = b"<qemu-migration><name>g</name></qemu-migration>\0";
        for (bytes, part) in [
            (&libvirts[..], "has no virtnicd"),
            (b"", "has no virtnicd"),
            (b"{}", "has no virtnicd"),
            (&b"[".repeat(MAX + 1), "has no virtnicd"),
            (&b"[".repeat(MAX), "has no virtnicd"),
            (b"{\"virtnic\":2}", "format 2"),
            (b"{\"virtnic\":1,\"daemon\":1}", "makes no sense"),
        ] {
            let error = Cookie::read(bytes).unwrap_err();
            assert!(error.message().contains(part), "{error}");
        }
    }
}
