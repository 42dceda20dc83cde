//! Guests: defined and forgotten, and what is asked about them.

mod change;
mod connect;
mod console;
mod control;
mod filter;
mod interface;
mod links;
mod metadata;
mod numa;
mod plan;
mod preview;
mod record;
mod start;
mod stats;
mod stop;
mod tune;
mod update;

use std::sync::{Arc, Mutex};

use conf::{Form, InterfaceSource, Uuid};
use rpc::flags::{DomainXml, Vcpus};
use rpc::{Code, Dom, Domain, DomainChange, DomainInfo, DomainLifecycle, DomainState, Error};

pub(crate) use record::DomainRecord;
use start::Running;

use crate::affect::Subject;
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::registry::{Clash, Named};
use crate::store::Found;
use crate::sync::lock;

/// Errors of the hypervisor's side; libvirt keeps these apart from checks of the call itself.
const QEMU: Domain = Domain::Qemu;
const DOMAIN: Domain = Domain::Domain;

/// A guest that the daemon knows.
#[derive(Debug)]
pub(crate) struct DomainObject {
    name: String,
    uuid: Uuid,
    /// Held by whoever changes what runs: one at a time, in the order of asking.
    job: tokio::sync::Mutex<()>,
    /// Read at any time, changed under the job.
    state: Mutex<DomainStatus>,
    consoles: console::Consoles,
}

/// What can change about it. A guest that is neither defined nor running is forgotten.
#[derive(Debug, Default)]
pub(crate) struct DomainStatus {
    /// The definition on disk.
    defined: Option<conf::Domain>,
    /// What runs.
    running: Option<Running>,
    /// A start is under way, or waits for its turn.
    starting: bool,
    /// Why it does not run.
    stopped: StopReason,
    /// No longer in the registry: whoever still holds it must look again.
    forgotten: bool,
}

/// Why a guest is off; the numbers are libvirt's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum StopReason {
    #[default]
    Unknown = 0,
    Shutdown = 1,
    Destroyed = 2,
    Crashed = 3,
    Failed = 6,
}

/// `VIR_DOMAIN_SHUTOFF`.
const SHUT_OFF: i32 = 5;

impl DomainStatus {
    /// What runs, or else what would.
    fn domain(&self) -> Option<&conf::Domain> {
        let running = self.running.as_ref().map(|running| &running.domain);
        running.or(self.defined.as_ref())
    }

    /// The guest of that name, as errors about it need it.
    fn subject<'a>(&self, name: &'a str) -> Subject<'a> {
        Subject {
            domain: QEMU,
            kind: "domain",
            name,
            active: self.running.is_some(),
            persistent: self.defined.is_some(),
        }
    }
}

impl Named for DomainObject {
    fn name(&self) -> &str {
        &self.name
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }
}

impl DomainObject {
    fn new(domain: &conf::Domain) -> Self {
        Self {
            name: domain.name.clone(),
            uuid: domain.uuid,
            job: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
            consoles: console::Consoles::default(),
        }
    }

    /// How clients know it: with the number of its run, or -1.
    pub(crate) fn dom(&self) -> Dom {
        let id = lock(&self.state)
            .running
            .as_ref()
            .map_or(-1, |running| running.id);
        self.dom_with(id)
    }

