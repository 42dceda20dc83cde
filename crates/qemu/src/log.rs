//! The log of a guest: each start's command line, and all that QEMU printed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::CommandLine;

/// How much of a start's output is looked at, bytes from its end.
const TAIL: u64 = 16 << 10;

/// How many lines of it an error shows.
const LINES: usize = 12;

/// One start in a guest's log.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Where this start's output begins.
    begin: u64,
}

impl Log {
    /// Opens the log and writes the head of a start.
    pub(crate) fn begin(path: &Path, command: &CommandLine) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        writeln!(file, "{}: starting\n{command}", utc(now))?;
        let begin = file.seek(SeekFrom::End(0))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            begin,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor for the process to write to.
    pub(crate) fn output(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The last lines that this start printed, without QEMU's time stamps; empty if there are
    /// none.
    pub(crate) fn last_words(&self) -> String {
        let read = || {
            let mut file = File::open(&self.path)?;
            let end = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(self.begin.max(end.saturating_sub(TAIL))))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            io::Result::Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text
            .lines()
            .map(without_time_stamp)
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

/// A line without the `2026-11-21T06:17:57.123456Z ` that `-msg timestamp=on` puts before it.
fn without_time_stamp(line: &str) -> &str {
    let line = line.trim();
    match line.split_once(' ') {
        Some((stamp, rest))
            if stamp.len() >= 20
                && stamp.ends_with('Z')
                && stamp.as_bytes()[10] == b'T'
                && stamp.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            rest
        }
        _ => line,
    }
}

/// A point in time, seconds since 1970, as RFC 3339 has it.
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that the day that comes and goes is a year's last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_241_877), "2026-11-21T06:17:57Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn only_this_start_s_words_are_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/guest.log");
        let command = CommandLine {
            program: "/bin/qemu".into(),
            args: vec!["-S".into()],
        };
        let first = Log::begin(&path, &command).unwrap();
        writeln!(first.output().unwrap(), "words of yesterday").unwrap();
        assert_eq!(first.last_words(), "words of yesterday");

        let second = Log::begin(&path, &command).unwrap();
        assert_eq!(second.last_words(), "");
        writeln!(
            second.output().unwrap(),
            "2026-11-21T06:17:57.123456Z qemu: no such device\n\nplain"
        )
        .unwrap();
        assert_eq!(second.last_words(), "qemu: no such device\nplain");
        let all = std::fs::read_to_string(&path).unwrap();
        assert_eq!(all.matches("/bin/qemu \\\n-S").count(), 2);
    }
}
