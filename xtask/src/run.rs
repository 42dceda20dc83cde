//! Programs run on this machine, as root where they need it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::ui::Step;

/// Why a program could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// It could not be started.
    #[error("can't run {program}")]
    Start {
        /// The program.
        program: String,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// It ran and failed.
    #[error("{program} failed ({status}); its output is in {}", log.display())]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Where its output was kept.
        log: PathBuf,
    },
    /// Its output could not be kept.
    #[error("can't write {}", log.display())]
    Log {
        /// The log.
        log: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
}

/// A command that runs as root: itself for root, through `sudo` for others.
pub(crate) fn privileged(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    }
}

/// The absolute path of a program, if this machine has it.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir: PathBuf| dir.join(name))
        .find(|path| path.is_file())
}

/// Runs a command to its end, its output appended to `log` and its latest line shown in `step`.
pub(crate) fn logged(step: &Step, mut command: Command, log: &Path) -> Result<(), RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let cant_log = |source| RunError::Log {
        log: log.to_owned(),
        source,
    };
    let cant_start = |source| RunError::Start {
        program: program.clone(),
        source,
    };
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(cant_log)?;
    writeln!(file, "$ {command:?}").map_err(cant_log)?;
    let (output, input) = io::pipe().map_err(cant_start)?;
    let second = input.try_clone().map_err(cant_start)?;
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(input)
        .stderr(second)
        .spawn()
        .map_err(cant_start)?;
    // The command holds the write ends, without which the reading below never ends.
    drop(command);
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).map_err(cant_log)? > 0 {
        file.write_all(&line).map_err(cant_log)?;
        step.note(String::from_utf8_lossy(&line).trim());
        line.clear();
    }
    let status = child.wait().map_err(cant_start)?;
    if status.success() {
        Ok(())
    } else {
        Err(RunError::Failed {
            program,
            status,
            log: log.to_owned(),
        })
    }
}
