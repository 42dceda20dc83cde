//! virtnic's own namespace: what of it stands where nobody reads it, and what is only meant to be of it.

use super::{Element, VIRTNIC_NAMESPACE};
use crate::{Error, ErrorKind, Faults};

/// What virtnic's own namespaces begin with, whatever their number.
const OURS: &str = "urn:virtnic:";
/// The prefix that its users know.
const PREFIX: &str = "virtnic";

/// Where elements of ours are read: the element around them, by its place, and their names.
pub(super) type Places = [(&'static str, &'static [&'static str])];

/// In definitions, and in the parts of them that clients give by themselves.
pub(super) const PLACES: &Places = &[
    ("/network", &["pool", "vf", "direct", "hybrid"]),
    ("/network/portgroup", &["vf"]),
    ("/network/forward/pf", &["vfs"]),
    ("/portgroup", &["vf"]),
    (
        "/domain/devices/interface",
        &["vf", "direct", "hybrid", "port"],
    ),
    ("/interface", &["vf", "direct", "hybrid", "port"]),
];

/// Attributes of ours on elements that are not, by the place of these.
const ATTRIBUTES: [(&str, &str); 1] = [("/network/forward/address", "connections")];

impl Element<'_> {
    /// Refuses what a person takes for virtnic's own and nobody reads: an element or an attribute of
    /// ours in another place than its own, or twice in it, and one that is of another namespace.
    /// Other programs' elements may be anywhere, and `<metadata>` is theirs as a whole.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] for each of them, with what to write.
    pub(super) fn check_namespaces(self, places: &Places) -> Result<(), Error> {
        // A look that spares most documents the walk.
        if !self.node().document().input_text().contains(PREFIX) {
            return Ok(());
        }
        let mut faults = Faults::default();
        faults.or_default(self.check_own_attributes());
        let parts = self.children().filter(|part| !part.is("metadata"));
        let nodes = parts.flat_map(|part| part.node().descendants());
        let elements = nodes.filter(|node| node.is_element());
        faults.each(elements, |node| self.at(node).check_own(places));
        faults.finish()
    }

    fn check_own(self, places: &Places) -> Result<(), Error> {
        Error::all([self.check_own_element(places), self.check_own_attributes()])
    }

    fn check_own_element(self, places: &Places) -> Result<(), Error> {
        let around = self.parent();
        match self.namespace() {
            Some(VIRTNIC_NAMESPACE) => self.check_place(places),
            Some(other) => self.check_meant(self.written_name(), other),
            None => match around.filter(|around| around.is_own()) {
                Some(own) => {
                    let message = format!("<{}> is not known in <{}>", self.name(), own.label());
                    Err(self.error(ErrorKind::Xml, message))
                }
                None => Ok(()),
            },
        }
    }

    /// Whether it is of virtnic's namespace.
    fn is_own(self) -> bool {
        self.namespace() == Some(VIRTNIC_NAMESPACE)
    }

    /// One of ours is where it is read, for the first time.
    fn check_place(self, places: &Places) -> Result<(), Error> {
        let name = self.name();
        let around = self.parent().map(Element::path).unwrap_or_default();
        let here = places.iter().find(|(place, _)| *place == around);
        let here = here.map_or(&[][..], |(_, names)| names);
        let message = if here.contains(&name) {
            let twin = |node: &roxmltree::Node<'_, '_>| node.tag_name() == self.node().tag_name();
            if !self.node().prev_siblings().skip(1).any(|node| twin(&node)) {
                return Ok(());
            }
            format!("<{}> is there twice", self.label())
        } else {
            let expected = match here {
                [] => place_of(name, places),
                names => Some(format!("expected {}", listed(names, "virtnic:", ""))),
            };
            let expected = expected.map(|expected| format!("; {expected}"));
            format!(
                "<{}> is not known here{}",
                self.label(),
                expected.unwrap_or_default()
            )
        };
        Err(self.error(ErrorKind::Xml, message))
    }

    fn check_own_attributes(self) -> Result<(), Error> {
        let text = self.node().document().input_text();
        let mut faults = Faults::default();
        let spaced = self.node().attributes();
        let spaced = spaced.filter_map(|a| Some((a.namespace()?, a)));
        faults.each(spaced, |(namespace, attribute)| {
            let written = &text[attribute.range_qname()];
            let fault = match namespace {
                VIRTNIC_NAMESPACE if self.reads(attribute.name()) => return Ok(()),
                VIRTNIC_NAMESPACE => {
                    let name = format!("virtnic:{}", attribute.name());
                    let message = format!("<{}> has no attribute '{name}'", self.label());
                    self.attribute_error(ErrorKind::Xml, &name, message)
                }
                other => match self.check_meant(written, other) {
                    Ok(()) => return Ok(()),
                    Err(fault) => fault,
                },
            };
            Err(fault.placed(self.position_of(attribute.range().start)))
        });
        faults.finish()
    }

    /// Whether it has that attribute of ours.
    fn reads(self, attribute: &str) -> bool {
        let mut known = ATTRIBUTES.iter().filter(|(_, name)| *name == attribute);
        let path = known.clone().next().map(|_| self.path());
        known.any(|(place, _)| path.as_deref() == Some(place))
    }

    /// An element or attribute of another namespace does not look like ours.
    fn check_meant(self, name: &str, namespace: &str) -> Result<(), Error> {
        let prefix = name.split_once(':').map(|(prefix, _)| prefix);
        if prefix != Some(PREFIX) && !namespace.starts_with(OURS) {
            return Ok(());
        }
        let shown = match name == self.written_name() {
            true => format!("<{name}>"),
            false => format!("'{name}' on <{}>", self.label()),
        };
        let declaration = prefix.map_or("xmlns".to_owned(), |prefix| format!("xmlns:{prefix}"));
        let message = format!(
            "{shown} is of the namespace '{namespace}', which is not read; write \
             {declaration}='{VIRTNIC_NAMESPACE}'"
        );
        Err(self.error(ErrorKind::Xml, message))
    }
}

/// Where an element of ours belongs that is somewhere else.
fn place_of(name: &str, places: &Places) -> Option<String> {
    let around = places.iter().filter(|(_, names)| names.contains(&name));
    let mut around: Vec<&str> = around
        .filter_map(|(place, _)| place.rsplit('/').next())
        .collect();
    let mut seen = std::collections::HashSet::new();
    around.retain(|place| seen.insert(*place));
    (!around.is_empty()).then(|| format!("it belongs in {}", listed(&around, "<", ">")))
}

/// `a, b or c`, each between two texts.
fn listed(names: &[&str], before: &str, after: &str) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("{before}{name}{after}"))
        .collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
