//! How fast documents are read and written, beside libxml2's bare parsing of the same files, for `cargo xtask bench`; and
//! `cargo xtask fuzz`: the fuzz targets, each for a bounded time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use clap::Args;

use crate::lab::setup::checkout;
use crate::run::find_program;
use crate::ui::{print, say};

/// How often each file is read. It is what `xmllint --repeat` does.
const REPEATS: u32 = 100;
/// Runs of `xmllint`, of which the quickest counts.
const ROUNDS: u32 = 3;
/// As many times the floor as reading should take at most.
const AIM: f64 = 2.0;

/// `cargo xtask fuzz …`
#[derive(Debug, Args)]
pub(crate) struct FuzzOptions {
    /// Only these targets: network, networkport, nodedev, domain, interface, hostdev
    targets: Vec<String>,
    /// For how long each target runs
    #[arg(long, default_value_t = 30)]
    seconds: u32,
}

/// Each target, and the folder of the corpus that it starts from.
const TARGETS: [(&str, &str); 6] = [
    ("network", "network"),
    ("networkport", "networkport"),
    ("nodedev", "nodedev"),
    ("domain", "domain"),
    ("interface", "domain"),
    ("hostdev", "domain"),
];

/// Why documents could not be measured, or fuzzed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentsError {
    /// A program could not be run.
    #[error("can't run {program}")]
    Start {
        /// The program.
        program: String,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// A program failed; it has said why.
    #[error("{program} failed ({status})")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The corpus could not be read.
    #[error("can't read {}", path.display())]
    Corpus {
        /// The directory.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// The measuring program said something else than two numbers.
    #[error("the measuring program said {0:?}")]
    Numbers(String),
    /// No such target.
    #[error("there is no fuzz target '{0}'")]
    Target(String),
}

/// Measures, and prints a table. `root` is a Debian root that has `xmllint`.
pub(crate) fn measure(root: &Path) -> Result<(), DocumentsError> {
    let files = corpus()?;
    run(Command::new(env!("CARGO")).args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "conf",
        "--example",
        "rate",
    ]))?;
    let mut rate = Command::new(checkout().join("target/release/examples/rate"));
    let text = output(rate.arg(REPEATS.to_string()).args(&files))?;
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [read, both] = numbers[..] else {
        return Err(DocumentsError::Numbers(text));
    };
    let floor = floor(root, &files)?;
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    let rate = |micros: f64| f64::from(count) * 1e6 / micros;
    print(&format!(
        "{count} documents of the corpus, {REPEATS} times each; documents per second:"
    ));
    let line = |what: &str, micros: f64| {
        let times = micros / floor;
        print(&format!(
            "  {what:25} {:9.0}  {times:.2} times the floor",
            rate(micros)
        ));
    };
    line("libxml2, parsed only", floor);
    line("virtnic, read", read);
    line("virtnic, read and written", both);
    let met = if read > AIM * floor { "NOT met" } else { "met" };
    print(&format!(
        "\n{met:8} {:.2}  reading: at most {AIM} times libxml2's parsing",
        read / floor
    ));
    Ok(())
}

/// Microseconds in which libxml2 parses all files once.
fn floor(root: &Path, files: &[PathBuf]) -> Result<f64, DocumentsError> {
    let timed = |repeat: bool| {
        // The root's own program with the root's own libraries: this machine may have neither.
        let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(root.join("usr/lib/x86_64-linux-gnu"))
            .arg(root.join("usr/bin/xmllint"))
            .arg("--noout")
            .args(repeat.then_some("--repeat"))
            .args(files);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        // Some cases are not well-formed, of which it complains.
        command.status().map_err(|source| DocumentsError::Start {
            program: "xmllint".to_owned(),
            source,
        })?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    let (mut once, mut many) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        once = once.min(timed(false)?);
        many = many.min(timed(true)?);
    }
    // Without its start.
    Ok((many - once) / f64::from(REPEATS - 1))
}

