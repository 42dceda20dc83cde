//! The wire between the lab's two ends: this machine, and the agent in the emulated host.
//!
//! A frame is a kind (one byte), a length (four, little-endian) and that many bytes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::pair::Member;

/// The virtio port that carries the frames.
pub(crate) const PORT: &str = "lab.agent";
/// More than any frame needs: input comes in pieces of a pipe's size.
const LONGEST: u32 = 1 << 20;

/// What the emulated host is asked to do; it is told once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Which of two hosts it is, if it is not alone.
    pub(crate) member: Option<Member>,
    /// VFs made on each PF.
    pub(crate) vfs: u8,
    /// The daemon started before the command.
    pub(crate) daemon: Daemon,
    /// The command and its arguments. The second of two hosts has none; it runs what the first one asks for.
    pub(crate) command: Vec<String>,
    /// Seconds that the command may take.
    pub(crate) timeout: Option<u64>,
    /// Rows and columns of the terminal the command gets; without it, it gets pipes.
    pub(crate) terminal: Option<(u16, u16)>,
    /// Whether [`Frame::Input`] is the command's standard input, up to an empty one.
    pub(crate) input: bool,
    /// Further environment of the command.
    pub(crate) env: Vec<(String, String)>,
}

impl Job {
    /// The host's own name.
    pub(crate) fn hostname(&self) -> &'static str {
        self.member.unwrap_or(Member::First).name()
    }
}

/// Who answers `virsh -c qemu:///system` in the emulated host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Daemon {
    /// This project's daemon.
    Virtnicd,
    /// The peer.
    Libvirtd,
    /// Nobody.
    None,
}

impl Daemon {
    /// The program's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Virtnicd => "virtnicd",
            Self::Libvirtd => "libvirtd",
            Self::None => "none",
        }
    }
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// To the agent: a [`Job`] as JSON.
    Job(Vec<u8>),
    /// To the agent: what was typed.
    Input(Vec<u8>),
    /// To the agent: the terminal's rows and columns.
    Resize(u16, u16),
    /// From the agent: how far it is, for a person.
    Note(String),
    /// From the agent: bytes of the command's standard output.
    Out(Vec<u8>),
    /// From the agent: bytes of the command's standard error.
    Err(Vec<u8>),
    /// From the agent, last: the command's exit status. To the second of two hosts, last: how the first one's command ended.
    Exit(u8),
    /// From the agent, last: the host could not be made ready.
    Failed(String),
    /// To the first of two hosts: both are ready.
    Go,
}

impl Frame {
    /// Writes the frame.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut size = [0; 4];
        let mut status = [0; 1];
        let (kind, body): (u8, &[u8]) = match self {
            Self::Job(body) => (1, body),
            Self::Input(body) => (2, body),
            Self::Resize(rows, columns) => {
                size[..2].copy_from_slice(&rows.to_le_bytes());
                size[2..].copy_from_slice(&columns.to_le_bytes());
                (3, &size)
            }
            Self::Note(text) => (4, text.as_bytes()),
            Self::Out(body) => (5, body),
            Self::Err(body) => (6, body),
            Self::Exit(code) => {
                status[0] = *code;
                (7, &status)
            }
            Self::Failed(text) => (8, text.as_bytes()),
            Self::Go => (9, &[]),
        };
        let length = u32::try_from(body.len())
            .ok()
            .filter(|length| *length <= LONGEST)
            .ok_or_else(|| invalid("a frame too long"))?;
        let mut bytes = Vec::with_capacity(5 + body.len());
        bytes.push(kind);
        bytes.extend(length.to_le_bytes());
        bytes.extend(body);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next frame; `None` when the other end is gone.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(invalid("a frame too long"));
        }
        let mut body = vec![0; length as usize];
        from.read_exact(&mut body)?;
        let text =
            |body: Vec<u8>| String::from_utf8(body).map_err(|_| invalid("text that is not UTF-8"));
        Ok(Some(match (kind, &body[..]) {
            (1, _) => Self::Job(body),
            (2, _) => Self::Input(body),
            (3, &[r0, r1, c0, c1]) => {
                Self::Resize(u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]))
            }
            (4, _) => Self::Note(text(body)?),
            (5, _) => Self::Out(body),
            (6, _) => Self::Err(body),
            (7, &[code]) => Self::Exit(code),
            (8, _) => Self::Failed(text(body)?),
            (9, []) => Self::Go,
            _ => return Err(invalid("an unknown frame")),
        }))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} on the lab's wire"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_survives_the_wire() {
        let frames = [
            Frame::Job(b"{}".to_vec()),
            Frame::Input(vec![3]),
            Frame::Resize(24, 300),
            Frame::Note("PF eth0: 7 VFs".to_owned()),
            Frame::Out(vec![0, 255]),
            Frame::Err(vec![]),
            Frame::Exit(124),
            Frame::Failed("no".to_owned()),
            Frame::Go,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut from = &bytes[..];
        for frame in frames {
            assert_eq!(Frame::read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn noise_is_refused() {
        for noise in [
            &[10, 0, 0, 0, 0][..],
            &[5, 255, 255, 255, 255],
            &[7, 2, 0, 0, 0, 1, 1],
            &[5, 4, 0, 0, 0, 1],
        ] {
            assert!(Frame::read(&mut &noise[..]).is_err(), "{noise:?}");
        }
    }
}
