//! `cargo xtask demo`: the main job, shown with real commands in an emulated host.
//!
//! The story itself is `lab/demo.sh`.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use crate::lab::session::{self, Outcome, Passthrough, Sink};
use crate::lab::setup::Lab;
use crate::lab::{HostOptions, LabError};
use crate::ui::print;

/// Seconds for the story. It takes about a minute where nothing else runs.
const PATIENCE: u64 = 600;

/// Shows the story; its verdict is the last line.
pub(crate) fn main() -> Result<ExitCode, LabError> {
    let lab = Lab::set_up()?;
    let story = ["bash", "lab/demo.sh"].map(str::to_owned).to_vec();
    let mut plan = HostOptions::new(1).plan(story, Some(PATIENCE));
    if io::stdout().is_terminal() {
        for (name, code) in [("DEMO_BOLD", "\x1b[1m"), ("DEMO_PLAIN", "\x1b[0m")] {
            plan.job.env.push((name.to_owned(), code.to_owned()));
        }
    }
    let mut story = VerdictLast::default();
    let Outcome { code } = session::run(&lab, &plan, &mut story)?;
    let verdict = story.verdict.unwrap_or_else(|| {
        format!("Did not hold: the story ended with status {code} and no verdict.")
    });
    print(&verdict);
    Ok(ExitCode::from(code))
}

/// How the story's last line begins.
const VERDICTS: [&str; 2] = ["All held:", "Did not hold:"];

/// Passes lines on, and keeps the verdict back: after a failure the daemon's log is shown, and the verdict comes last.
#[derive(Debug, Default)]
struct VerdictLast {
    line: Vec<u8>,
    verdict: Option<String>,
}

impl VerdictLast {
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::new();
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                let text = String::from_utf8_lossy(&line);
                if VERDICTS.iter().any(|verdict| text.starts_with(verdict)) {
                    self.verdict = Some(text.trim_end().to_owned());
                } else {
                    passed.extend(line);
                }
            }
        }
        passed
    }
}

impl Sink for VerdictLast {
    fn out(&mut self, bytes: &[u8]) -> io::Result<()> {
        Passthrough.out(&self.take(bytes))
    }

    fn err(&mut self, bytes: &[u8]) -> io::Result<()> {
        Passthrough.err(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_kept_and_the_rest_passed_line_by_line() {
        let mut story = VerdictLast::default();
        assert_eq!(
            story.take(b"$ virsh start guest\nDom"),
            b"$ virsh start guest\n"
        );
        assert_eq!(story.take(b"ain started\nAll he"), b"Domain started\n");
        assert_eq!(story.take(b"ld: 3 of 3\n"), b"");
        assert_eq!(story.verdict.as_deref(), Some("All held: 3 of 3"));
    }
}