/// Runs the fuzz targets one after the other.
pub(crate) fn fuzz(options: &FuzzOptions) -> Result<ExitCode, DocumentsError> {
    if let Some(unknown) = options
        .targets
        .iter()
        .find(|name| !TARGETS.iter().any(|(known, _)| known == name))
    {
        return Err(DocumentsError::Target(unknown.clone()));
    }
    install_fuzzer()?;
    let wanted = |name: &str| {
        options.targets.is_empty() || options.targets.iter().any(|target| target == name)
    };
    for target in fuzz_targets().filter(|target| wanted(target)) {
        say(&format!("-- {target}"));
        let found = checkout().join("fuzz/corpus").join(target);
        fs::create_dir_all(&found).map_err(|source| DocumentsError::Corpus {
            path: found.clone(),
            source,
        })?;
        let bound = format!("-max_total_time={}", options.seconds);
        run(&mut fuzz_command(target, &found, &[&bound])?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the fuzz targets.
pub(crate) fn fuzz_targets() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|(target, _)| *target)
}

/// Installs cargo-fuzz where it is missing.
pub(crate) fn install_fuzzer() -> Result<(), DocumentsError> {
    if find_program("cargo-fuzz").is_some() {
        return Ok(());
    }
    say("Installing cargo-fuzz …");
    run(Command::new(env!("CARGO")).args(["install", "--locked", "--quiet", "cargo-fuzz"]))
}

/// Runs a target that many times, the same way each time, and shows what it says only if it fails.
pub(crate) fn fuzz_quietly(target: &str, runs: u32) -> Result<(), DocumentsError> {
    let found = tempfile::tempdir().map_err(|source| DocumentsError::Corpus {
        path: std::env::temp_dir(),
        source,
    })?;
    let mut command = fuzz_command(target, found.path(), &["-seed=1", &format!("-runs={runs}")])?;
    let result = command.stdin(Stdio::null()).output();
    let result = result.map_err(|source| DocumentsError::Start {
        program: "cargo fuzz".to_owned(),
        source,
    })?;
    if result.status.success() {
        return Ok(());
    }
    print(&String::from_utf8_lossy(&result.stderr));
    Err(DocumentsError::Failed {
        program: "cargo fuzz".to_owned(),
        status: result.status,
    })
}

/// What runs a target, from its part of the corpus on, and keeps what it finds worth keeping.
fn fuzz_command(target: &str, found: &Path, bounds: &[&str]) -> Result<Command, DocumentsError> {
    let Some((_, folder)) = TARGETS.iter().find(|(known, _)| *known == target) else {
        return Err(DocumentsError::Target(target.to_owned()));
    };
    // Without a sanitizer: there is no unsafe code, and it runs on the stable toolchain.
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["fuzz", "run", "-s", "none", target])
        .arg(found)
        .arg(checkout().join("crates/conf/tests/corpus").join(folder))
        .arg("--")
        .args(bounds)
        .args(["-max_len=8192", "-print_final_stats=1"])
        .current_dir(checkout());
    Ok(command)
}

/// Every document that is or should be read.
fn corpus() -> Result<Vec<PathBuf>, DocumentsError> {
    let mut files = Vec::new();
    for folder in ["network", "networkport", "nodedev", "domain"] {
        let path = checkout().join("crates/conf/tests/corpus").join(folder);
        let entries = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|source| DocumentsError::Corpus {
            path: path.clone(),
            source,
        })?;
        files.extend(entries.into_iter().map(|entry| entry.path()));
    }
    files.retain(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".in.xml") && !PathBuf::from(name.replace(".in.xml", ".err")).exists()
    });
    files.sort();
    Ok(files)
}

fn run(command: &mut Command) -> Result<(), DocumentsError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.current_dir(checkout()).status();
    let status = status.map_err(|source| DocumentsError::Start {
        program: program.clone(),
        source,
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(DocumentsError::Failed { program, status })
    }
}

fn output(command: &mut Command) -> Result<String, DocumentsError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| DocumentsError::Start {
        program: program.clone(),
        source,
    })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(DocumentsError::Failed {
            program,
            status: output.status,
        })
    }
}
