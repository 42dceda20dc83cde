//! Changing a guest that is there: what runs, the definition, or both; all of it or nothing.

use conf::Form;

use super::tune::bandwidth_of;
use super::{DomainObject, QEMU};
use crate::affect::{Affected, Read};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

impl DomainObject {
    /// What a change with those flags is made to.
    pub(super) fn affected(&self, flags: u32) -> Result<Affected> {
        lock(&self.state).subject(&self.name).affected(flags)
    }
}

impl Daemon {
    /// Puts changed documents in the place of a guest's, and has what runs follow. What fails late is
    /// undone. Under the guest's job.
    pub(super) async fn change_domain(
        &self,
        object: &DomainObject,
        affected: Affected,
        changed: impl Fn(&mut conf::Domain, Read) -> Result<()>,
    ) -> Result<()> {
        let (live, config) = {
            let status = lock(&object.state);
            let live = status.running.as_ref().filter(|_| affected.live);
            let config = status.defined.as_ref().filter(|_| affected.config);
            (live.map(|running| running.domain.clone()), config.cloned())
        };
        let live = match live {
            Some(old) => {
                let mut new = old.clone();
                changed(&mut new, Read::Live)?;
                new.check_kept().map_err(fault::document(QEMU))?;
                Some((old, new))
            }
            None => None,
        };
        let config = match config {
            Some(mut config) => {
                changed(&mut config, Read::Config)?;
                config.check_kept().map_err(fault::document(QEMU))?;
                Some(config)
            }
            None => None,
        };
        if let Some((old, new)) = &live {
            // Shown and recorded before it is so: whoever takes over knows what may be.
            self.put_running(object, new)
                .inspect_err(|_| self.put_back(object, old))?;
            self.follow_document(object, old, new)
                .await
                .inspect_err(|_| self.put_back(object, old))?;
        }
        if let Some(config) = config {
            let kept = self
                .domain_store
                .write(&object.name, &config.to_xml_with_secrets(Form::Inactive));
            if let Err(error) = kept {
                if let Some((old, new)) = &live {
                    if let Err(error) = self.follow_document(object, new, old).await {
                        tracing::error!(guest = object.name, %error, "a change is not undone");
                    }
                    self.put_back(object, old);
                }
                let what = format!("can't keep guest '{}'", object.name);
                return Err(fault::file(QEMU, what)(error));
            }
            lock(&object.state).defined = Some(config);
        }
        Ok(())
    }

    /// Makes what runs like its new document: links and rates are all that changes by itself.
    async fn follow_document(
        &self,
        object: &DomainObject,
        old: &conf::Domain,
        new: &conf::Domain,
    ) -> Result<()> {
        let pairs = (old.devices.interfaces.iter()).zip(&new.devices.interfaces);
        for (old, new) in pairs {
            if old.link_up != new.link_up {
                self.set_link(object, new).await?;
            }
            if bandwidth_of(old) != bandwidth_of(new) {
                self.shape_interface(object, old, new)?;
            }
        }
        Ok(())
    }

    /// A running guest has another document, and its record too. One that ended meanwhile has none.
    fn put_running(&self, object: &DomainObject, domain: &conf::Domain) -> Result<()> {
        let status = &mut *lock(&object.state);
        match &mut status.running {
            Some(running) => {
                running.domain = domain.clone();
                self.record_running(object, running)
            }
            None => Ok(()),
        }
    }

    fn put_back(&self, object: &DomainObject, domain: &conf::Domain) {
        if let Err(error) = self.put_running(object, domain) {
            tracing::error!(guest = object.name, %error, "its record is ahead of it");
        }
    }
}
