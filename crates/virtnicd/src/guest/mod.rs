//! Guests: defined and forgotten, started and ended, and what is asked about them.
//!
//! Each guest has one [`owner`], a task; everybody else has a [`GuestHandle`], with which they
//! look at it and ask it. What may be asked when is a table: [`life::admit`].

mod arrive;
mod attachment;
mod bandwidth;
mod barred;
mod cancel;
mod change;
mod console;
mod control;
mod definition;
mod end;
mod events;
mod follow;
mod groups;
mod halves;
mod handle;
mod held;
mod hotplug;
mod interface;
mod leave;
mod life;
mod links;
mod medium;
mod metadata;
mod moving;
mod numa;
mod owner;
mod pairs;
mod plan;
mod plug;
mod preview;
mod record;
mod rx_filter;
mod seat;
mod start;
mod stats;
mod stock;
mod unplug;
mod update_device;

use std::sync::Arc;

use conf::{Form, InterfaceSource, KeptPlaces, Uuid};
use rpc::flags::{DomainXml, Vcpus};
use rpc::{Code, Dom, Domain, DomainInfo, Error};

use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::store::{self, StoredDefinition};

pub(crate) use bandwidth::interface_bandwidth;
pub(crate) use barred::{Barred, BarredGuest, RecordSubject, UnreadRecord};
pub(crate) use groups::GuestGroups;
pub(crate) use halves::{TIME_TO_JOIN, half_of, without_vf};
pub(crate) use handle::{GuestHandle, Request, Run};
pub(crate) use hotplug::{attach_device, detach_alias, detach_device};
pub(crate) use moving::{
    ArrivalWish, Departing, Departure, FinishWish, HoldWish, MoveRecord, Moved, Phase, SendWish,
    Step,
};
pub(crate) use pairs::{Turn, is_plugged_vf, pf_of, recall, turn};
pub(crate) use record::DomainRecord;
pub(crate) use update_device::update_device;

/// Errors of the hypervisor's side; libvirt keeps these apart from checks of the call itself.
const QEMU: Domain = Domain::Qemu;
const DOMAIN: Domain = Domain::Domain;

impl GuestHandle {
    pub(crate) fn info(&self) -> DomainInfo {
        let state = self.state_and_reason().state.cast_unsigned();
        let view = self.view();
        let run = view.run.as_ref();
        let cpu_time = run.map_or(0, |run| control::cpu_time(run));
        let domain = view.domain();
        DomainInfo {
            state,
            max_mem: domain.map_or(0, |domain| domain.memory_kib),
            memory: domain.map_or(0, |domain| domain.current_memory_kib),
            nr_virt_cpu: domain.map_or(0, |domain| domain.current_vcpus.unwrap_or(domain.vcpus)),
            cpu_time,
        }
    }

    pub(crate) fn vcpus(&self, flags: Vcpus) -> i32 {
        let view = self.view();
        let count = view.domain().map_or(0, |domain| {
            if flags.contains(Vcpus::MAXIMUM) {
                domain.vcpus
            } else {
                domain.current_vcpus.unwrap_or(domain.vcpus)
            }
        });
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// The document, in the form that is asked for.
    pub(crate) fn xml(&self, flags: DomainXml) -> String {
        let view = self.view();
        let form = if flags.contains(DomainXml::MIGRATABLE) {
            Form::Migratable
        } else if flags.contains(DomainXml::INACTIVE) {
            Form::Inactive
        } else {
            Form::Live
        };
        let domain = match (&view.run, &view.defined) {
            (Some(run), _) if form == Form::Live => Some(&run.domain),
            (Some(run), None) => Some(&run.domain),
            (_, Some(defined)) => Some(&**defined),
            (None, None) => view.domain(),
        };
        domain.map_or_else(String::new, |domain| {
            if flags.contains(DomainXml::SECURE) {
                domain.to_xml_with_secrets(form)
            } else {
                domain.to_xml(form)
            }
        })
    }
}

/// Guests, running or not.
impl Daemon {
    /// The guest that a client means.
    pub(crate) fn guest(&self, dom: &Dom) -> Result<Arc<GuestHandle>> {
        self.guests
            .by_uuid(dom.uuid)
            .ok_or_else(|| no_guest(dom.uuid, &dom.name))
    }

    fn known_guest(&self, uuid: Uuid) -> Option<Arc<GuestHandle>> {
        let handle = self.guests.by_uuid(uuid);
        handle.filter(|handle| handle.is_known())
    }

    /// The guests that are defined, or run, in the order of their names.
    pub(crate) fn known_guests(&self) -> Vec<Arc<GuestHandle>> {
        let mut all = self.guests.all();
        all.retain(|handle| handle.is_known());
        all
    }

    pub(crate) fn guest_by_uuid(&self, uuid: Uuid) -> Result<Arc<GuestHandle>> {
        self.known_guest(uuid).ok_or_else(|| {
            let detail = format!("no domain with matching uuid '{uuid}'");
            Error::new(Code::NoDomain, QEMU, detail)
        })
    }

