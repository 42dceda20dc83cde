//! The tiers that are cargo tests. Integration tests in files named `netns…` need root, those named `lab_…` run in an
//! emulated host; all others need nothing.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{TestError, TestOptions, Totals};
use crate::lab::setup::{checkout, executables};

/// Whether an integration test belongs to the netns tier.
pub(super) fn is_netns(name: &str) -> bool {
    name.starts_with("netns")
}

/// Whether an integration test runs in an emulated host: `lab/tests/programs.sh` runs all of these.
pub(super) fn is_lab(name: &str) -> bool {
    name.starts_with("lab_")
}

/// A test program of some crate.
struct Target {
    package: String,
    name: String,
}

/// How many test programs the netns tier has.
pub(super) fn count_netns() -> Result<usize, TestError> {
    let targets = integration_tests()?;
    Ok(targets
        .iter()
        .filter(|target| is_netns(&target.name))
        .count())
}

/// Runs the integration tests that `wanted` picks, and, if the netns tier is not what it picks, all tests inside crates.
pub(super) fn run(
    options: &TestOptions,
    wanted: impl Fn(&str) -> bool,
) -> Result<Totals, TestError> {
    let unit = !wanted("netns");
    let wanted = |name: &str| wanted(name) && !is_lab(name);
    let mut arguments: Vec<String> = Vec::new();
    if unit {
        arguments.extend(["--workspace", "--lib", "--bins"].map(str::to_owned));
    }
    let targets = integration_tests()?;
    let mut any = unit;
    for target in targets.iter().filter(|target| wanted(&target.name)) {
        any = true;
        arguments.extend(["--test".to_owned(), target.name.clone()]);
        if !unit {
            arguments.extend(["--package".to_owned(), target.package.clone()]);
        }
    }
    if !any {
        return Ok(Totals::default());
    }
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--no-fail-fast"])
        .args(&arguments)
        .arg("--");
    command.args(options.filter.as_deref());
    if options.list {
        command.arg("--list");
    }
    // Tests in network namespaces change what their process sees: one at a time.
    if !unit {
        command.arg("--test-threads=1");
    }
    command.current_dir(checkout()).stdout(Stdio::piped());
    let mut cargo = command.spawn().map_err(TestError::Cargo)?;
    let mut totals = Totals::default();
    for line in cargo
        .stdout
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
    {
        let line = line.map_err(TestError::Cargo)?;
        if let Some(part) = parse_result(&line) {
            totals += part;
        }
        if !is_noise(&line) {
            crate::ui::print(&line);
        }
    }
    let status = cargo.wait().map_err(TestError::Cargo)?;
    // A failure without a failed test is a failed build.
    if !status.success() && totals.failed == 0 {
        return Err(TestError::Build);
    }
    Ok(totals)
}

/// Lines of test programs that say nothing beyond the totals.
fn is_noise(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("running ")
        || line.ends_with(" ... ok")
        || parse_result(line).is_some()
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; …`
fn parse_result(line: &str) -> Option<Totals> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some(Totals {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

/// Builds the test programs for emulated hosts; returns where they are.
pub(super) fn build_lab() -> Result<Vec<PathBuf>, TestError> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "test",
        "--no-run",
        "--quiet",
        "--message-format=json-render-diagnostics",
    ]);
    for target in integration_tests()?
        .iter()
        .filter(|target| is_lab(&target.name))
    {
        cargo.args(["--package", &target.package, "--test", &target.name]);
    }
    let output = cargo
        .current_dir(checkout())
        .stderr(Stdio::inherit())
        .output()
        .map_err(TestError::Cargo)?;
    if !output.status.success() {
        return Err(TestError::Build);
    }
    Ok(executables(&output.stdout))
}

/// Every integration test of the workspace, as cargo knows it.
fn integration_tests() -> Result<Vec<Target>, TestError> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(checkout())
        .stderr(Stdio::inherit())
        .output()
        .map_err(TestError::Cargo)?;
    if !output.status.success() {
        return Err(TestError::Build);
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut tests = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in package["targets"].as_array().into_iter().flatten() {
            if let (Some("test"), Some(package), Some(name)) = (
                target["kind"][0].as_str(),
                package["name"].as_str(),
                target["name"].as_str(),
            ) {
                tests.push(Target {
                    package: package.to_owned(),
                    name: name.to_owned(),
                });
            }
        }
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_a_test_program_are_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.05s";
        assert_eq!(
            parse_result(line),
            Some(Totals {
                passed: 12,
                failed: 1,
                skipped: 2
            })
        );
        assert_eq!(parse_result("test parse::result ... ok"), None);
    }
}
