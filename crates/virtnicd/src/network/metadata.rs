//! Titles, descriptions and metadata of networks.

use conf::Network;
use rpc::{Code, Error, NetworkGetMetadata, NetworkMetadataChange, NetworkSetMetadata};

use super::{DOMAIN, NetworkObject};
use crate::affect::Read;
use crate::daemon::Daemon;
use crate::fault::Result;
use crate::metadata::{NewText, Piece, Pieces};
use crate::sync::lock;

impl Daemon {
    /// A title, a description, or what another program keeps.
    pub(crate) fn network_metadata(&self, args: &NetworkGetMetadata) -> Result<String> {
        let object = self.network(&args.network)?;
        let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
        let state = lock(&object.state);
        let network = match state.subject(&object.name).read(args.flags)? {
            Read::Live => state.active.as_ref().map(|active| &*active.network),
            Read::Config => state.defined.as_ref(),
        };
        let found = network.and_then(|network| {
            piece.find(
                network.title.as_ref(),
                network.description.as_ref(),
                network.metadata.as_ref(),
            )
        });
        found.ok_or_else(|| {
            let detail = "Requested metadata element is not present";
            Error::new(Code::NoNetworkMetadata, DOMAIN, detail)
        })
    }

    /// Changes one of these, in what runs, in the definition, or in both.
    pub(crate) fn set_network_metadata(
        &self,
        object: &NetworkObject,
        args: &NetworkSetMetadata,
    ) -> Result<()> {
        let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
        let new = NewText {
            text: args.metadata.as_deref(),
            key: args.key.as_deref(),
        };
        let changed = |network: &Network, _| {
            let mut network = network.clone();
            let pieces = Pieces {
                title: &mut network.title,
                description: &mut network.description,
                metadata: &mut network.metadata,
            };
            piece.set(DOMAIN, pieces, new)?;
            Ok(network)
        };
        let mut state = lock(&object.state);
        let affected = state.subject(&object.name).affected(args.flags)?;
        self.replace_network(object, &mut state, affected, changed, |_, _| Ok(()))?;
        drop(state);
        let (r#type, nsuri) = piece.told();
        self.events.tell(NetworkMetadataChange {
            net: object.net(),
            r#type,
            nsuri,
        });
        Ok(())
    }
}
