//! Documents in, documents out: each case is a file in `tests/corpus`.

#![expect(clippy::unwrap_used, reason = "a test may fail by it")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use conf::{Error, Form, Network, NetworkPort, NodeDevice};

/// Runs all cases of a folder, and tells of all that fail.
fn run(folder: &str, convert: impl Fn(&str) -> Result<String, Error>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".in.xml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    let mut faults = String::new();
    for case in cases {
        let input = fs::read_to_string(&case).unwrap();
        let beside = |end: &str| {
            let name = case.to_string_lossy().replace(".in.xml", end);
            fs::read_to_string(name).ok()
        };
        let fault = match (convert(&input), beside(".out.xml"), beside(".err")) {
            (Ok(output), Some(expected), _) => difference(&expected, &output),
            (Err(error), None, Some(expected)) => {
                let error = error.to_string();
                (!error.contains(expected.trim()))
                    .then(|| format!("expected the error {expected}, got {error}"))
            }
            (Ok(output), None, None) => difference(&input, &output),
            (Ok(output), None, Some(_)) => Some(format!("accepted, and written as\n{output}")),
            (Err(error), ..) => Some(error.to_string()),
        };
        if let Some(fault) = fault {
            writeln!(faults, "{}: {fault}", case.display()).unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// The first line that differs.
fn difference(expected: &str, output: &str) -> Option<String> {
    let (expected, output) = (expected.trim(), output.trim());
    if expected == output {
        return None;
    }
    let lines = expected.lines().zip(output.lines()).enumerate();
    let first = lines.into_iter().find(|(_, (one, other))| one != other);
    Some(match first {
        Some((index, (one, other))) => {
            format!("line {}: expected\n  {one}\ngot\n  {other}", index + 1)
        }
        None => format!("expected\n{expected}\ngot\n{output}"),
    })
}

#[test]
fn networks() {
    run("network", |text| {
        Network::parse(text).map(|network| network.to_xml(Form::Inactive))
    });
}

#[test]
fn network_ports() {
    run("networkport", |text| {
        NetworkPort::parse(text).map(|port| port.to_xml())
    });
}

#[test]
fn node_devices() {
    run("nodedev", |text| {
        NodeDevice::parse(text).map(|device| device.to_xml())
    });
}

/// Documents of virtnic's own making, of any of these kinds.
#[test]
fn own_documents() {
    run("own", |text| {
        if text.trim_start().starts_with("<networkport") {
            NetworkPort::parse(text).map(|port| port.to_xml())
        } else if text.trim_start().starts_with("<device") {
            NodeDevice::parse(text).map(|device| device.to_xml())
        } else {
            Network::parse(text).map(|network| network.to_xml(Form::Inactive))
        }
    });
}
