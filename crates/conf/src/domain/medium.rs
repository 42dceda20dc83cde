//! A drive and its medium, told apart.

use super::Disk;

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
