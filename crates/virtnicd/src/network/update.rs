//! Changing a network that is there: a part of it, in what runs, in the definition, or in both.

use std::sync::Arc;

use conf::{Form, Network, NetworkUpdate, UpdateCommand, UpdateSection};
use rpc::{Code, Error};

use super::owner::NetworkState;
use super::{DOMAIN, NetworkHandle, NetworkRecord};
use crate::affect::{Affected, Read};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

impl Daemon {
    /// Carries `virsh net-update` out.
    pub(crate) async fn update_network(
        self: &Arc<Self>,
        handle: &NetworkHandle,
        args: rpc::NetworkUpdate,
    ) -> Result<()> {
        let (daemon, name) = (Arc::clone(self), handle.name.clone());
        let update = move |state: &mut NetworkState| {
            let change = parse(&args)?;
            let affected = state.subject(&name).affected(args.flags)?;
            // Who is on a device matters for what runs only.
            let status = state.active.as_ref().filter(|_| affected.live);
            let status = status.map(|active| daemon.network_status(active));
            let changed = |network: &Network, which| {
                let status = status.as_ref().filter(|_| which == Read::Live);
                network
                    .update(&change, status)
                    .map_err(fault::document(DOMAIN))
            };
            daemon.replace_network(state, affected, changed, |old, new| {
                // Nothing but its pool is there already; a port group is looked at by the next port.
                match old.forward == new.forward {
                    true => Ok(()),
                    false => daemon.reopen_network(old, new),
                }
            })
        };
        handle.request(update).await
    }

    /// Puts changed documents in the place of a network's. `effect` makes what runs like the second
    /// of the two. All of it is done, or nothing: what fails late is undone. Blocks.
    pub(super) fn replace_network(
        &self,
        state: &mut NetworkState,
        affected: Affected,
        changed: impl Fn(&Network, Read) -> Result<Network>,
        effect: impl Fn(&Network, &Network) -> Result<()>,
    ) -> Result<()> {
        let changed = |network: &Network, which| {
            let new = changed(network, which)?;
            new.check_kept().map_err(fault::document(DOMAIN))?;
            Ok::<_, Error>(new)
        };
        let live = match state.active.clone().filter(|_| affected.live) {
            Some(old) => {
                let new = changed(&old, Read::Live)?;
                Some((old, Arc::new(new)))
            }
            None => None,
        };
        let config = match state.defined.as_ref().filter(|_| affected.config) {
            Some(defined) => Some(changed(defined, Read::Config)?),
            None => None,
        };
        if let Some((old, new)) = &live {
            self.record_network(new)?;
            if let Err(error) = effect(old, new) {
                self.record_again(old);
                return Err(error);
            }
        }
        if let Some(config) = config {
            let kept = self
                .network_store
                .write(&config.name, &config.to_xml(Form::Inactive));
            if let Err(error) = kept {
                if let Some((old, new)) = &live {
                    if let Err(error) = effect(new, old) {
                        tracing::error!(network = config.name, %error, "a change is not undone");
                    }
                    self.record_again(old);
                }
                let what = format!("can't keep network '{}'", config.name);
                return Err(fault::file(DOMAIN, what)(error));
            }
            state.defined = Some(Arc::new(config));
        }
        if let Some((_, new)) = live {
            self.ports.open(&new);
            state.active = Some(new);
        }
        Ok(())
    }

    /// Makes a running network's pool that of its new document. What it lent stays lent.
    fn reopen_network(&self, old: &Network, new: &Network) -> Result<()> {
        self.open_network(new).inspect_err(|_| {
            if let Err(error) = self.open_network(old) {
                tracing::error!(network = old.name, %error, "runs, and has nothing to lend");
            }
        })?;
        self.prune_host_access(new);
        Ok(())
    }

    fn record_again(&self, network: &Network) {
        let record = NetworkRecord::of(network);
        if let Err(error) = self.records.networks.settle(network.uuid, &record) {
            let error = fault::chain(&error);
            tracing::error!(
                network = network.name,
                error,
                "its record is ahead of it for now"
            );
        }
    }
}

/// A change as the wire tells it.
fn parse(args: &rpc::NetworkUpdate) -> Result<NetworkUpdate<'_>> {
    let unknown = |what: &str, number: u32| {
        let detail = format!("{number} is no {what} of a network's update");
        Error::new(Code::InvalidArg, DOMAIN, detail)
    };
    Ok(NetworkUpdate {
        command: UpdateCommand::from_number(args.command)
            .ok_or_else(|| unknown("command", args.command))?,
        section: UpdateSection::from_number(args.section)
            .ok_or_else(|| unknown("section", args.section))?,
        // Any negative number leaves it open.
        parent: usize::try_from(args.parent_index).ok(),
        xml: &args.xml,
    })
}