    fn dom_with(&self, id: i32) -> Dom {
        Dom {
            name: self.name.clone(),
            uuid: self.uuid,
            id,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        lock(&self.state).running.is_some()
    }

    /// Whether somebody is just changing what runs.
    pub(crate) fn is_busy(&self) -> bool {
        self.job.try_lock().is_err()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        lock(&self.state).defined.is_some()
    }

    pub(crate) fn state_and_reason(&self) -> DomainState {
        let status = lock(&self.state);
        match &status.running {
            Some(running) => control::state_and_reason(running),
            None if status.starting => control::STARTING,
            None => DomainState {
                state: SHUT_OFF,
                reason: status.stopped as i32,
            },
        }
    }

    pub(crate) fn info(&self) -> DomainInfo {
        let state = self.state_and_reason().state.cast_unsigned();
        let status = lock(&self.state);
        let cpu_time = status
            .running
            .as_ref()
            .map_or(0, |running| control::cpu_time(&running.guest));
        let domain = status.domain();
        domain.map_or(
            DomainInfo {
                state,
                max_mem: 0,
                memory: 0,
                nr_virt_cpu: 0,
                cpu_time,
            },
            |domain| DomainInfo {
                state,
                max_mem: domain.memory_kib,
                memory: domain.current_memory_kib,
                nr_virt_cpu: domain.current_vcpus.unwrap_or(domain.vcpus),
                cpu_time,
            },
        )
    }

    pub(crate) fn vcpus(&self, flags: Vcpus) -> i32 {
        let status = lock(&self.state);
        let domain = status.domain();
        let count = domain.map_or(0, |domain| {
            if flags.contains(Vcpus::MAXIMUM) {
                domain.vcpus
            } else {
                domain.current_vcpus.unwrap_or(domain.vcpus)
            }
        });
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    fn not_running(&self) -> Error {
        fault::invalid(DOMAIN, "domain is not running")
    }
}

/// Guests, running or not.
impl Daemon {
    /// The guest that a client means.
    pub(crate) fn domain(&self, dom: &Dom) -> Result<Arc<DomainObject>> {
        self.domains.by_uuid(dom.uuid).ok_or_else(|| {
            let detail = format!("no domain with matching uuid '{}' ({})", dom.uuid, dom.name);
            Error::new(Code::NoDomain, QEMU, detail)
        })
    }

    pub(crate) fn domain_by_uuid(&self, uuid: Uuid) -> Result<Arc<DomainObject>> {
        self.domains.by_uuid(uuid).ok_or_else(|| {
            let detail = format!("no domain with matching uuid '{uuid}'");
            Error::new(Code::NoDomain, QEMU, detail)
        })
    }

    pub(crate) fn domain_by_name(&self, name: &str) -> Result<Arc<DomainObject>> {
        self.domains.by_name(name).ok_or_else(|| {
            let detail = format!("no domain with matching name '{name}'");
            Error::new(Code::NoDomain, QEMU, detail)
        })
    }

    pub(crate) fn domain_by_id(&self, id: i32) -> Result<Arc<DomainObject>> {
        let running = |object: &Arc<DomainObject>| object.dom().id == id;
        self.domains
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
    pub(crate) async fn define_domain(self: &Arc<Self>, xml: &str, strict: bool) -> Result<Dom> {
        let daemon = Arc::clone(self);
        let xml = xml.to_owned();
        // Synced to the disk, which takes its time.
        let kept = tokio::task::spawn_blocking(move || {
            let domain = daemon.read_domain(&xml)?;
            if strict {
                fault::all_read(QEMU, &xml)?;
            }
            let mut change = DomainChange::DefinedAdded;
            let object = daemon.with_domain(&domain, |_, status| {
                daemon
                    .domain_store
                    .write(&domain.name, &domain.to_xml(Form::Inactive))
                    .map_err(fault::file(
                        QEMU,
                        format!("can't keep guest '{}'", domain.name),
                    ))?;
                if status.defined.replace(domain.clone()).is_some() {
                    change = DomainChange::DefinedUpdated;
                }
                Ok(())
            })?;
            daemon.warn_of_groups(&domain);
            daemon.tell_domain(&object, change);
            Ok(object.dom())
        });
        kept.await
            .map_err(|_| Error::new(Code::InternalError, QEMU, "keeping the guest failed"))?
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

    /// Forgets the definition. A running guest goes on until it stops.
    pub(crate) fn undefine_domain(&self, object: &Arc<DomainObject>) -> Result<()> {
        let mut status = lock(&object.state);
        if status.defined.is_none() {
            return Err(fault::invalid(QEMU, "cannot undefine transient domain"));
        }
        self.domain_store.remove(&object.name).map_err(fault::file(
            QEMU,
            format!("can't forget guest '{}'", object.name),
        ))?;
        status.defined = None;
        self.forget_domain_if_unused(object, &mut status);
        drop(status);
        self.tell_domain(object, DomainChange::UndefinedRemoved);
        Ok(())
    }

    pub(crate) fn domain_autostart(&self, object: &DomainObject) -> bool {
        object.is_persistent() && self.domain_store.autostart(&object.name)
    }

    pub(crate) fn set_domain_autostart(&self, object: &DomainObject, wanted: bool) -> Result<()> {
        if !object.is_persistent() {
            return Err(fault::invalid(
                QEMU,
                "cannot set autostart for transient domain",
            ));
        }
        self.domain_store
            .set_autostart(&object.name, wanted)
            .map_err(fault::file(
                QEMU,
                format!("can't mark guest '{}'", object.name),
            ))
    }

    /// The document of a guest, in the form that is asked for.
    pub(crate) fn domain_xml(&self, object: &DomainObject, flags: DomainXml) -> String {
        let status = lock(&object.state);
        let form = if flags.contains(DomainXml::MIGRATABLE) {
            Form::Migratable
        } else if flags.contains(DomainXml::INACTIVE) {
            Form::Inactive
        } else {
            Form::Live
        };
        match (&status.running, &status.defined) {
            (Some(running), _) if form == Form::Live => running.domain.to_xml(Form::Live),
            (Some(running), None) => running.domain.to_xml(form),
            (_, Some(defined)) => defined.to_xml(form),
            (None, None) => String::new(),
        }
    }

    /// Reads the definitions that are not known yet.
    pub(crate) fn load_domains(&self) -> std::io::Result<()> {
        for found in self.domain_store.load()? {
            match found {
                Ok(found) => {
                    if let Err(error) = self.load_domain(&found) {
                        let file = found.path.display();
                        tracing::error!(%file, error, "a definition is left out");
                    }
                }
                Err(error) => tracing::error!("{}", fault::chain(&error)),
            }
        }
        Ok(())
    }

    fn load_domain(&self, found: &Found) -> std::result::Result<(), String> {
        let domain = self
            .read_domain(&found.text)
            .map_err(|error| error.to_string())?;
        self.domain_store
            .check_name(found, &domain.name)
            .map_err(|error| error.to_string())?;
        let known = self.with_domain(&domain, |_, status| {
            if status.defined.is_none() {
                self.domain_store
                    .take_in(found, &domain.name, &domain.to_xml(Form::Inactive))
                    .map_err(fault::file(
                        QEMU,
                        format!("can't keep guest '{}'", domain.name),
                    ))?;
                status.defined = Some(domain.clone());
            }
            Ok(())
        });
        known.map(drop).map_err(|error| error.to_string())
    }

    /// Takes up a guest that an earlier daemon started.
    pub(crate) fn take_up_guest(
        self: &Arc<Self>,
        record: DomainRecord,
        guest: qemu::Guest,
        events: qemu::GuestEvents,
    ) {
        let domain = match conf::Domain::parse_status(&record.xml) {
            Ok(domain) => domain,
            Err(error) => {
                tracing::error!(guest = record.name, %error, "its record can't be read");
                return;
            }
        };
        self.seen_domain_id(record.id);
        let known = self.with_domain(&domain, |_, status| {
            status.running = Some(Running {
                id: record.id,
                domain: domain.clone(),
                guest: guest.clone(),
                borrowed: start::Borrowed {
                    ports: record.ports.clone(),
                    lent: record.lent.clone(),
                },
                resumed: record.resumed,
                autodestroy: None,
            });
            Ok(())
        });
        match known {
            Ok(object) => self.watch_guest(&object, record.id, events, false),
            Err(error) => tracing::error!(guest = record.name, %error, "runs, and is not known"),
        }
    }

    /// Does something to the guest of that name and uuid, new or known. What is neither defined nor
    /// running nor about to be is forgotten.
    fn with_domain<R>(
        &self,
        domain: &conf::Domain,
        mut change: impl FnMut(&Arc<DomainObject>, &mut DomainStatus) -> Result<R>,
    ) -> Result<Arc<DomainObject>> {
        let conf::Domain { name, uuid, .. } = domain;
        loop {
            let object = self
                .domains
                .get_or_insert(name, *uuid, || DomainObject::new(domain));
            let object = object.map_err(|clash| {
                let detail = match clash {
                    Clash::Name(other) => {
                        format!("domain '{name}' already exists with uuid {other}")
                    }
                    Clash::Uuid(other) => {
                        format!("domain '{other}' is already defined with uuid {uuid}")
                    }
                };
                Error::new(Code::OperationFailed, QEMU, detail)
            })?;
            let mut status = lock(&object.state);
            if status.forgotten {
                continue;
            }
            let changed = change(&object, &mut status);
            self.forget_domain_if_unused(&object, &mut status);
            drop(status);
            return changed.map(|_| object);
        }
    }

    fn forget_domain_if_unused(&self, object: &Arc<DomainObject>, status: &mut DomainStatus) {
        if status.defined.is_none() && status.running.is_none() && !status.starting {
            self.domains.remove(object);
            status.forgotten = true;
        }
    }

    fn tell_domain(&self, object: &DomainObject, change: DomainChange) {
        self.events.tell(DomainLifecycle {
            dom: object.dom(),
            change,
        });
    }

    /// A document as a user gave it, filled in as libvirt would. Blocks: it may look at the host.
    fn read_domain(&self, xml: &str) -> Result<conf::Domain> {
        let mut domain = conf::Domain::parse(xml).map_err(fault::document(QEMU))?;
        let lends = |network: &str| Some(self.networks.by_name(network)?.lends_host_devices());
        domain.fill_defaults_with(&lends);
        domain.os.machine = self.machine(&domain.os.machine).to_owned();
        domain.validate().map_err(fault::document(QEMU))?;
        // A device that is not there (yet) is taken for PCI Express, as nearly all are.
        let is_express = |address| {
            self.host
                .pci_device(address)
                .map_or(true, |device| device.is_express)
        };
        domain
            .assign_addresses(&is_express)
            .map_err(fault::document(QEMU))?;
        domain.assign_usb_addresses();
        Ok(domain)
    }
}
