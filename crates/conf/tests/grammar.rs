//! The tables of the grammar, the documents that are written, and `docs/xml.md` say the same.

#![expect(clippy::unwrap_used, reason = "a test may fail by it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use conf::grammar::{grammar, guest_markdown, markdown, stray_guest_notes, unread};
use conf::xml::{Document, Element};

fn crate_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The documents that are written: outputs, and inputs that are canonical already.
fn written() -> Vec<(PathBuf, String)> {
    ["network", "networkport", "nodedev", "own"]
        .iter()
        .flat_map(|folder| fs::read_dir(crate_path("tests/corpus").join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.to_string_lossy();
            let beside = |end: &str| Path::new(&name.replace(".in.xml", end)).exists();
            name.ends_with(".out.xml")
                || name.ends_with(".in.xml") && !beside(".out.xml") && !beside(".err")
        })
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

#[test]
fn all_that_is_written_is_in_the_tables() {
    for (path, text) in written() {
        assert_eq!(unread(&text), Ok(vec![]), "{}", path.display());
    }
}

#[test]
fn all_that_is_in_the_tables_is_written() {
    fn collect(element: Element<'_>, path: &str, seen: &mut BTreeSet<String>) {
        seen.insert(path.to_owned());
        for (name, _) in element.attributes() {
            seen.insert(format!("{path}/@{name}"));
        }
        for child in element.children() {
            let prefix = match child.namespace() {
                None => "",
                Some("urn:virtnic:1") => "virtnic:",
                Some(_) => "dnsmasq:",
            };
            collect(child, &format!("{path}/{prefix}{}", child.name()), seen);
        }
    }
    let mut seen = BTreeSet::new();
    for (_, text) in written() {
        let document = Document::parse(&text).unwrap();
        let root = document.root();
        collect(root, &format!("/{}", root.name()), &mut seen);
    }
    let mut missing = Vec::new();
    for root in ["network", "networkport", "device"] {
        for rule in grammar(root).unwrap() {
            if !seen.contains(rule.path) {
                missing.push(rule.path.to_owned());
            }
            for attribute in rule.attributes {
                let path = format!("{}/@{}", rule.path, attribute.name);
                // Live documents only.
                if !attribute.name.ends_with("connections") && !seen.contains(&path) {
                    missing.push(path);
                }
            }
        }
    }
    assert!(missing.is_empty(), "no case of the corpus has {missing:#?}");
}

#[test]
fn what_nobody_reads_is_named_with_its_place() {
    let text = "<network xmlns:x='urn:x'>\n <name>n</name>\n <forward mod='nat'>\n  <fp/>\n \
        </forward>\n <x:y/>\n <metadata><any/></metadata>\n</network>";
    let found: Vec<_> = unread(text)
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "<forward> has no attribute 'mod' (/network/forward/@mod, line 3, column 11)",
            "<fp> is not known here (/network/forward/fp, line 4, column 3)",
            "<{urn:x}y> is not known here (/network/y, line 6, column 2)",
        ]
    );
    assert_eq!(unread("<secret><any/></secret>"), Ok(vec![]));
}

