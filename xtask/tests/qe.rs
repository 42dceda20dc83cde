//! The table of libvirt's QE suite names tests that are there.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]

use std::fs;
use std::path::Path;

#[test]
fn every_scenario_that_passes_is_shown_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = fs::read_to_string(root.join("docs/tp-libvirt.md")).unwrap();
    let mut sources = String::new();
    collect(&root.join("crates"), &mut sources);
    let mut missing = Vec::new();
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        let is_test = |name: &&str| !name.contains(['<', '-']);
        let tests = names.iter().copied().filter(is_test);
        let is_there = |name: &str| match name.strip_suffix(".sh") {
            Some(_) => root.join("lab/tests").join(name).exists(),
            None => sources.contains(&format!("fn {name}(")),
        };
        if last.starts_with("passes") && tests.clone().count() == 0 {
            missing.push(row.to_owned());
        }
        missing.extend(tests.filter(|name| !is_there(name)).map(str::to_owned));
    }
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

/// All Rust below a directory.
fn collect(directory: &Path, sources: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
