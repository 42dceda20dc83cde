//! What QEMU prints, on its way to the guest's log.
//!
//! QEMU has one end of a pipe and never the log itself, so that it can neither change what it said
//! nor fill the disk. The pipe has a name: the next daemon opens it again. QEMU's end reads, too,
//! and does not block: a pipe that nobody reads neither ends nor halts QEMU, and keeps its first
//! words until it is full.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::log::{Log, without_time_stamp};

/// Longest line of the log, bytes. Longer ones are cut.
const LINE: usize = 4 << 10;

/// How many lines of a start an error shows.
const LAST_WORDS: usize = 12;

/// How much is read at once, bytes, and how often at the most: 1.3 MB a second.
const CHUNK: usize = 64 << 10;
const PACE: Duration = Duration::from_millis(50);

/// For the last words of a process that has ended: they are in the pipe already.
const FINISH: Duration = Duration::from_secs(2);

/// Both ends of a pipe that was just made.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// The daemon's, for reading.
    pub(crate) reader: OwnedFd,
    /// QEMU's, for both, without blocking.
    pub(crate) writer: OwnedFd,
}

/// Makes a pipe of that name, in a directory where nobody else makes any.
pub(crate) fn make_pipe(path: &Path) -> io::Result<Pipe> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)?;
    let reader = open_pipe(path)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let writer = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(Pipe { reader, writer })
}

/// Opens our end of a pipe that is there.
pub(crate) fn open_pipe(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        FileType::Fifo => Ok(fd),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The way from a guest's pipe to its log, which goes on until the pipe ends.
#[derive(Debug)]
pub(crate) struct Output {
    words: Arc<Mutex<VecDeque<String>>>,
    copying: JoinHandle<()>,
}

impl Output {
    /// Begins to copy. Needs the runtime.
    pub(crate) fn follow(reader: OwnedFd, log: Log) -> io::Result<Self> {
        let reader = pipe::Receiver::from_owned_fd(reader)?;
        let words = Arc::default();
        Ok(Self {
            copying: tokio::spawn(copy(reader, log, Arc::clone(&words))),
            words,
        })
    }

    /// Waits until all is copied of a process that has ended, and returns the last lines that it
    /// printed, without QEMU's time stamps; empty if there are none.
    pub(crate) async fn finish(mut self) -> String {
        // Someone else may hold the pipe open.
        if tokio::time::timeout(FINISH, &mut self.copying)
            .await
            .is_err()
        {
            self.copying.abort();
        }
        let words = lock(&self.words);
        words
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

async fn copy(mut reader: pipe::Receiver, mut log: Log, words: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = CutLines::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = match reader.read(&mut chunk).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%error, "reading what QEMU prints");
                break;
            }
        };
        let text = lines.take(&chunk[..count], &words);
        log = match add(log, text).await {
            Some(log) => log,
            None => return,
        };
        if count == CHUNK {
            // It prints faster than anybody reads a log. What the pipe can't hold is lost to it.
            tokio::time::sleep(PACE).await;
        }
    }
    let rest = lines.finish(&words);
    add(log, rest).await;
}

async fn add(mut log: Log, text: Vec<u8>) -> Option<Log> {
    let added = tokio::task::spawn_blocking(move || {
        if let Err(error) = log.add(&text) {
            tracing::warn!(%error, "writing a guest's log");
        }
        log
    });
    // It fails only when the runtime ends.
    added.await.ok()
}

/// Lines, cut where they are too long.
#[derive(Debug, Default)]
struct CutLines {
    line: Vec<u8>,
    is_cut: bool,
}

impl CutLines {
    /// Takes bytes, and returns the lines that they complete.
    fn take(&mut self, bytes: &[u8], words: &Mutex<VecDeque<String>>) -> Vec<u8> {
        let mut complete = Vec::new();
        let mut pieces = bytes.split(|&byte| byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let room = LINE - self.line.len().min(LINE);
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            self.is_cut |= piece.len() > room;
            if pieces.peek().is_some() {
                self.end_line(&mut complete, words);
            }
        }
        complete
    }

