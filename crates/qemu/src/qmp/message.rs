//! The messages that QEMU sends.

use std::fmt;

use serde_json::{Map, Value};

/// Something that QEMU says unasked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// Its data; an empty object where it has none.
    pub data: Map<String, Value>,
    /// When, by the host's clock; `None` where QEMU has no clock.
    pub timestamp: Option<Timestamp>,
    /// How many bytes the line had.
    pub(crate) size: usize,
}

/// A point in time, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// And microseconds.
    pub micros: u32,
}

impl Event {
    /// A member of the data that is a text.
    pub(crate) fn text(&self, member: &str) -> Option<&str> {
        self.data.get(member).and_then(Value::as_str)
    }

    /// Whether it tells of the same kind of thing about the same device.
    pub(crate) fn is_of_the_kind_of(&self, other: &Self) -> bool {
        // What names the device, node or job that an event is about.
        let about = |event: &Self| {
            ["device", "device-id", "path", "name", "id", "node-name"].map(|member| {
                let text = event.text(member);
                text.map(str::to_owned)
            })
        };
        self.name == other.name && about(self) == about(other)
    }

    /// A member of the data that is a truth value.
    pub(crate) fn flag(&self, member: &str) -> Option<bool> {
        self.data.get(member).and_then(Value::as_bool)
    }
}

/// What a line says.
#[derive(Debug)]
pub(crate) enum Message {
    /// QEMU's first words.
    Greeting,
    /// An answer to the command with that number.
    Answer(u64, Result<Value, Refusal>),
    /// An event.
    Event(Event),
}

/// QEMU's `error` member.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) class: String,
    pub(crate) description: String,
}

/// Reads a line; `Err` says in a word or two what is wrong with it.
pub(crate) fn parse(line: &[u8]) -> Result<Message, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    let Ok(Value::Object(mut message)) = serde_json::from_str(text) else {
        return Err("not a JSON object");
    };
    if let Some(Value::String(name)) = message.remove("event") {
        let data = match message.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        return Ok(Message::Event(Event {
            name,
            data,
            timestamp: message.get("timestamp").and_then(timestamp),
            size: line.len(),
        }));
    }
    let id = message.get("id").and_then(Value::as_u64);
    if let Some(value) = message.remove("return") {
        return id
            .map(|id| Message::Answer(id, Ok(value)))
            .ok_or("an answer without our number");
    }
    if let Some(Value::Object(error)) = message.remove("error") {
        let member = |name| match error.get(name) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        let refusal = Refusal {
            class: member("class"),
            description: member("desc"),
        };
        return id
            .map(|id| Message::Answer(id, Err(refusal)))
            .ok_or("a refusal without our number");
    }
    if message.contains_key("QMP") {
        return Ok(Message::Greeting);
    }
    Err("neither answer nor event")
}

fn timestamp(value: &Value) -> Option<Timestamp> {
    let seconds = value.get("seconds")?.as_i64()?;
    let micros = value.get("microseconds")?.as_i64()?;
    // QEMU writes -1 where the host's clock can't be read.
    (seconds >= 0).then_some(Timestamp {
        seconds,
        micros: u32::try_from(micros).unwrap_or(0),
    })
}

/// QEMU's `RunState`: whether and why the virtual CPUs stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are QEMU's")]
pub enum RunState {
    Debug,
    InMigrate,
    InternalError,
    IoError,
    Paused,
    PostMigrate,
    PreLaunch,
    FinishMigrate,
    RestoreVm,
    Running,
    SaveVm,
    Shutdown,
    Suspended,
    Watchdog,
    GuestPanicked,
    Colo,
    /// One that this version doesn't know.
    Other(String),
}

const RUN_STATES: [(RunState, &str); 16] = [
    (RunState::Debug, "debug"),
    (RunState::InMigrate, "inmigrate"),
    (RunState::InternalError, "internal-error"),
    (RunState::IoError, "io-error"),
    (RunState::Paused, "paused"),
    (RunState::PostMigrate, "postmigrate"),
    (RunState::PreLaunch, "prelaunch"),
    (RunState::FinishMigrate, "finish-migrate"),
    (RunState::RestoreVm, "restore-vm"),
    (RunState::Running, "running"),
    (RunState::SaveVm, "save-vm"),
    (RunState::Shutdown, "shutdown"),
    (RunState::Suspended, "suspended"),
    (RunState::Watchdog, "watchdog"),
    (RunState::GuestPanicked, "guest-panicked"),
    (RunState::Colo, "colo"),
];

impl From<String> for RunState {
    fn from(word: String) -> Self {
        match RUN_STATES.iter().find(|(_, w)| *w == word) {
            Some((state, _)) => state.clone(),
            None => Self::Other(word),
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Other(word) => word,
            known => RUN_STATES
                .iter()
                .find(|(state, _)| state == known)
                .map_or("", |(_, word)| word),
        };
        f.write_str(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_event_is_kept_with_its_words() {
        let line = br#"{"timestamp": {"seconds": 5, "microseconds": 6}, "event": "NEWS", "data": {"a": [1]}}"#;
        let Ok(Message::Event(event)) = parse(line) else {
            panic!("no event");
        };
        assert_eq!(event.name, "NEWS");
        assert_eq!(event.data["a"], serde_json::json!([1]));
        assert_eq!(
            event.timestamp,
            Some(Timestamp {
                seconds: 5,
                micros: 6
            })
        );
        assert_eq!(event.size, line.len());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for line in [
            &b"\xff{}"[..],
            b"",
            b"[]",
            b"{}",
            br#"{"return": {}}"#,
            br#"{"return": {}, "id": "text"}"#,
            br#"{"error": "text", "id": 1}"#,
        ] {
            assert!(parse(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn run_states_keep_their_words() {
        for word in ["running", "guest-panicked", "a-state-of-tomorrow"] {
            assert_eq!(RunState::from(word.to_owned()).to_string(), word);
        }
        assert_eq!(RunState::from("shutdown".to_owned()), RunState::Shutdown);
    }
}
