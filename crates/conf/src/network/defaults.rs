//! What is made up for a network that has a bridge of its own.

use super::Network;
use crate::{Error, ErrorKind, MacAddress};

/// How many numbers are tried for a bridge's name.
const TRIED: u32 = 257;

impl Network {
    /// Gives the network's own bridge the name and the MAC that its document left out, as libvirt
    /// does when a network is defined. A name with `%d` in it is a pattern for the first number
    /// that makes it free. Networks without a bridge of their own are left as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if all names are taken.
    pub fn fill_defaults(&mut self, mut is_taken: impl FnMut(&str) -> bool) -> Result<(), Error> {
        if !self.makes_bridge() {
            return Ok(());
        }
        self.ip.mac.get_or_insert_with(MacAddress::random);
        let bridge = self.ip.bridge.get_or_insert_default();
        let pattern = match bridge.name.as_deref() {
            None => "virbr%d",
            Some(name) if name.contains("%d") => name,
            Some(_) => return Ok(()),
        };
        let name = (0..TRIED)
            .map(|number| pattern.replacen("%d", &number.to_string(), 1))
            .find(|name| !is_taken(name));
        match name {
            Some(name) => bridge.name = Some(name),
            None => {
                let message = format!(
                    "network '{}': all bridge names of the pattern '{pattern}' are taken",
                    self.name
                );
                return Err(Error::new(ErrorKind::Internal, message));
            }
        }
        Ok(())
    }
}
