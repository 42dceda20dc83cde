//! A drive and its medium, told apart.

use super::Disk;
use crate::kept::Kept;
use crate::xml::RawXml;

/// Children that say of a disk what its medium is.
const OF_MEDIUM: [&str; 5] = ["source", "backingStore", "mirror", "auth", "encryption"];

impl Disk {
    /// The same drive with the medium, or none, of another document of it.
    #[must_use]
    pub fn with_medium_of(&self, given: &Self) -> Self {
        let mut new = self.clone();
        new.source.clone_from(&given.source);
        new.format.clone_from(&given.format);
        for name in OF_MEDIUM {
            new.unused.replace(name, &given.unused);
        }
        new
    }

    /// What another document of the drive says otherwise beside its medium, each in words. What it doesn't
    /// say stays.
    #[must_use]
    pub fn changes_beside_medium(&self, given: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut note = |differs: bool, what: &str| changes.extend(differs.then(|| what.to_owned()));
        note(given.bus != self.bus, "<target bus=…>");
        let is_new = |attribute| !self.driver_attributes.contains(attribute);
        note(given.driver_attributes.iter().any(is_new), "<driver>");
        let order = given.info.boot_order;
        note(
            order.is_some() && order != self.info.boot_order,
            "<boot order=…>",
        );
        let address = &given.info.address;
        note(
            address.is_some() && *address != self.info.address,
            "<address>",
        );
        changes.extend(self.unused.lacks(&given.unused, &OF_MEDIUM));
        changes
    }
}

impl Kept {
    /// Has of the children of that name what another one has.
    fn replace(&mut self, name: &str, other: &Self) {
        self.remove(name);
        let children = other.children.iter();
        let children = children.filter(|child| child.xml.name() == name);
        self.children.extend(children.cloned());
        let inside = other.inside.iter();
        let inside = inside.filter(|(sibling, _)| sibling.name == name);
        self.inside.extend(inside.cloned());
    }

    /// What another one has and this one has not, or otherwise, by name; children of these names apart.
    fn lacks(&self, other: &Self, apart: &[&str]) -> Vec<String> {
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
}
