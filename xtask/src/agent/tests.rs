//! Runs lab tests inside the emulated host, one after the other.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::lab::boot::watch;
use crate::test::lab_tests::{FAILED, PASSED, SKIPPED};
use crate::test::scripts::{Script, ScriptError, find};
use crate::ui::print;

/// The status by which a script says that it can't test anything here; its last line says why.
const SKIP: i32 = 77;
/// Takes away what a test left: guests and networks. Its own failure fails the test.
const CLEAN_UP: &str = "/checkout/lab/tests/clean-up";
/// Lines that are shown of what a failed test said.
const SHOWN: usize = 100;
/// Seconds that cleaning up may take.
const CLEAN_UP_TIMEOUT: u64 = 60;

/// Runs the named tests and prints a verdict for each; true if none failed.
pub(crate) fn run(names: &[String]) -> Result<bool, ScriptError> {
    let mut good = true;
    for script in find(Path::new("/checkout/lab/tests"))? {
        if names.contains(&script.name) {
            good &= run_one(&script);
        }
    }
    Ok(good)
}

fn run_one(script: &Script) -> bool {
    let start = Instant::now();
    let mut result = run_script(&script.path, script.timeout);
    if Path::new(CLEAN_UP).exists() {
        let cleaned = run_script(Path::new(CLEAN_UP), CLEAN_UP_TIMEOUT);
        if matches!(result, Ok(Verdict::Passed)) && !matches!(cleaned, Ok(Verdict::Passed)) {
            result = cleaned;
        }
    }
    let name = &script.name;
    let seconds = start.elapsed().as_secs_f64();
    let (good, line, output) = match result {
        Ok(Verdict::Passed) => (true, format!("{PASSED}{name} {seconds:.1} s"), None),
        Ok(Verdict::Skipped(output)) => {
            let why = output.lines().last().unwrap_or("it did not say why");
            (true, format!("{SKIPPED}{name}: {why}"), None)
        }
        Ok(Verdict::Failed(why, output)) => (
            false,
            format!("{FAILED}{name} {seconds:.1} s: {why}"),
            Some(output),
        ),
        Err(error) => (
            false,
            format!("{FAILED}{name}: can't run it: {error}"),
            None,
        ),
    };
    print(&line);
    if let Some(output) = output {
        let lines: Vec<&str> = output.lines().collect();
        let hidden = lines.len().saturating_sub(SHOWN);
        if hidden > 0 {
            print(&format!("    ({hidden} lines before these)"));
        }
        for line in &lines[hidden..] {
            print(&format!("    {line}"));
        }
    }
    good
}

enum Verdict {
    Passed,
    Skipped(String),
    Failed(String, String),
}

fn run_script(path: &Path, timeout: u64) -> io::Result<Verdict> {
    // A file, not a pipe: what a test leaves running may hold it for ever.
    let log = Path::new("/tmp").join(format!(
        "{}.log",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    let file = std::fs::File::create(&log)?;
    let errors = file.try_clone()?;
    let mut command = match path.extension().and_then(|extension| extension.to_str()) {
        Some("py") => Command::new("python3"),
        _ => Command::new("bash"),
    };
    let mut child = command
        .arg(path)
        .current_dir("/checkout/lab/tests")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn()?;
    let ended = watch(&child)?;
    let left = Timespec {
        tv_sec: Duration::from_secs(timeout).as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let in_time = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left))? > 0;
    if !in_time && let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        kill_process_group(group, Signal::KILL)?;
    }
    let status = child.wait()?;
    let output = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    Ok(if !in_time {
        Verdict::Failed(format!("no end within {timeout} s"), output)
    } else if status.success() {
        Verdict::Passed
    } else if status.code() == Some(SKIP) {
        Verdict::Skipped(output)
    } else {
        Verdict::Failed(status.to_string(), output)
    })
}
