//! The table of libvirt's weaknesses names tests that are there.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Those that are this project's to beat by now.
fn wanted() -> impl Iterator<Item = u32> {
    (1..=17).chain(20..=37).chain([43])
}

#[test]
fn every_weakness_is_beaten_by_a_test_of_its_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = fs::read_to_string(root.join("docs/weaknesses.md")).unwrap();
    let mut tests = BTreeSet::new();
    for below in ["crates", "xtask"] {
        collect(&root.join(below), &mut tests);
    }
    let missing: Vec<_> = wanted()
        .filter(|number| {
            let prefix = format!("weakness_{number:02}_");
            let row = format!("| {number} |");
            let mut rows = table.lines().filter(|line| line.starts_with(&row));
            let named = rows.next().is_some_and(|line| line.contains(&prefix));
            !named || !tests.iter().any(|test| test.starts_with(&prefix))
        })
        .collect();
    assert!(missing.is_empty(), "no row or no test for {missing:?}");
}

/// The names of the tests in the sources below a directory.
fn collect(directory: &Path, tests: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, tests);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for (at, _) in text.match_indices("fn weakness_") {
                let name = &text[at + "fn ".len()..];
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                tests.insert(name[..end.unwrap_or(name.len())].to_owned());
            }
        }
    }
}
