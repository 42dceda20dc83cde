//! Titles, descriptions and metadata of networks.

use std::sync::Arc;

use conf::Network;
use rpc::{Code, Error, NetworkGetMetadata, NetworkMetadataChange, NetworkSetMetadata};

use super::owner::NetworkState;
use super::{DOMAIN, NetworkHandle};
use crate::affect::Read;
use crate::daemon::Daemon;
use crate::fault::Result;
use crate::metadata::{NewText, Piece, Pieces};

impl Daemon {
    /// A title, a description, or what another program keeps.
    pub(crate) fn network_metadata(&self, args: &NetworkGetMetadata) -> Result<String> {
        let object = self.network(&args.network)?;
        let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
        let view = object.view();
        let network = match view.subject(&object.name).read(args.flags)? {
            Read::Live => view.active.as_deref(),
            Read::Config => view.defined.as_deref(),
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
    pub(crate) async fn set_network_metadata(
        self: &Arc<Self>,
        handle: &NetworkHandle,
        args: NetworkSetMetadata,
    ) -> Result<()> {
        let (r#type, nsuri) = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?.told();
        let (daemon, name) = (Arc::clone(self), handle.name.clone());
        let set = move |state: &mut NetworkState| {
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
            let affected = state.subject(&name).affected(args.flags)?;
            daemon.replace_network(state, affected, changed, |_, _| Ok(()))
        };
        handle.request(set).await?;
        self.events.tell(NetworkMetadataChange {
            net: handle.net(),
            r#type,
            nsuri,
        });
        Ok(())
    }
}
