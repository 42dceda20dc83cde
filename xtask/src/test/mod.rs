//! `cargo xtask test`: every tier that this machine allows, and one line of totals.

mod cargo_tests;
pub(crate) mod lab_tests;
pub(crate) mod scripts;

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use self::scripts::ScriptError;
use crate::agent::with_sources;
use crate::documents;
use crate::ui::say;

/// `cargo xtask test …`
#[derive(Debug, Args)]
pub(crate) struct TestOptions {
    /// Run this tier only; may be given several times
    #[arg(long, value_enum)]
    tier: Vec<Tier>,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Show which tests there are, and run none
    #[arg(long)]
    list: bool,
    /// Use libvirtd instead of virtnicd in the lab tier, to check a test against the peer
    #[arg(long)]
    with_libvirt: bool,
}

/// What a test needs decides its tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Needs nothing
    Unit,
    /// Needs root: real netlink, in network namespaces of its own
    Netns,
    /// Needs cargo-fuzz, which is installed: each fuzz target a few thousand times
    Fuzz,
    /// Needs root and Debian's packages: an emulated SR-IOV host
    Lab,
}

/// How often each fuzz target runs here, always with the same documents; `cargo xtask fuzz` looks for new ones.
const FUZZ_RUNS: u32 = 3000;

/// How many tests ended in which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Why the tests could not be run. A test that fails is not an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TestError {
    /// Cargo could not be run.
    #[error("can't run cargo")]
    Cargo(#[source] std::io::Error),
    /// The tests do not build; cargo has said why.
    #[error("the tests don't build")]
    Build,
    /// A lab script says something about itself that can't be understood.
    #[error(transparent)]
    Script(#[from] ScriptError),
}

/// Runs what the options ask for.
pub(crate) fn main(options: &TestOptions) -> Result<ExitCode, TestError> {
    let wanted = |tier| options.tier.is_empty() || options.tier.contains(&tier);
    let is_root = rustix::process::geteuid().is_root();
    let mut totals = Totals::default();
    if wanted(Tier::Unit) {
        say("== unit");
        totals += cargo_tests::run(options, |name| !cargo_tests::is_netns(name))?;
    }
    if wanted(Tier::Netns) {
        say("== netns");
        totals += if is_root || options.list {
            cargo_tests::run(options, cargo_tests::is_netns)?
        } else {
            skip("netns", "needs root", cargo_tests::count_netns()?)
        };
    }
    if wanted(Tier::Fuzz) {
        say("== fuzz");
        totals += fuzz(options);
    }
    if wanted(Tier::Lab) {
        say("== lab");
        totals += lab_tests::run(options)?;
    }
    if options.list {
        return Ok(ExitCode::SUCCESS);
    }
    crate::ui::print(&totals.to_string());
    Ok(if totals.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the fuzz targets.
fn fuzz(options: &TestOptions) -> Totals {
    let chosen = |target: &&str| {
        options
            .filter
            .as_deref()
            .is_none_or(|text| target.contains(text))
    };
    let targets: Vec<_> = documents::fuzz_targets().filter(chosen).collect();
    if options.list {
        for target in &targets {
            crate::ui::print(&format!("{target}: test"));
        }
        return Totals::default();
    }
    if let Err(error) = documents::install_fuzzer() {
        return skip("fuzz", &with_sources(&error), targets.len());
    }
    let mut totals = Totals::default();
    for target in targets {
        match documents::fuzz_quietly(target, FUZZ_RUNS) {
            Ok(()) => totals.passed += 1,
            Err(error) => {
                say(&format!("FAILED: {target}: {}", with_sources(&error)));
                totals.failed += 1;
            }
        }
    }
    totals
}

/// Says that a tier was left out.
fn skip(tier: &str, why: &str, tests: usize) -> Totals {
    say(&format!("skipped: {tier} ({why})"));
    Totals {
        skipped: tests,
        ..Totals::default()
    }
}
