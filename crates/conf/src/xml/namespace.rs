//! Elements that are meant to be virtnic's own, and are not.

use super::{Element, VIRTNIC_NAMESPACE};
use crate::{Error, ErrorKind, Faults};

/// What virtnic's own namespaces begin with, whatever their number.
const OURS: &str = "urn:virtnic:";
/// The prefix that its users know.
const PREFIX: &str = "virtnic";

impl Element<'_> {
    /// Refuses what a person takes for virtnic's own, and what another namespace makes nobody's, so
    /// that it would do nothing. Other programs' elements may be anywhere, and `<metadata>` is
    /// theirs as a whole.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] for each such element, with what to write.
    pub(super) fn check_namespaces(self) -> Result<(), Error> {
        // A look that spares most documents the walk.
        if !self.node().document().input_text().contains(PREFIX) {
            return Ok(());
        }
        let parts = self.children().filter(|part| !part.is("metadata"));
        let nodes = parts.flat_map(|part| part.node().descendants());
        let mut faults = Faults::default();
        faults.each(nodes, |node| self.at(node).check_namespace());
        faults.finish()
    }

    fn check_namespace(self) -> Result<(), Error> {
        let Some(namespace) = self.namespace().filter(|uri| *uri != VIRTNIC_NAMESPACE) else {
            return Ok(());
        };
        let name = self.written_name();
        let prefix = name.split_once(':').map(|(prefix, _)| prefix);
        if prefix != Some(PREFIX) && !namespace.starts_with(OURS) {
            return Ok(());
        }
        let declaration = prefix.map_or("xmlns".to_owned(), |prefix| format!("xmlns:{prefix}"));
        let message = format!(
            "<{name}> is of the namespace '{namespace}', which is not read; write \
             {declaration}='{VIRTNIC_NAMESPACE}'"
        );
        Err(self.error(ErrorKind::Xml, message))
    }
}
