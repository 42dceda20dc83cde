//! An element as it will be written: modelled parts first, then what was kept, each in its place.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;

use crate::kept::{Kept, Shape};
use crate::secrets::{HIDDEN, is_secret, without_secrets};
use crate::xml::{Document, Element, RawXml, ToXml, Writer};

/// An element to be written.
pub(crate) struct Tree<'a> {
    name: &'a str,
    attributes: Vec<(&'a str, String)>,
    text: Option<String>,
    children: Vec<Node<'a>>,
}

enum Node<'a> {
    Tree(Tree<'a>),
    Noun(&'a str, Box<dyn Fn(&mut Writer) + 'a>),
    /// Byte for byte.
    Raw(&'a RawXml),
    /// An element of libvirt's own that is only carried: laid out as libvirt does.
    Carried(&'a RawXml),
}

/// Whether a document tells passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// It says only that there is one.
    Hidden,
    /// It is for who may know them.
    Shown,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        Self {
            name,
            attributes: Vec::new(),
            text: None,
            children: Vec::new(),
        }
    }

    /// `<name>text</name>`.
    pub(crate) fn of_text(name: &'a str, text: impl Display) -> Self {
        let mut tree = Self::new(name);
        tree.text = Some(text.to_string());
        tree
    }

    pub(crate) fn attribute(&mut self, name: &'a str, value: impl Display) -> &mut Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    pub(crate) fn optional(&mut self, name: &'a str, value: Option<impl Display>) -> &mut Self {
        if let Some(value) = value {
            self.attribute(name, value);
        }
        self
    }

    pub(crate) fn yes_no(&mut self, name: &'a str, value: Option<bool>) -> &mut Self {
        self.optional(name, value.map(|value| if value { "yes" } else { "no" }))
    }

    pub(crate) fn on_off(&mut self, name: &'a str, value: Option<bool>) -> &mut Self {
        self.optional(name, value.map(|value| if value { "on" } else { "off" }))
    }

    pub(crate) fn with(mut self, name: &'a str, value: impl Display) -> Self {
        self.attribute(name, value);
        self
    }

    pub(crate) fn text(&mut self, text: impl Display) -> &mut Self {
        self.text = Some(text.to_string());
        self
    }

    pub(crate) fn child(&mut self, child: Tree<'a>) -> &mut Self {
        self.children.push(Node::Tree(child));
        self
    }

    /// A child, unless it would be an empty tag.
    pub(crate) fn child_unless_empty(&mut self, child: Tree<'a>) -> &mut Self {
        if !child.is_empty() {
            self.child(child);
        }
        self
    }

    pub(crate) fn text_child(&mut self, name: &'a str, text: Option<impl Display>) -> &mut Self {
        if let Some(text) = text {
            self.child(Tree::of_text(name, text));
        }
        self
    }

    pub(crate) fn noun(&mut self, name: &'a str, noun: Option<&'a impl ToXml>) -> &mut Self {
        if let Some(noun) = noun {
            let write = move |writer: &mut Writer| noun.write_xml(writer);
            self.children.push(Node::Noun(name, Box::new(write)));
        }
        self
    }

    /// A child that writes itself.
    pub(crate) fn written(&mut self, name: &'a str, write: impl Fn(&mut Writer) + 'a) -> &mut Self {
        self.children.push(Node::Noun(name, Box::new(write)));
        self
    }

    pub(crate) fn raw(&mut self, raw: &'a RawXml) -> &mut Self {
        self.children.push(Node::Raw(raw));
        self
    }

    /// A child of libvirt's own format that is carried through.
    pub(crate) fn carried(&mut self, raw: &'a RawXml) -> &mut Self {
        self.children.push(Node::Carried(raw));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.text.is_none() && self.children.is_empty()
    }

    /// Puts the children in the shape's order and what was kept back into its place.
    pub(crate) fn keep(&mut self, kept: &'a Kept, shape: &Shape) -> &mut Self {
        for (name, value) in &kept.attributes {
            // Its writer may have put it in its place already.
            if !self.attributes.iter().any(|(given, _)| given == name) {
                self.attribute(name, value);
            }
        }
        let mut trees: HashMap<String, Vec<usize>> = HashMap::new();
        for (position, node) in self.children.iter().enumerate() {
            if let Node::Tree(tree) = node {
                trees
                    .entry(tree.name.to_owned())
                    .or_default()
                    .push(position);
            }
        }
        for (sibling, rest) in &kept.inside {
            let Some((_, shape)) = shape.child(&sibling.name) else {
                continue;
            };
            let position = trees
                .get(&sibling.name)
                .and_then(|all| all.get(sibling.nth));
            let tree = position.and_then(|&position| self.children.get_mut(position));
            if let Some(Node::Tree(tree)) = tree {
                tree.keep(rest, shape);
            } else {
                let mut tree = Tree::new(&sibling.name);
                tree.keep(rest, shape);
                self.child(tree);
            }
        }
        let rank = |name: &str| shape.child(name).map_or(usize::MAX, |(rank, _)| rank);
        let mut placed: Vec<(Place, Node<'a>)> = Vec::new();
        let mut last = None;
        for node in std::mem::take(&mut self.children) {
            let name = node.name();
            let nth = match last {
                Some((ref other, nth)) if other == name => nth + 1,
                _ => 0,
            };
            last = Some((name.to_owned(), nth));
            placed.push((Place(rank(name), nth, false), node));
        }
        for child in &kept.children {
            let own = rank(child.xml.name());
            let place = match (&child.after, own) {
                (Some(after), _) if own == usize::MAX || after.name == child.xml.name() => {
                    Place(rank(&after.name), after.nth, true)
                }
                (None, usize::MAX) => Place(0, 0, false),
                (_, own) => Place(own, 0, false),
            };
            let node = match own {
                usize::MAX => Node::Raw(&child.xml),
                _ => Node::Carried(&child.xml),
            };
            placed.push((place, node));
        }
        placed.sort_by_key(|(place, _)| *place);
        self.children = placed.into_iter().map(|(_, node)| node).collect();
        self
    }

    fn write(&self, writer: &mut Writer, secrets: Secrets) {
        writer.element(self.name, |w| {
            for (name, value) in &self.attributes {
                if secrets == Secrets::Hidden && is_secret(name) {
                    w.attribute(name, HIDDEN);
                } else {
                    w.attribute(name, value);
                }
            }
            if let Some(text) = &self.text {
                w.text(text);
            }
            for child in &self.children {
                match child {
                    Node::Tree(tree) => tree.write(w, secrets),
                    // None of them has a secret.
                    Node::Noun(_, write) => write(w),
                    // What other programs keep with a guest is theirs.
                    Node::Raw(raw) if raw.name() == "metadata" => w.raw(raw),
                    Node::Raw(raw) => w.raw(&told(raw, secrets)),
                    Node::Carried(raw) => write_carried(w, &told(raw, secrets)),
                }
            }
        });
    }

    pub(crate) fn finish(&self, secrets: Secrets) -> String {
        let mut writer = Writer::new();
        self.write(&mut writer, secrets);
        writer.finish()
    }
}

/// A piece as it may be told.
fn told(raw: &RawXml, secrets: Secrets) -> Cow<'_, RawXml> {
    match secrets {
        Secrets::Hidden => without_secrets(raw),
        Secrets::Shown => Cow::Borrowed(raw),
    }
}

