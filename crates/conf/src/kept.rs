//! What a document says beyond what is modelled: kept in its place, named when it matters.
//!
//! A [`Shape`] says which attributes and children of an element are modelled, which are known and
//! only carried through, and in which order libvirt writes them. [`Kept`] is the rest of one
//! element that was read; [`crate::tree::Tree::keep`] puts it back.

use crate::Unsupported;
use crate::xml::{Element, RawXml};

/// What is known of an element. Its children stand in the order in which they are written.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
    pub(crate) attributes: &'static [&'static str],
    /// Attributes that are kept, and change nothing that a guest could notice.
    pub(crate) harmless: &'static [&'static str],
    pub(crate) children: &'static [Shape],
}

/// What becomes of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The attributes and children that its shape names are modelled.
    Parts,
    /// All of it is modelled, by a noun of its own.
    Whole,
    /// Kept; a guest that has it can't be started.
    Carried,
    /// Kept; the guest is the same without it.
    Harmless,
}

/// An element whose attributes and children are modelled as given.
pub(crate) const fn parts(
    name: &'static str,
    attributes: &'static [&'static str],
    children: &'static [Shape],
) -> Shape {
    Shape {
        name,
        rule: Rule::Parts,
        attributes,
        harmless: &[],
        children,
    }
}

/// An element that another noun reads and writes.
pub(crate) const fn whole(name: &'static str) -> Shape {
    rule(name, Rule::Whole)
}

/// An element that is only carried through.
pub(crate) const fn carried(name: &'static str) -> Shape {
    rule(name, Rule::Carried)
}

/// An element that is carried through and needs nothing done.
pub(crate) const fn harmless(name: &'static str) -> Shape {
    rule(name, Rule::Harmless)
}

const fn rule(name: &'static str, rule: Rule) -> Shape {
    Shape {
        name,
        rule,
        attributes: &[],
        harmless: &[],
        children: &[],
    }
}

impl Shape {
    /// The same, with attributes that are kept and need nothing done.
    pub(crate) const fn with_harmless(mut self, attributes: &'static [&'static str]) -> Self {
        self.harmless = attributes;
        self
    }

    /// The child of that name, and its place in the order.
    pub(crate) fn child(&self, name: &str) -> Option<(usize, &'static Shape)> {
        let children = self.children;
        children
            .iter()
            .enumerate()
            .find(|(_, child)| child.name == name)
    }
}

/// The attributes and children of an element that are kept and not modelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) children: Vec<KeptChild>,
    /// The rest of children that are modelled in part: which child, and its rest.
    pub(crate) inside: Vec<(Sibling, Kept)>,
}

/// A kept child and the sibling that it followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptChild {
    pub(crate) after: Option<Sibling>,
    pub(crate) xml: RawXml,
}

/// The `nth` child (from 0) of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sibling {
    pub(crate) name: String,
    pub(crate) nth: usize,
}

impl Kept {
    /// What an element says beyond its shape. Comments and blanks are not kept.
    pub(crate) fn of(element: Element<'_>, shape: &Shape) -> Self {
        let mut kept = Self::default();
        for (name, value) in element.all_attributes() {
            if !shape.attributes.contains(&name.as_str()) {
                kept.attributes.push((name, value.to_owned()));
            }
        }
        let mut seen: Vec<(String, usize)> = Vec::new();
        let mut after: Option<Sibling> = None;
        for child in element.children() {
            let name = &*child.qualified_name();
            let known = shape.child(name).map(|(_, known)| known);
            match known.map(|known| (known.rule, known)) {
                Some((Rule::Whole, _)) => {}
                Some((Rule::Parts, known)) => {
                    let rest = Self::of(child, known);
                    if !rest.is_empty() {
                        let nth = count(&seen, name);
                        let name = name.to_owned();
                        kept.inside.push((Sibling { name, nth }, rest));
                    }
                }
                Some((Rule::Carried | Rule::Harmless, _)) | None => {
                    kept.children.push(KeptChild {
                        after: after.clone(),
                        xml: child.raw(),
                    });
                }
            }
            if known.is_some() {
                let nth = count(&seen, name);
                match seen.iter_mut().find(|(other, _)| other == name) {
                    Some((_, count)) => *count += 1,
                    None => seen.push((name.to_owned(), 1)),
                }
                let name = name.to_owned();
                after = Some(Sibling { name, nth });
            }
        }
        kept
    }