    pub(crate) fn guest_by_name(&self, name: &str) -> Result<Arc<GuestHandle>> {
        let handle = self.guests.by_name(name);
        handle.filter(|handle| handle.is_known()).ok_or_else(|| {
            let detail = format!("no domain with matching name '{name}'");
            Error::new(Code::NoDomain, QEMU, detail)
        })
    }

    pub(crate) fn guest_by_id(&self, id: i32) -> Result<Arc<GuestHandle>> {
        let running = |object: &Arc<GuestHandle>| object.dom().id == id;
        self.guests
            .all()
            .into_iter()
            .find(running)
            .filter(|_| id > 0)
            .ok_or_else(|| {
                let detail = format!("no domain with matching id {id}");
                Error::new(Code::NoDomain, QEMU, detail)
            })
    }

    /// Keeps a definition. A running guest goes on as it is, and has it at its next start. `strict`:
    /// what no schema knows is refused.
    pub(crate) async fn define_guest(self: &Arc<Self>, xml: String, strict: bool) -> Result<Dom> {
        let domain = self.read_document(xml, strict).await?;
        let domain = Arc::new(domain);
        let handle = self
            .ask_guest(&domain, || Request::Define(Arc::clone(&domain)))
            .await?;
        self.warn_of_groups(&domain);
        Ok(handle.dom())
    }

    /// Starts a guest that is not kept.
    pub(crate) async fn create_guest(
        self: &Arc<Self>,
        xml: String,
        strict: bool,
        paused: bool,
        autodestroy: Option<u64>,
    ) -> Result<Dom> {
        let domain = self.read_document(xml, strict).await?;
        let start = || Request::Start {
            domain: Some(Box::new(domain.clone())),
            paused,
            autodestroy,
        };
        Ok(self.ask_guest(&domain, start).await?.dom())
    }

