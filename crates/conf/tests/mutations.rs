//! Documents of the corpus, changed at random: a bounded run of what the fuzz targets check.
//!
//! `MUTATIONS` is how many documents are made of each kind, `MUTATION_SEED` another row of them.

#![expect(clippy::unwrap_used, reason = "a test may fail by it")]

#[path = "../../../fuzz/checks.rs"]
mod checks;

use std::fs;
use std::panic;
use std::path::Path;

const WORDS: [&str; 24] = [
    "",
    "0",
    "-1",
    "1",
    "4096",
    "4294967296",
    "18446744073709551616",
    "0x1f",
    "yes",
    "no",
    "on",
    "none",
    "pci",
    "usb",
    "hostdev",
    "virtio",
    "&amp;",
    "&#0;",
    "é",
    "52:54:00:00:00:01",
    "ff:ff:ff:ff:ff:ff",
    "::1",
    "10.0.0.1",
    "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f",
];

/// A row of numbers; the same for the same seed (SplitMix64).
struct Row(u64);

impl Row {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = z ^ (z >> 31);
        usize::try_from(z % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// The documents of the corpus below the directories named.
fn corpus(directories: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = directories
        .iter()
        .flat_map(|directory| fs::read_dir(root.join(directory)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".xml"))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

/// Every element of that name, as a document of its own.
fn elements(documents: &[String], name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name} "), format!("</{name}>"));
    let parts = documents
        .iter()
        .flat_map(|document| document.split(&open).skip(1));
    parts
        .filter_map(|part| Some(format!("{open}{}{close}", part.split_once(&close)?.0)))
        .collect()
}

/// The pieces that a document is changed by: tags, and what is between quotes or tags.
fn pieces(text: &str) -> Vec<(usize, usize)> {
    let mut cuts: Vec<usize> = text
        .char_indices()
        .filter(|(_, c)| matches!(c, '<' | '>' | '\'' | '"' | '='))
        .flat_map(|(at, _)| [at, at + 1])
        .collect();
    cuts.dedup();
    cuts.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

fn mutate(row: &mut Row, documents: &[String]) -> String {
    let mut text = documents[row.below(documents.len())].clone();
    for _ in 0..=row.below(3) {
        let found = pieces(&text);
        let other = &documents[row.below(documents.len())];
        let others = pieces(other);
        if found.is_empty() || others.is_empty() {
            break;
        }
        let (from, to) = found[row.below(found.len())];
        match row.below(5) {
            0 => text.replace_range(from..to, WORDS[row.below(WORDS.len())]),
            1 => text.replace_range(from..to, ""),
            2 => text.insert_str(from, &text.clone()[from..to]),
            3 => {
                let (start, end) = others[row.below(others.len())];
                text.replace_range(from..to, &other[start..end]);
            }
            // A line of another document, where a line begins here.
            _ => {
                if let Some(at) = text[from..].find("\n  ").map(|at| at + from)
                    && let Some(line) = other.lines().nth(row.below(other.lines().count()))
                {
                    text.insert_str(at, &format!("\n{line}"));
                }
            }
        }
    }
    text
}

/// Checks many documents made from these.
fn check(documents: &[String], holds: fn(&str)) {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    assert!(!documents.is_empty());
    let seed = number("MUTATION_SEED", 1);
    let mut row = Row(seed);
    for document in documents {
        holds(document);
    }
    for count in 0..number("MUTATIONS", 1500) {
        let text = mutate(&mut row, documents);
        if panic::catch_unwind(|| holds(&text)).is_err() {
            panic!("document {count} of MUTATION_SEED={seed} does not hold:\n{text}");
        }
    }
}

#[test]
fn networks() {
    check(&corpus(&["network", "own"]), checks::network);
}

#[test]
fn networkports() {
    check(&corpus(&["networkport", "own"]), checks::networkport);
}

#[test]
fn nodedevs() {
    check(&corpus(&["nodedev", "own"]), checks::nodedev);
}

#[test]
fn domains() {
    check(&corpus(&["domain"]), checks::domain);
}

#[test]
fn interfaces() {
    check(
        &elements(&corpus(&["domain"]), "interface"),
        checks::interface,
    );
}

#[test]
fn hostdevs() {
    check(&elements(&corpus(&["domain"]), "hostdev"), checks::hostdev);
}