    /// Whether nothing was kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.children.is_empty() && self.inside.is_empty()
    }

    /// A kept attribute's value.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.attributes.iter();
        attributes.find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// The kept children of that name.
    pub fn children(&self, name: &str) -> impl Iterator<Item = &RawXml> {
        let all = self.children.iter().map(|child| &child.xml);
        all.filter(move |xml| xml.name() == name)
    }

    /// What was kept of the first child of that name, which itself is modelled.
    #[must_use]
    pub fn inside(&self, name: &str) -> Option<&Kept> {
        let mut inside = self.inside.iter();
        inside.find_map(|(sibling, kept)| (sibling.name == name).then_some(kept))
    }

    /// Changes the kept children of that name for which there is a change.
    pub(crate) fn rewrite(&mut self, name: &str, change: impl Fn(&RawXml) -> Option<RawXml>) {
        for child in &mut self.children {
            if child.xml.name() == name
                && let Some(changed) = change(&child.xml)
            {
                child.xml = changed;
            }
        }
    }

    /// Takes a child away.
    pub(crate) fn remove(&mut self, name: &str) {
        self.children.retain(|child| child.xml.name() != name);
        self.inside.retain(|(sibling, _)| sibling.name != name);
    }

    /// Has of the children of that name what another one has.
    pub(crate) fn replace(&mut self, name: &str, other: &Self) {
        self.remove(name);
        let children = other.children.iter();
        let children = children.filter(|child| child.xml.name() == name);
        self.children.extend(children.cloned());
        let inside = other.inside.iter();
        let inside = inside.filter(|(sibling, _)| sibling.name == name);
        self.inside.extend(inside.cloned());
    }

    /// What another one has and this one has not, or otherwise, by name; children of these names apart.
    pub(crate) fn lacks(&self, other: &Self, apart: &[&str]) -> Vec<String> {
        let attributes = other.attributes.iter();
        let attributes = attributes.filter(|attribute| !self.attributes.contains(attribute));
        let attributes = attributes.map(|(name, _)| format!("'{name}'"));
        let children = other.children.iter().map(|child| &child.xml);
        let children = children.filter(|xml| !self.children.iter().any(|own| own.xml == **xml));
        let children = children.map(RawXml::name);
        let inside = other.inside.iter();
        let inside = inside
            .filter(|(sibling, rest)| self.inside(&sibling.name).is_none_or(|own| own != rest));
        let inside = inside.map(|(sibling, _)| sibling.name.as_str());
        let named = children.chain(inside).filter(|name| !apart.contains(name));
        attributes
            .chain(named.map(|name| format!("<{name}>")))
            .collect()
    }

    /// Forgets an attribute of the children at that path if it says just what is the case anyway.
    pub(crate) fn forget(&mut self, path: &[&str], name: &str, value: &str) {
        let Some((child, rest)) = path.split_first() else {
            let said = |(n, v): &(String, String)| n == name && v == value;
            self.attributes.retain(|attribute| !said(attribute));
            return;
        };
        for (sibling, kept) in &mut self.inside {
            if sibling.name == *child {
                kept.forget(rest, name, value);
            }
        }
        self.inside.retain(|(_, kept)| !kept.is_empty());
    }

    /// Names what a guest would miss.
    pub(crate) fn report(&self, path: &str, shape: &Shape, found: &mut Vec<Unsupported>) {
        for (name, _) in &self.attributes {
            if !shape.harmless.contains(&name.as_str()) && !name.starts_with("xmlns") {
                found.push(Unsupported::at(path, &format!("@{name}")));
            }
        }
        for child in &self.children {
            let name = child.xml.name();
            let known = shape.child(name).map(|(_, known)| known.rule);
            if known != Some(Rule::Harmless) {
                found.push(Unsupported::at(path, name));
            }
        }
        for (sibling, kept) in &self.inside {
            if let Some((_, shape)) = shape.child(&sibling.name) {
                kept.report(&format!("{path}/{}", sibling.name), shape, found);
            }
        }
    }
}

fn count(seen: &[(String, usize)], name: &str) -> usize {
    let mut seen = seen.iter();
    seen.find_map(|(other, count)| (other == name).then_some(*count))
        .unwrap_or(0)
}
