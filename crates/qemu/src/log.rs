//! The log of a guest: each start's command line, and what QEMU printed. Its size is limited: what is
//! older moves to `NAME.log.0`, then to `NAME.log.1`, and goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::CommandLine;

/// Longest file of a log, bytes.
const FILE_LIMIT: u64 = 2 << 20;

/// How many older files there are.
const OLDER: u32 = 2;

/// A guest's log, open for adding to it. All that it does blocks.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    /// Opens a log, or begins one.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        Ok(Self {
            path: path.to_owned(),
            size: file.metadata()?.len(),
            file,
        })
    }

    /// Writes the head of a start.
    pub(crate) fn begin(&mut self, command: &CommandLine) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.add(format!("{}: starting\n{command}\n", utc(now)).as_bytes())
    }

    /// Adds to it. Of more than fits into a file the beginning is kept.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        let most = usize::try_from(FILE_LIMIT).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(most)];
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size + length > FILE_LIMIT {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (0..OLDER).rev() {
            let from = match number {
                0 => self.path.clone(),
                newer => self.older(newer - 1),
            };
            match fs::rename(from, self.older(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        *self = Self::open(&self.path)?;
        Ok(())
    }

    fn older(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// A line without the `2026-11-21T06:17:57.123456Z ` that `-msg timestamp=on` puts before it.
pub(crate) fn without_time_stamp(line: &str) -> &str {
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
    fn a_log_has_three_files_of_limited_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/guest.log");
        let mut log = Log::open(&path).unwrap();
        let line = format!("{}\n", "x".repeat(64 << 10));
        for number in 0..200 {
            log.add(format!("{number} {line}").as_bytes()).unwrap();
        }
        drop(log);
        // What an earlier daemon wrote counts.
        let mut log = Log::open(&path).unwrap();
        log.add(b"the last line\n").unwrap();
        let files: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap())
            .collect();
        assert_eq!(files.len(), 3, "{files:?}");
        for file in &files {
            assert!(file.metadata().unwrap().len() <= FILE_LIMIT);
        }
        let newest = fs::read_to_string(&path).unwrap();
        assert!(newest.ends_with("the last line\n"));
        let oldest = fs::read_to_string(path.with_extension("log.1")).unwrap();
        let newer = fs::read_to_string(path.with_extension("log.0")).unwrap();
        let first = |text: &str| text.split_once(' ').unwrap().0.parse::<u32>().unwrap();
        assert!(first(&oldest) < first(&newer) && first(&newer) < first(&newest));
    }

    #[test]
    fn more_than_a_file_holds_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest.log");
        let command = CommandLine {
            program: "/bin/qemu".into(),
            args: vec!["-append".into(), "x".repeat(5 << 20)],
        };
        let mut log = Log::open(&path).unwrap();
        log.begin(&command).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), FILE_LIMIT);
        log.add(b"words").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"words");
    }
}
