//! Every case of `corpus/domain` and `corpus/domain-own`: what a definition becomes, or why it is
//! refused.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use conf::{Domain, Error, ErrorKind, Form};

fn folder() -> PathBuf {
    corpus().join("domain")
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// What a client gets that defines the document.
fn define(text: &str) -> Result<Domain, Error> {
    let mut domain = Domain::parse(text)?;
    domain.fill_defaults_with(&|_| Some(false));
    domain.assign_addresses(&|_| false)?;
    domain.validate()?;
    Ok(domain)
}

/// The class of an error, as libvirt's clients print it.
fn class(error: &Error) -> &'static str {
    match error.kind {
        ErrorKind::Xml => "XML error",
        ErrorKind::ConfigUnsupported => "unsupported configuration",
        ErrorKind::Internal => "internal error",
        ErrorKind::InvalidArgument => "invalid argument",
        ErrorKind::Overflow => "numerical overflow",
        kind => panic!("no case has an error of kind {kind:?}: {error}"),
    }
}

fn told(error: &Error) -> String {
    format!("{}: {}", class(error), error.message)
}

/// The lines of the parts that must be exact in every case.
fn exact_parts(document: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut until = None;
    for line in document.lines() {
        let start = [
            "    <interface ",
            "    <hostdev ",
            "    <controller type='pci'",
        ];
        if until.is_none() && start.iter().any(|start| line.starts_with(start)) {
            let name = line.trim_start_matches([' ', '<']).split(' ').next();
            until = name.map(|name| format!("    </{name}>"));
            lines.push(line);
            if line.ends_with("/>") {
                until = None;
            }
        } else if let Some(end) = &until {
            lines.push(line);
            if line == end {
                until = None;
            }
        } else if line.trim_start().starts_with("<address ") {
            lines.push(line);
        }
    }
    lines
}

/// Cases whose document as a whole differs, with the reason.
fn exceptions() -> Vec<String> {
    let text = fs::read_to_string(folder().join("exceptions.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(':').next().unwrap().to_owned())
        .collect()
}

fn difference<'a>(expected: &[&'a str], output: &[&'a str]) -> Option<String> {
    if expected == output {
        return None;
    }
    let mut lines = expected.iter().zip(output).enumerate();
    Some(match lines.find(|(_, (one, other))| one != other) {
        Some((number, (one, other))) => {
            format!("line {}: expected\n  {one}\ngot\n  {other}", number + 1)
        }
        None => format!("{} lines, expected {}", output.len(), expected.len()),
    })
}

fn check(case: &str, exceptions: &[String]) -> Option<String> {
    let read = |end: &str| fs::read_to_string(folder().join(format!("{case}{end}"))).ok();
    let input = read(".in.xml").unwrap();
    let (expected, refusal) = (read(".out.xml"), read(".err"));
    let domain = match (define(&input), &expected, &refusal) {
        (Ok(domain), Some(_), _) => domain,
        // A contradiction that only the start meets.
        (Ok(domain), None, Some(_)) => domain,
        (Err(error), None, Some(refusal)) => {
            let told = told(&error);
            return (told != refusal.trim()).then(|| format!("refused with {told}"));
        }
        (Err(error), ..) => return Some(format!("refused: {error}")),
        (Ok(_), None, None) => return Some("has neither .out.xml nor .err".to_owned()),
    };
    if let Some(refusal) = refusal {
        match domain.check_resolved() {
            Ok(()) => return Some(format!("accepted, in spite of {refusal}")),
            Err(error) if told(&error) != refusal.trim() => return Some(told(&error)),
            Err(_) => {}
        }
    }
    let expected = expected?;
    let output = domain.to_xml(Form::Inactive);
    if exceptions.iter().any(|known| known == case) {
        difference(&exact_parts(&expected), &exact_parts(&output))
    } else {
        let expected: Vec<_> = expected.lines().collect();
        difference(&expected, &output.lines().collect::<Vec<_>>())
    }
}

fn cases(folder: &Path) -> Vec<String> {
    let mut cases: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".in.xml").map(str::to_owned))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

#[test]
fn definitions() {
    let exceptions = exceptions();
    let cases = cases(&folder());
    let mut faults = String::new();
    for case in &cases {
        if let Some(fault) = check(case, &exceptions) {
            writeln!(faults, "{case}: {fault}").unwrap();
        }
    }
    for name in &exceptions {
        assert!(cases.contains(name), "exception without a case: {name}");
    }
    assert!(faults.is_empty(), "{faults}");
}

/// A canonical document is written back letter by letter, and a second definition changes nothing.
#[test]
fn canonical_documents_stay() {
    let mut faults = String::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with(".out.xml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let plain = Domain::parse(&text).map(|domain| domain.to_xml(Form::Inactive));
        let again = define(&text).map(|domain| domain.to_xml(Form::Inactive));
        for written in [plain, again] {
            match written {
                Ok(written) => {
                    let (one, other): (Vec<_>, Vec<_>) =
                        (text.lines().collect(), written.lines().collect());
                    if let Some(fault) = difference(&one, &other) {
                        writeln!(faults, "{}: {fault}", path.display()).unwrap();
                    }
                }
                Err(error) => writeln!(faults, "{}: {error}", path.display()).unwrap(),
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// A host without the devices that the documents name: they count as PCI Express.
#[test]
fn own_definitions() {
    let folder = corpus().join("domain-own");
    let mut faults = String::new();
    for case in cases(&folder) {
        let read = |end: &str| fs::read_to_string(folder.join(format!("{case}{end}")));
        let defined = Domain::parse(&read(".in.xml").unwrap()).and_then(|mut domain| {
            domain.fill_defaults_with(&|_| Some(false));
            domain.assign_addresses(&|_| true)?;
            domain.validate()?;
            domain.assign_usb_addresses();
            Ok(domain.to_xml(Form::Inactive))
        });
        let fault = match (defined, read(".out.xml"), read(".err")) {
            (Ok(output), Ok(expected), _) => difference(
                &expected.lines().collect::<Vec<_>>(),
                &output.lines().collect::<Vec<_>>(),
            ),
            (Err(error), _, Ok(expected)) if class(&error) == expected.trim() => None,
            (Err(error), ..) => Some(told(&error)),
            (Ok(_), ..) => Some("accepted".to_owned()),
        };
        if let Some(fault) = fault {
            writeln!(faults, "{case}: {fault}").unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}