/// Lays a carried piece out anew, unless that could change what it says.
fn write_carried(writer: &mut Writer, raw: &RawXml) {
    match Document::parse(raw.as_str()) {
        Ok(document) if is_plain(document.root(), DEEPEST) => write_plain(writer, document.root()),
        _ => writer.raw(raw),
    }
}

/// How deep a carried piece may be and still be laid out anew: each line of it begins with as many
/// blanks as it is deep, twice.
const DEEPEST: usize = 16;

/// Whether it has neither text beside elements nor other namespaces, and is not too deep.
fn is_plain(element: Element<'_>, levels: usize) -> bool {
    let Some(levels) = levels.checked_sub(1) else {
        return false;
    };
    let leaf = element.children().next().is_none();
    let own_text = || element.own_text().trim().is_empty();
    element
        .all_attributes()
        .iter()
        .all(|(name, _)| !name.contains([':']) && name != "xmlns")
        && element.namespace().is_none()
        && (leaf || own_text())
        && element.children().all(|child| is_plain(child, levels))
}

fn write_plain(writer: &mut Writer, element: Element<'_>) {
    writer.element(element.name(), |w| {
        for (name, value) in element.attributes() {
            w.attribute(name, value);
        }
        let mut leaf = true;
        for child in element.children() {
            leaf = false;
            write_plain(w, child);
        }
        let text = element.text();
        if leaf && !text.is_empty() {
            w.text(text);
        }
    });
}

/// Rank of the name (its own or that of the sibling it follows), which of that name, and whether
/// it only follows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(usize, usize, bool);

impl Node<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Tree(tree) => tree.name,
            Self::Noun(name, _) => name,
            Self::Raw(raw) | Self::Carried(raw) => raw.name(),
        }
    }
}