    /// What is left of a line without an end.
    fn finish(&mut self, words: &Mutex<VecDeque<String>>) -> Vec<u8> {
        let mut complete = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut complete, words);
        }
        complete
    }

    fn end_line(&mut self, complete: &mut Vec<u8>, words: &Mutex<VecDeque<String>>) {
        complete.extend_from_slice(&self.line);
        if std::mem::take(&mut self.is_cut) {
            complete.extend_from_slice("…".as_bytes());
        }
        complete.push(b'\n');
        let text = String::from_utf8_lossy(&self.line);
        let text = without_time_stamp(&text);
        if !text.is_empty() {
            let mut words = lock(words);
            if words.len() == LAST_WORDS {
                words.pop_front();
            }
            words.push_back(text.to_owned());
        }
        self.line.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    struct Bench {
        directory: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
            }
        }

        fn pipe(&self) -> std::path::PathBuf {
            self.directory.path().join("output")
        }

        fn log(&self) -> std::path::PathBuf {
            self.directory.path().join("guest.log")
        }

        fn follow(&self, reader: OwnedFd) -> Output {
            Output::follow(reader, Log::open(&self.log()).unwrap()).unwrap()
        }
    }

    #[tokio::test]
    async fn what_is_printed_reaches_the_log_and_its_end_the_error() {
        let bench = Bench::new();
        let Pipe { reader, writer } = make_pipe(&bench.pipe()).unwrap();
        let output = bench.follow(reader);
        let mut qemu = File::from(writer);
        write!(
            qemu,
            "2026-11-21T06:17:57.123456Z qemu: no such device\n\nplain\nno end"
        )
        .unwrap();
        drop(qemu);
        assert_eq!(output.finish().await, "qemu: no such device\nplain\nno end");
        let log = std::fs::read_to_string(bench.log()).unwrap();
        assert!(log.starts_with("2026-11-21T06:17:57.123456Z qemu"), "{log}");
        assert!(log.ends_with("\nplain\nno end\n"), "{log}");
    }

    #[tokio::test]
    async fn a_line_without_an_end_does_not_grow() {
        let bench = Bench::new();
        let Pipe { reader, writer } = make_pipe(&bench.pipe()).unwrap();
        let output = bench.follow(reader);
        let writing = tokio::task::spawn_blocking(move || {
            let mut qemu = File::from(writer);
            let mut written = 0;
            while written < 1 << 20 {
                match qemu.write(&[b'x'; 4096]) {
                    Ok(count) => written += count,
                    // The pipe is full: QEMU would lose it.
                    Err(_) => std::thread::yield_now(),
                }
            }
            while qemu.write(b"\nlast words\n").is_err() {
                std::thread::yield_now();
            }
        });
        writing.await.unwrap();
        assert!(output.finish().await.ends_with("\nlast words"));
        let log = std::fs::read_to_string(bench.log()).unwrap();
        assert_eq!(log.lines().count(), 2);
        assert!(log.len() < 2 * LINE, "{}", log.len());
    }

    #[tokio::test]
    async fn a_pipe_that_nobody_reads_does_not_block_and_keeps_what_it_can() {
        let bench = Bench::new();
        let Pipe { reader, writer } = make_pipe(&bench.pipe()).unwrap();
        drop(reader); // the daemon died
        let mut qemu = File::from(writer);
        qemu.write_all(b"words to nobody\n").unwrap();
        let mut refused = None;
        for _ in 0..1000 {
            refused = refused.or(qemu.write(&[b'x'; 4096]).err());
        }
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);

        let output = bench.follow(open_pipe(&bench.pipe()).unwrap());
        drop(qemu);
        output.finish().await;
        let log = std::fs::read_to_string(bench.log()).unwrap();
        assert!(log.starts_with("words to nobody\n"), "{log:.80}");
    }

    #[test]
    fn only_a_pipe_is_taken_for_one() {
        let bench = Bench::new();
        std::fs::write(bench.pipe(), "a file").unwrap();
        assert!(open_pipe(&bench.pipe()).is_err());
    }
}