#[test]
fn the_reference_is_up_to_date() {
    let path = crate_path("../../docs/xml.md");
    let document = fs::read_to_string(&path).unwrap();
    let mut renewed = document.clone();
    for root in ["network", "networkport", "domain", "device"] {
        let (start, end) = (format!("<!-- {root} -->\n"), format!("<!-- /{root} -->"));
        let (before, rest) = renewed.split_once(&start).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        let table = grammar(root).map_or_else(guest_markdown, markdown);
        renewed = format!("{before}{start}{table}{end}{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &renewed).unwrap();
        return;
    }
    assert!(
        renewed == document,
        "docs/xml.md is behind the code: UPDATE_DOCS=1 cargo test -p conf --test grammar renews it"
    );
}

#[test]
fn what_is_said_of_guests_is_said_of_something() {
    assert_eq!(stray_guest_notes(), Vec::<&str>::new());
}

/// A definition that libvirt takes says nothing unknown; but for what libvirt's own schema has not.
#[test]
fn no_guest_of_the_corpus_says_what_is_not_known() {
    let mut count = 0;
    for folder in ["domain", "domain-own"] {
        let folder = crate_path("tests/corpus").join(folder);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.to_str().unwrap().ends_with(".in.xml")
                || path.with_extension("").with_extension("err").exists()
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let found = unread(&text).unwrap();
            assert_eq!(found, [], "{}", path.display());
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
}

#[test]
fn an_element_of_a_guest_that_nobody_knows_is_found_where_it_stands() {
    let text = "<domain type='kvm' xmlns:other='urn:other'><name>g</name><nosuch/>\
                <other:own/><metadata><a xmlns='urn:a'/></metadata><devices><interface type='user'>\
                <modle type='virtio'/><source><any/></source></interface><dsik/></devices></domain>";
    let found = unread(text).unwrap();
    let paths: Vec<_> = found
        .iter()
        .filter_map(|error| error.path.as_deref())
        .collect();
    let expected = [
        "/domain/nosuch",
        "/domain/devices/interface/modle",
        "/domain/devices/dsik",
    ];
    assert_eq!(paths, expected);
}

/// Where the reference has a list of words and nothing else, another word is refused.
#[test]
fn a_word_that_is_none_of_those_that_there_are_is_refused() {
    let mut documents: Vec<String> = written().into_iter().map(|(_, text)| text).collect();
    for folder in ["domain", "domain-own"] {
        let folder = fs::read_dir(crate_path("tests/corpus").join(folder)).unwrap();
        let paths = folder.map(|entry| entry.unwrap().path());
        let shown = paths.filter(|path| path.to_str().unwrap().ends_with(".out.xml"));
        documents.extend(shown.map(|path| fs::read_to_string(path).unwrap()));
    }
    let mut lenient = Vec::new();
    let mut tried = BTreeSet::new();
    for (path, attribute) in closed() {
        let element = path.rsplit('/').next().unwrap();
        let start = format!("<{element} ");
        for text in &documents {
            for (at, _) in text.match_indices(&start) {
                let tag = &text[at..at + text[at..].find('>').unwrap()];
                let Some(value) = tag.find(&format!(" {attribute}='")) else {
                    continue;
                };
                let value = at + value + attribute.len() + 3;
                let end = value + text[value..].find('\'').unwrap();
                if path_of(text, at).is_none_or(|own| own != path) {
                    continue;
                }
                let changed = format!("{}x-wrong{}", &text[..value], &text[end..]);
                tried.insert((path.clone(), attribute.clone()));
                let accepted = match path.split('/').nth(1).unwrap() {
                    "network" => conf::Network::parse(&changed).is_ok(),
                    "networkport" => conf::NetworkPort::parse(&changed).is_ok(),
                    _ => conf::Domain::parse(&changed).is_ok_and(|d| d.unsupported().is_empty()),
                };
                if accepted {
                    lenient.push(format!("{path}/@{attribute}"));
                }
            }
        }
    }
    lenient.sort();
    lenient.dedup();
    assert_eq!(lenient, Vec::<String>::new());
    assert!(tried.len() > 50, "{tried:?}");
}

/// The attributes whose values are words, by the reference: the element's place, and the name.
fn closed() -> Vec<(String, String)> {
    let reference = fs::read_to_string(crate_path("../../docs/xml.md")).unwrap();
    let mut found = Vec::new();
    let mut place = String::new();
    for line in reference.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let word = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
        if let Some(element) = word(cells[1]) {
            place = element;
        } else if let Some(attribute) = word(cells.get(2).unwrap_or(&""))
            && cells[1].is_empty()
            && (cells[3].split([';', ':']).next().unwrap().split(", "))
                .all(|value| word(value).is_some())
            // Node devices are shown, and read by nobody but tests.
            && !place.starts_with("/device")
        {
            found.push((place.clone(), attribute));
        }
    }
    found
}

/// The place of the element that begins there.
fn path_of(text: &str, at: usize) -> Option<String> {
    fn find(element: Element<'_>, at: (u32, u32), path: &str) -> Option<String> {
        let prefix = match element.namespace() {
            None => "",
            Some("urn:virtnic:1") => "virtnic:",
            Some(_) => "dnsmasq:",
        };
        let path = format!("{path}/{prefix}{}", element.name());
        if element.position() == at {
            return Some(path);
        }
        element.children().find_map(|child| find(child, at, &path))
    }
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].chars().rev().take_while(|c| *c != '\n').count() + 1;
    let document = Document::parse(text).ok()?;
    find(
        document.root(),
        (u32::try_from(line).ok()?, u32::try_from(column).ok()?),
        "",
    )
}
