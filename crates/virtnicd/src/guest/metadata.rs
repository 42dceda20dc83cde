//! Titles, descriptions and metadata of guests.

use rpc::{Code, DomainGetMetadata, DomainMetadataChange, DomainSetMetadata, Error};

use super::change::Edit;
use super::{DOMAIN, GuestHandle, Request};
use crate::affect::Read;
use crate::daemon::Daemon;
use crate::fault::Result;
use crate::metadata::{NewText, Piece, Pieces};

impl Daemon {
    /// A title, a description, or what another program keeps.
    pub(crate) fn domain_metadata(&self, args: &DomainGetMetadata) -> Result<String> {
        let handle = self.guest(&args.dom)?;
        let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
        let view = handle.view();
        let domain = match view.subject(&handle.name).read(args.flags)? {
            Read::Live => view.run.as_ref().map(|run| &run.domain),
            Read::Config => view.defined.as_deref(),
        };
        let found = domain.and_then(|domain| {
            piece.find(
                domain.title.as_ref(),
                domain.description.as_ref(),
                domain.metadata.as_ref(),
            )
        });
        found.ok_or_else(|| {
            let detail = "Requested metadata element is not present";
            Error::new(Code::NoDomainMetadata, DOMAIN, detail)
        })
    }

    /// Changes one of these, in what runs, in the definition, or in both.
    pub(crate) async fn set_domain_metadata(
        &self,
        handle: &GuestHandle,
        args: DomainSetMetadata,
    ) -> Result<()> {
        let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
        let (r#type, nsuri) = piece.told();
        let flags = args.flags;
        let edit = Edit::new(move |domain, _, _| {
            let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
            let new = NewText {
                text: args.metadata.as_deref(),
                key: args.key.as_deref(),
            };
            let pieces = Pieces {
                title: &mut domain.title,
                description: &mut domain.description,
                metadata: &mut domain.metadata,
            };
            piece.set(DOMAIN, pieces, new)
        });
        handle.request(Request::Change { flags, edit }).await?;
        self.events.tell(DomainMetadataChange {
            dom: handle.dom(),
            r#type,
            nsuri,
        });
        Ok(())
    }
}
