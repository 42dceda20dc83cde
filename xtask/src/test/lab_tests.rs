//! The lab tier: scripts, run in emulated hosts.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::scripts::{Script, find};
use super::{TestError, TestOptions, Totals, cargo_tests, skip};
use crate::agent::with_sources;
use crate::lab::HostOptions;
use crate::lab::session::{self, Sink};
use crate::lab::setup::{Lab, checkout};
use crate::run::find_program;
use crate::ui::{print, say};

/// The group of the script that runs the test programs made for the lab.
const PROGRAMS: &str = "programs";

/// Runs the scripts, one host for each group.
pub(super) fn run(options: &TestOptions) -> Result<Totals, TestError> {
    let mut scripts = find(&checkout().join("lab/tests"))?;
    if let Some(filter) = &options.filter {
        scripts.retain(|script| script.name.contains(filter.as_str()));
    }
    if options.list {
        for script in &scripts {
            let hosts = match script.hosts {
                1 => String::new(),
                hosts => format!(", {hosts} hosts"),
            };
            print(&format!(
                "{}: test ({}, {} PFs{hosts})",
                script.name, script.group, script.pfs
            ));
        }
        return Ok(Totals::default());
    }
    if scripts.is_empty() {
        return Ok(Totals::default());
    }
    if let Some(why) = missing() {
        return Ok(skip("lab", why, scripts.len()));
    }
    let lab = match Lab::set_up() {
        Ok(lab) => lab,
        Err(error) => {
            say(&format!(
                "FAILED to set up the lab: {}",
                with_sources(&error)
            ));
            return Ok(Totals {
                failed: scripts.len(),
                ..Totals::default()
            });
        }
    };
    let mut groups: BTreeMap<String, Vec<Script>> = BTreeMap::new();
    for script in scripts {
        groups.entry(script.group.clone()).or_default().push(script);
    }
    let programs = session::programs(host_options(options).daemon(), false);
    let programs = match programs {
        Ok(mut programs) => {
            if groups.contains_key(PROGRAMS) {
                programs.extend(cargo_tests::build_lab()?);
            }
            programs
        }
        Err(error) => {
            say(&format!("FAILED: {}", with_sources(&error)));
            return Ok(Totals {
                failed: groups.values().map(Vec::len).sum(),
                ..Totals::default()
            });
        }
    };
    let mut totals = Totals::default();
    for (group, scripts) in groups {
        totals += run_group(&lab, options, &programs, &group, &scripts);
    }
    Ok(totals)
}

/// What this machine lacks for a lab.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() && find_program("sudo").is_none() {
        Some("needs root, or sudo")
    } else if find_program("mmdebstrap").is_none() && find_program("apt-get").is_none() {
        Some("needs mmdebstrap, or apt-get to install it")
    } else {
        None
    }
}

fn host_options(options: &TestOptions) -> HostOptions {
    let mut host = HostOptions::new(1);
    host.with_libvirt = options.with_libvirt;
    host
}

fn run_group(
    lab: &Lab,
    options: &TestOptions,
    programs: &[PathBuf],
    group: &str,
    scripts: &[Script],
) -> Totals {
    let mut host = host_options(options);
    host.pfs = scripts
        .iter()
        .map(|script| script.pfs)
        .max()
        .unwrap_or(host.pfs);
    host.hosts = scripts
        .iter()
        .map(|script| script.hosts)
        .max()
        .unwrap_or(host.hosts);
    host.memory = scripts.iter().filter_map(|script| script.memory).max();
    let mut command = vec!["xtask".to_owned(), "lab-tests".to_owned()];
    command.extend(scripts.iter().map(|script| script.name.clone()));
    // Each script has its own limit; this one is for a runner that hangs.
    let timeout = scripts.iter().map(|script| script.timeout + 30).sum();
    say(&format!("-- {group}: {} tests", scripts.len()));
    let mut results = Results::default();
    let outcome = session::run_with(
        lab,
        &host.plan(command, Some(timeout)),
        programs,
        &mut results,
    );
    if let Err(error) = outcome {
        say(&format!(
            "FAILED: the host of {group}: {}",
            with_sources(&error)
        ));
    }
    // A test of which nothing was heard did not pass.
    let mut totals = results.totals;
    let heard = totals.passed + totals.failed + totals.skipped;
    totals.failed += scripts.len().saturating_sub(heard);
    totals
}

/// The first words of the runner's verdicts, one line each.
pub(crate) const PASSED: &str = "ok ";
/// As [`PASSED`].
pub(crate) const FAILED: &str = "not ok ";
/// As [`PASSED`].
pub(crate) const SKIPPED: &str = "skipped ";

/// Counts the runner's verdicts and passes all on.
#[derive(Debug, Default)]
struct Results {
    totals: Totals,
    line: Vec<u8>,
}

impl Sink for Results {
    fn out(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            if line.starts_with(PASSED) {
                self.totals.passed += 1;
            } else if line.starts_with(FAILED) {
                self.totals.failed += 1;
            } else if line.starts_with(SKIPPED) {
                self.totals.skipped += 1;
            }
            print(&line);
        }
        Ok(())
    }

    fn err(&mut self, bytes: &[u8]) -> io::Result<()> {
        session::Passthrough.err(bytes)
    }
}
