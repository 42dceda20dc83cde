//! The house's arrows: which crate may use which. A new arrow is a decision: it is drawn in
//! ARCHITECTURE.md first, and then added here.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that panics is a test that fails"
)]

use std::collections::BTreeMap;
use std::process::Command;

/// Each crate with the crates that it may use, in code and in tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("conf", &[]),
    ("host", &["conf"]),
    ("pool", &["conf"]),
    ("records", &[]),
    ("assign", &["conf", "host", "records"]),
    ("lending", &["conf", "host", "pool", "assign"]),
    ("qemu", &["conf", "host"]),
    ("rpc", &[]),
    (
        "virtnicd",
        &[
            "conf", "host", "pool", "assign", "lending", "qemu", "records", "rpc",
        ],
    ),
    ("virtnic", &["rpc"]),
    ("xtask", &[]),
];

#[test]
fn nothing_points_upwards() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (name, uses) in members() {
        let Some(may_use) = allowed.get(name.as_str()) else {
            panic!("crate '{name}' has no place in the house: add it to ARCHITECTURE.md and here");
        };
        for used in uses {
            assert!(
                may_use.contains(&used.as_str()),
                "crate '{name}' must not use '{used}': see the arrows in ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn every_arrow_is_drawn_to_a_crate_that_exists() {
    let members = members();
    for (name, may_use) in ARROWS {
        for name in may_use.iter().chain([name]) {
            assert!(members.contains_key(*name), "there is no crate '{name}'");
        }
    }
}

/// Each member of the workspace with the members that it uses, of any kind of dependency.
fn members() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let uses = package["dependencies"].as_array().unwrap().iter();
            let inside = uses.filter(|dependency| dependency["path"].is_string());
            (text(package), inside.map(text).collect())
        })
        .collect()
}

fn text(named: &serde_json::Value) -> String {
    named["name"].as_str().unwrap().to_owned()
}
