//! Every element and attribute of networks, ports and node devices: one table, from which the
//! reference in `docs/xml.md` is made and by which parts that nobody reads are found.

mod guest;
mod network;
mod nodedev;
mod port;
mod strict;

pub use guest::{guest_markdown, stray_guest_notes};

use std::fmt::Write as _;

use crate::Error;
use crate::ErrorKind;
use crate::xml::{Document, Element};

/// How many unread parts are named: each costs a look for its line.
const MAX_FOUND: usize = 100;

/// An element, by its place in the document.
#[derive(Debug, Clone, Copy)]
pub struct ElementRule {
    /// As `/network/forward/pf`; the prefixes are `virtnic` and `dnsmasq`.
    pub path: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// What becomes of it.
    pub effect: Effect,
    /// The attributes that are read.
    pub attributes: &'static [AttributeRule],
    /// Elements inside it are carried through, whatever they are.
    pub open: bool,
}

/// An attribute of an element.
#[derive(Debug, Clone, Copy)]
pub struct AttributeRule {
    /// As the document has it, with its prefix.
    pub name: &'static str,
    /// What it may be.
    pub values: &'static str,
    /// What counts where it is missing; empty: nothing.
    pub default: &'static str,
}

/// What becomes of an element that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is carried out.
    Used,
    /// It is kept and written back; nothing is done about it.
    Kept,
    /// It is written, for clients to read.
    Shown,
    /// It is carried out, and virtnic's own.
    Ours,
}

const fn element(
    path: &'static str,
    effect: Effect,
    about: &'static str,
    attributes: &'static [AttributeRule],
) -> ElementRule {
    ElementRule {
        path,
        about,
        effect,
        attributes,
        open: false,
    }
}

/// As [`element`], with anything inside.
const fn open(
    path: &'static str,
    effect: Effect,
    about: &'static str,
    attributes: &'static [AttributeRule],
) -> ElementRule {
    ElementRule {
        open: true,
        ..element(path, effect, about, attributes)
    }
}

const fn attribute(
    name: &'static str,
    values: &'static str,
    default: &'static str,
) -> AttributeRule {
    AttributeRule {
        name,
        values,
        default,
    }
}

/// The grammar of a kind of document, by its root element; `None` for kinds that have no table.
#[must_use]
pub fn grammar(root: &str) -> Option<&'static [ElementRule]> {
    match root {
        "network" => Some(network::RULES),
        "networkport" => Some(port::RULES),
        "device" => Some(nodedev::RULES),
        _ => None,
    }
}

/// What a document says that nobody reads, as libvirt ignores it too: an error for each, with its
/// place; the first hundred or so of them. Of a `<domain>`: elements that are not known; what is
/// kept for others counts as read. None for other documents without a table.
///
/// # Errors
/// The document is not well-formed.
pub fn unread(text: &str) -> Result<Vec<Error>, Error> {
    let document = Document::parse(text)?;
    let root = document.root();
    if root.is("domain") {
        return Ok(strict::unknown(root));
    }
    let mut found = Vec::new();
    if let Some(rules) = grammar(root.name()) {
        visit(root, &format!("/{}", root.name()), rules, &mut found);
    }
    Ok(found)
}

/// Depth is bounded by [`crate::xml::MAX_DEPTH`].
fn visit(element: Element<'_>, path: &str, rules: &[ElementRule], found: &mut Vec<Error>) {
    if found.len() >= MAX_FOUND {
        return;
    }
    let Some(rule) = rules.iter().find(|rule| rule.path == path) else {
        let message = format!("<{}> is not known here", last(path));
        found.push(element.error(ErrorKind::Xml, message));
        return;
    };
    for (name, _) in element.attributes() {
        if !rule.attributes.iter().any(|known| known.name == name) {
            let message = format!("<{}> has no attribute '{name}'", last(path));
            found.push(element.attribute_error(ErrorKind::Xml, name, message));
        }
    }
    if rule.open {
        return;
    }
    for child in element.children() {
        visit(child, &format!("{path}/{}", label(child)), rules, found);
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// An element's name with the prefix that the tables use.
fn label(element: Element<'_>) -> String {
    match element.namespace() {
        None => element.name().to_owned(),
        Some(crate::xml::VIRTNIC_NAMESPACE) => format!("virtnic:{}", element.name()),
        Some(crate::network::DNSMASQ_NAMESPACE) => format!("dnsmasq:{}", element.name()),
        Some(other) => format!("{{{other}}}{}", element.name()),
    }
}

/// The table of a kind of document, as Markdown.
#[must_use]
pub fn markdown(rules: &[ElementRule]) -> String {
    let mut text =
        String::from("| element | attribute | values | default | |\n|---|---|---|---|---|\n");
    for rule in rules {
        let effect = match rule.effect {
            Effect::Used => "",
            Effect::Kept => " *kept*",
            Effect::Shown => " *shown*",
            Effect::Ours => " **ours**",
        };
        // Writing to a string can't fail.
        let _ = writeln!(text, "| `{}` | | | | {}{effect} |", rule.path, rule.about);
        for attribute in rule.attributes {
            let default = match attribute.default {
                prose if prose.is_empty() || prose.contains(' ') => prose.to_owned(),
                word => format!("`{word}`"),
            };
            let _ = writeln!(
                text,
                "| | `{}` | {} | {default} | |",
                attribute.name, attribute.values
            );
        }
    }
    text
}
