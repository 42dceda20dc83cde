//! The macvtap modes that a network's guests may have.

use crate::xml::Keyword;
use crate::{DirectMode, Error, ForwardMode, Network};

/// What a guest may choose where the network says nothing: all that share the parent.
const SHARED: [DirectMode; 3] = [DirectMode::Bridge, DirectMode::Private, DirectMode::Vepa];

impl Network {
    /// The macvtap mode of guests that choose none; `None` where they get no macvtap.
    #[must_use]
    pub fn default_direct_mode(&self) -> Option<DirectMode> {
        match self.forward_mode()? {
            ForwardMode::Bridge if self.existing_bridge().is_some() => None,
            ForwardMode::Bridge => Some(DirectMode::Bridge),
            ForwardMode::Private => Some(DirectMode::Private),
            ForwardMode::Vepa => Some(DirectMode::Vepa),
            ForwardMode::Passthrough => Some(DirectMode::Passthrough),
            _ => None,
        }
    }

    /// The macvtap modes that a guest may choose, its forward mode first. Passthrough takes the
    /// parent whole, so it is offered by networks of that mode, and nothing else by these.
    #[must_use]
    pub fn direct_modes(&self) -> Vec<DirectMode> {
        let Some(default) = self.default_direct_mode() else {
            return Vec::new();
        };
        let offered = match (&self.extension.direct_modes, default) {
            (_, DirectMode::Passthrough) => &[DirectMode::Passthrough][..],
            (Some(modes), _) => modes,
            (None, _) => &SHARED,
        };
        let others = offered.iter().copied().filter(|mode| *mode != default);
        std::iter::once(default).chain(others).collect()
    }

    /// The macvtap mode of a guest that asks for one, or for none.
    ///
    /// # Errors
    /// A mode that the network does not offer.
    pub fn choose_direct_mode(
        &self,
        asked: Option<DirectMode>,
    ) -> Result<Option<DirectMode>, Error> {
        let Some(asked) = asked else {
            return Ok(self.default_direct_mode());
        };
        let offered = self.direct_modes();
        if offered.contains(&asked) {
            return Ok(Some(asked));
        }
        let word = asked.word();
        Err(if offered.is_empty() {
            self.refuse(format_args!(
                "mode '{}' gives guests no macvtap, so none in mode '{word}'",
                self.mode_word()
            ))
        } else {
            let offered: Vec<_> = offered.iter().map(|mode| mode.word()).collect();
            self.refuse(format_args!(
                "macvtap mode '{word}' is not offered, only {}",
                offered.join(", ")
            ))
        })
    }

    /// `<virtnic:direct>` has to go with the forward mode.
    pub(super) fn check_direct_modes(&self) -> Result<(), Error> {
        // macvlans in other modes don't reach each other on the host.
        if self.extension.host_access && self.default_direct_mode() != Some(DirectMode::Bridge) {
            return Err(self.refuse_at(
                "virtnic:direct",
                0,
                format_args!("host-access='yes' needs forward mode 'bridge' over network devices"),
            ));
        }
        let (Some(modes), Some(default)) =
            (&self.extension.direct_modes, self.default_direct_mode())
        else {
            return Ok(());
        };
        if !modes.contains(&default) {
            return Err(self.refuse_at(
                "virtnic:direct",
                0,
                format_args!(
                    "<virtnic:direct> does not offer the network's own mode, '{}'",
                    default.word()
                ),
            ));
        }
        let is_whole = |mode: &DirectMode| *mode == DirectMode::Passthrough;
        if modes.iter().any(is_whole) && !modes.iter().all(is_whole) {
            return Err(self.refuse_at("virtnic:direct", 0, format_args!(
                "<virtnic:direct> can't offer 'passthrough', which takes a device whole, beside \
                 modes that share it"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(mode: &str, extension: &str) -> Network {
        let xml = format!(
            "<network xmlns:virtnic='urn:virtnic:1'><name>n</name><forward mode='{mode}'>\
             <interface dev='eth0'/></forward>{extension}</network>"
        );
        Network::parse(&xml).unwrap()
    }

    #[test]
    fn a_guest_chooses_within_what_is_offered() {
        let open = network("bridge", "");
        assert_eq!(open.choose_direct_mode(None), Ok(Some(DirectMode::Bridge)));
        let vepa = Some(DirectMode::Vepa);
        assert_eq!(open.choose_direct_mode(vepa), Ok(vepa));
        let narrow = network("bridge", "<virtnic:direct modes='bridge private'/>");
        let refused = narrow.choose_direct_mode(vepa).unwrap_err();
        assert!(
            (refused.to_string())
                .contains("macvtap mode 'vepa' is not offered, only bridge, private"),
            "{refused}"
        );
        let whole = network("passthrough", "");
        assert!(whole.choose_direct_mode(vepa).is_err());
        assert!(
            open.choose_direct_mode(Some(DirectMode::Passthrough))
                .is_err()
        );
    }

    #[test]
    fn the_host_takes_part_among_bridged_guests_only() {
        let access = "<virtnic:direct host-access='yes'/>";
        assert_eq!(network("bridge", access).check_direct_modes(), Ok(()));
        for mode in ["vepa", "private", "passthrough"] {
            assert!(
                network(mode, access).check_direct_modes().is_err(),
                "{mode}"
            );
        }
    }

    #[test]
    fn offers_go_with_the_forward_mode() {
        for (mode, offer, fits) in [
            ("bridge", "bridge vepa", true),
            ("bridge", "vepa", false),
            ("bridge", "bridge passthrough", false),
            ("passthrough", "passthrough", true),
        ] {
            let network = network(mode, &format!("<virtnic:direct modes='{offer}'/>"));
            assert_eq!(
                network.check_direct_modes().is_ok(),
                fits,
                "{mode}: {offer}"
            );
        }
    }
}
