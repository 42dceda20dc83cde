//! Elements of a `<domain>` that nobody knows, found by the shapes by which it is read and kept. What
//! is only kept, and has no shape, is not looked into.

use super::MAX_FOUND;
use crate::domain::shapes::{
    CHARACTER_DEVICE, CONTROLLER, CPU, DEVICES, DISK, DOMAIN, HOSTDEV, INTERFACE, MEMBALLOON, RNG,
};
use crate::kept::{Rule, Shape};
use crate::xml::{Element, VIRTNIC_NAMESPACE};
use crate::{Error, ErrorKind};

/// Elements that have a shape of their own.
const SHAPES: [(&str, &Shape); 10] = [
    ("cpu", &CPU),
    ("devices", &DEVICES),
    ("disk", &DISK),
    ("controller", &CONTROLLER),
    ("interface", &INTERFACE),
    ("serial", &CHARACTER_DEVICE),
    ("console", &CHARACTER_DEVICE),
    ("hostdev", &HOSTDEV),
    ("memballoon", &MEMBALLOON),
    ("rng", &RNG),
];

/// An error for each such element, as far as there are not too many of them.
pub(super) fn unknown(domain: Element<'_>) -> Vec<Error> {
    let mut found = Vec::new();
    visit(domain, &DOMAIN, &mut found);
    found
}

/// Depth is bounded by the shapes'.
fn visit(element: Element<'_>, shape: &Shape, found: &mut Vec<Error>) {
    for child in element.children() {
        // Other programs' namespaces are theirs.
        if !matches!(child.namespace(), None | Some(VIRTNIC_NAMESPACE)) || found.len() >= MAX_FOUND
        {
            continue;
        }
        let name = &*child.qualified_name();
        let Some((_, known)) = shape.child(name) else {
            let message = format!("<{name}> is not known here");
            found.push(child.error(ErrorKind::Xml, message));
            continue;
        };
        let own = SHAPES.iter().find(|(own, _)| *own == name);
        match (own, known.rule) {
            // What a source has depends on its kind.
            _ if name == "source" => {}
            (Some((_, own)), Rule::Parts | Rule::Whole) => visit(child, own, found),
            (None, Rule::Parts) => visit(child, known, found),
            (_, Rule::Whole | Rule::Carried | Rule::Harmless) => {}
        }
    }
}
