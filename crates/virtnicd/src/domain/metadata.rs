//! Titles, descriptions and metadata of guests.

use std::sync::Arc;

use rpc::{Code, DomainGetMetadata, DomainMetadataChange, DomainSetMetadata, Error};

use super::{DOMAIN, DomainObject};
use crate::affect::Read;
use crate::daemon::Daemon;
use crate::fault::Result;
use crate::metadata::{NewText, Piece, Pieces};
use crate::sync::lock;

impl Daemon {
    /// A title, a description, or what another program keeps.
    pub(crate) fn domain_metadata(&self, args: &DomainGetMetadata) -> Result<String> {
        let object = self.domain(&args.dom)?;
        let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
        let status = lock(&object.state);
        let domain = match status.subject(&object.name).read(args.flags)? {
            Read::Live => status.running.as_ref().map(|running| &running.domain),
            Read::Config => status.defined.as_ref(),
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
        object: &Arc<DomainObject>,
        args: &DomainSetMetadata,
    ) -> Result<()> {
        let piece = Piece::new(DOMAIN, args.r#type, args.uri.as_deref())?;
        let new = NewText {
            text: args.metadata.as_deref(),
            key: args.key.as_deref(),
        };
        let _job = object.job.lock().await;
        let affected = object.affected(args.flags)?;
        let changed = |domain: &mut conf::Domain, _| {
            let pieces = Pieces {
                title: &mut domain.title,
                description: &mut domain.description,
                metadata: &mut domain.metadata,
            };
            piece.set(DOMAIN, pieces, new)
        };
        self.change_domain(object, affected, changed).await?;
        let (r#type, nsuri) = piece.told();
        self.events.tell(DomainMetadataChange {
            dom: object.dom(),
            r#type,
            nsuri,
        });
        Ok(())
    }
}