    /// Asks the guest of that name and uuid for something, new or known.
    pub(crate) async fn ask_guest(
        self: &Arc<Self>,
        domain: &conf::Domain,
        request: impl Fn() -> Request,
    ) -> Result<Arc<GuestHandle>> {
        let conf::Domain { name, uuid, .. } = domain;
        loop {
            let made = self
                .guests
                .get_or_insert(name, *uuid, || owner::make(self, name, *uuid));
            let handle = made.map_err(|clash| {
                let detail = clash.words("domain", name, *uuid);
                Error::new(Code::OperationFailed, QEMU, detail)
            })?;
            // Forgotten meanwhile, it is a new one.
            if let Ok(answer) = handle.ask(request()).await {
                return answer.map(|()| handle);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Ends the guests that were to end with a client's connection.
    pub(crate) fn end_guests_of(self: &Arc<Self>, connection: u64) {
        let daemon = Arc::clone(self);
        tokio::spawn(async move {
            for handle in daemon.guests.all() {
                handle.client_gone(connection).await;
            }
        });
    }

    /// A port group that its network does not have keeps the guest from starting, unless that is
    /// changed until then.
    fn warn_of_groups(&self, domain: &conf::Domain) {
        for interface in &domain.devices.interfaces {
            if let InterfaceSource::Network {
                network,
                port_group: Some(group),
            } = &interface.source
                && let Some(object) = self.networks.by_name(network)
                && let Some(fault) = object.group_fault(group)
            {
                tracing::warn!(guest = domain.name, interface = %interface.mac, "{fault}");
            }
        }
    }

    /// Reads the definitions that are not known yet. Blocks.
    pub(crate) fn find_guest_definitions(
        &self,
    ) -> std::io::Result<Vec<(StoredDefinition, conf::Domain)>> {
        let mut read = Vec::new();
        for found in self.domain_store.load()? {
            match found {
                Ok(found) => match self.read_definition(&found) {
                    Ok(domain) => read.push((found, domain)),
                    Err(error) => store::say_left_out(&found.path, &error),
                },
                Err(error) => tracing::error!("{}", fault::chain(&error)),
            }
        }
        Ok(read)
    }

    fn read_definition(
        &self,
        found: &StoredDefinition,
    ) -> std::result::Result<conf::Domain, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let domain = self.read_kept_domain(&found.text).map_err(|e| said(&e))?;
        (self.domain_store.check_name(found, &domain.name)).map_err(|e| said(&e))?;
        Ok(domain)
    }

    /// Knows definitions that were found on the disk, as far as they are still there.
    pub(crate) async fn take_guests_in(
        self: &Arc<Self>,
        found: Vec<(StoredDefinition, conf::Domain)>,
    ) {
        for (found, domain) in found {
            let (found, domain) = (Arc::new(found), Arc::new(domain));
            let request = || Request::TakeIn(Arc::clone(&found), Arc::clone(&domain));
            if let Err(error) = self.ask_guest(&domain, request).await {
                store::say_left_out(&found.path, &error.to_string());
            }
        }
    }

    /// A guest that an earlier daemon started.
    pub(crate) fn take_up_guest(
        self: &Arc<Self>,
        record: DomainRecord,
        machine: qemu::Guest,
        events: qemu::GuestEvents,
        moved: Option<&MoveRecord>,
    ) {
        let (name, uuid) = (record.name.clone(), record.uuid);
        let mut run = match record.into_run(machine, &self.guest_groups) {
            Ok(run) => run,
            Err(error) => {
                let what =
                    format!("the document in the record of guest '{name}' can't be read: {error}");
                return self.barred.bar_unknown(uuid, what);
            }
        };
        self.seen_domain_id(run.id);
        pairs::take_up(self, &name, uuid, &mut run);
        let made = self.guests.get_or_insert(&name, uuid, || {
            let aftermath = moved.map(MoveRecord::aftermath);
            owner::make_found(self, &name, uuid, run, events, aftermath)
        });
        if made.is_err() {
            let what = format!("guest '{name}' runs, and its name or uuid is another's by now");
            self.barred.bar_unknown(uuid, what);
        }
    }

    /// A document as a user gave it, filled in as libvirt would; strict: all of it is known.
    pub(crate) async fn read_document(
        self: &Arc<Self>,
        xml: String,
        strict: bool,
    ) -> Result<conf::Domain> {
        let daemon = Arc::clone(self);
        blocking(QEMU, move || {
            let domain = daemon.read_domain(&xml)?;
            if strict {
                fault::all_read(QEMU, &xml)?;
            }
            Ok(domain)
        })
        .await?
    }

    /// A document as a user gave it, filled in as libvirt would. Blocks: it may look at the host.
    fn read_domain(&self, xml: &str) -> Result<conf::Domain> {
        self.with_pairs(conf::Domain::parse(xml).map_err(fault::document(QEMU))?)
    }

    /// The same of one that was kept, by this release or an earlier one.
    fn read_kept_domain(&self, xml: &str) -> Result<conf::Domain> {
        let mut domain = conf::Domain::parse_kept(xml).map_err(fault::document(QEMU))?;
        // Its network may lend pairs by now that it can't be: it stays known, and does not start.
        let kept = self.make_pairs(&mut domain).unwrap_or_else(|error| {
            tracing::warn!(guest = domain.name, "{error}");
            KeptPlaces::default()
        });
        self.filled(domain, &kept)
    }

    /// The same of one that is only asked about.
    fn read_asked_domain(&self, xml: &str) -> Result<conf::Domain> {
        let (mut domain, has_uuid) =
            conf::Domain::parse_asked(xml).map_err(fault::document(QEMU))?;
        // What would become of a guest that there is if it were so.
        if !has_uuid && let Ok(known) = self.guest_by_name(&domain.name) {
            domain.uuid = known.uuid;
        }
        self.with_pairs(domain)
    }

    fn with_pairs(&self, mut domain: conf::Domain) -> Result<conf::Domain> {
        let kept = (self.make_pairs(&mut domain)).map_err(fault::document(QEMU))?;
        self.filled(domain, &kept)
    }

    /// Makes pairs of the interfaces that ask for one. Those that the guest has already stay what
    /// they are.
    fn make_pairs(
        &self,
        domain: &mut conf::Domain,
    ) -> std::result::Result<KeptPlaces, conf::Error> {
        let known = self.guests.by_uuid(domain.uuid);
        let view = known.map(|guest| guest.view());
        let previous = view.as_ref().and_then(|view| {
            let defined = view.defined.as_deref();
            defined.or_else(|| view.domain())
        });
        let network = |name: &str| self.networks.by_name(name)?.pairs();
        domain.expand_hybrids(previous, &network)
    }

    fn filled(&self, mut domain: conf::Domain, kept: &KeptPlaces) -> Result<conf::Domain> {
        let lends = |network: &str| Some(self.networks.by_name(network)?.lends_host_devices());
        domain.fill_defaults_with(&lends);
        domain.os.machine = self.machine(&domain.os.machine).to_owned();
        domain.validate().map_err(fault::document(QEMU))?;
        domain
            .assign_addresses_keeping(&|address| self.is_express(address), kept)
            .map_err(fault::document(QEMU))?;
        domain.assign_usb_addresses();
        Ok(domain)
    }

    /// Whether a function of the host is a PCI Express device; one that is not there (yet) is taken for
    /// one, as nearly all are. Blocks.
    fn is_express(&self, address: conf::PciAddress) -> bool {
        let device = self.host.pci_device(address);
        device.map_or(true, |device| device.is_express)
    }
}

fn no_guest(uuid: Uuid, name: &str) -> Error {
    let detail = format!("no domain with matching uuid '{uuid}' ({name})");
    Error::new(Code::NoDomain, QEMU, detail)
}
