//! Where `pool` chooses and `assign` lends: one lock over choosing and claiming, so that a device is
//! never promised twice.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use assign::{
    Assigner, Assignment, Claim, DeviceId, ErrorKind, Generation, OpenError, Origin, Owner, Phase,
    Preparation, PrepareError, ReturnError, VfioUser,
};
use conf::{Forward, Network, NetworkPort, PciAddress, Plug, PoolMembers, Uuid};
use host::{HostError, PhysicalFunction, SharedHost, VirtualFunction};
use pool::{Health, Holder, Members, NetworkSpec, PfInfo, Pool, Request, VfInfo};
use rpc::{Code, Domain, Error};
use tokio::task::block_in_place;

use crate::fault::{self, Result};
use crate::sync::lock;

/// Chooses, claims, lends and takes back.
pub(crate) struct Lender {
    host: SharedHost,
    assigner: Arc<Assigner>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pool: Pool,
    /// The PFs of each running network.
    networks: HashMap<String, Vec<PciAddress>>,
    /// The PFs of all networks that ran so far, as they were last seen.
    pfs: HashMap<PciAddress, PhysicalFunction>,
    /// The VFs of those PFs, as they were last seen.
    vfs: HashMap<PciAddress, VirtualFunction>,
    /// Claims that nothing was done with yet.
    claims: HashMap<Generation, Claim>,
}

/// Who borrows, and by what.
#[derive(Debug, Clone)]
pub(crate) struct Borrower {
    pub(crate) owner: Owner,
    pub(crate) origin: Origin,
}

/// A claim on a device that a network chose.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) plug: Plug,
    pub(crate) claim: Generation,
}

/// A device was not lent.
#[derive(Debug)]
pub(crate) struct NotLent {
    pub(crate) error: Error,
    /// Another device of the pool may do; this one's fault, in words.
    pub(crate) try_another: Option<String>,
}

impl Borrower {
    /// The owner of a port.
    pub(crate) fn port(network: &Network, port: &NetworkPort) -> Self {
        Self {
            owner: Owner {
                guest: port.owner_uuid,
                name: port.owner_name.clone(),
                network: Some(network.name.clone()),
                port: Some(port.uuid),
                mac: Some(port.mac),
                alias: None,
            },
            origin: Origin::PoolPort,
        }
    }

    fn holder(&self) -> Holder {
        Holder {
            guest: self.owner.name.clone(),
            network: self.owner.network.clone(),
            mac: self.owner.mac,
        }
    }
}

impl fmt::Debug for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lender")
            .field("assigner", &self.assigner)
            .finish_non_exhaustive()
    }
}

impl Lender {
    /// Opens the journal in that directory, and knows again what is lent.
    pub(crate) fn open(
        host: SharedHost,
        journal: PathBuf,
        vfio_user: Option<VfioUser>,
    ) -> std::result::Result<Self, OpenError> {
        let (assigner, recovery) = Assigner::open(Arc::clone(&host), journal, vfio_user)?;
        for finding in &recovery.findings {
            tracing::warn!("{}", fault::chain(finding));
        }
        Ok(Self {
            host,
            assigner: Arc::new(assigner),
            state: Mutex::default(),
        })
    }

    /// Once it is known which guests run: theirs stay lent, everything else is given back.
    pub(crate) async fn recover(&self, runs: impl Fn(Uuid) -> bool + Send + 'static) {
        let assigner = Arc::clone(&self.assigner);
        let recovered = tokio::task::spawn_blocking(move || assigner.recover(runs));
        for finding in recovered.await.unwrap_or_default() {
            tracing::warn!("{}", fault::chain(&finding));
        }
        let mut state = lock(&self.state);
        for assignment in self.assigner.list() {
            let DeviceId::Pci(address) = assignment.device;
            let borrower = Borrower {
                owner: assignment.owner,
                origin: assignment.origin,
            };
            // A fresh pool has lent nothing, so nothing clashes.
            let _ = state.pool.claim(address, borrower.holder());
        }
        for (device, reason) in self.assigner.barred() {
            let DeviceId::Pci(address) = device;
            state.pool.withhold(address, reason);
        }
    }

    /// Makes a network's devices known, and lends them from now on. Blocks while sysfs is read.
    pub(crate) fn open_pool(&self, network: &Network, forward: &Forward) -> Result<()> {
        let internal = |error: HostError| {
            let detail = format!("network '{}': {}", network.name, fault::chain(&error));
            Error::new(Code::InternalError, Domain::Network, detail)
        };
        let mut pfs = Vec::new();
        let members = match &forward.members {
            PoolMembers::PhysicalFunctions(names) => {
                for name in names {
                    pfs.push(self.host.physical_function(name).map_err(internal)?);
                }
                if pfs.iter().all(|pf| pf.vf_count == 0) {
                    return Err(no_vfs(&network.name, &pfs));
                }
                Members::PhysicalFunctions(pfs.iter().map(|pf| pf.address).collect())
            }
            PoolMembers::Addresses(addresses) => {
                for address in addresses {
                    let vf = self
                        .host
                        .virtual_function(*address)
                        .map_err(fault::host(Domain::Network))?;
                    if !pfs
                        .iter()
                        .any(|pf: &PhysicalFunction| pf.address == vf.pf_address)
                    {
                        pfs.push(
                            self.host
                                .physical_function(&vf.pf_netdev)
                                .map_err(internal)?,
                        );
                    }
                }
                Members::Addresses(addresses.clone())
            }
            PoolMembers::None | PoolMembers::Interfaces(_) => {
                let detail = format!("network '{}' names no PF and no PCI address", network.name);
                return Err(Error::new(Code::ConfigUnsupported, Domain::Network, detail));
            }
        };
        for pf in &pfs {
            self.look_at(pf).map_err(internal)?;
        }
        let spec = NetworkSpec {
            members,
            spread: network.extension.spread,
            numa: network.extension.numa,
            needs_carrier: false,
        };
        let mut state = lock(&self.state);
        state.pool.set_network(&network.name, spec);
        let addresses = pfs.iter().map(|pf| pf.address).collect();
        state.networks.insert(network.name.clone(), addresses);
        state.pfs.extend(pfs.into_iter().map(|pf| (pf.address, pf)));
        Ok(())
    }

    /// A network lends no more. What it lent stays lent.
    pub(crate) fn close_pool(&self, network: &str) {
        let mut state = lock(&self.state);
        state.pool.remove_network(network);
        state.networks.remove(network);
    }

    /// The VFs of a running network's PFs, in the order of these.
    pub(crate) fn members(&self, network: &str) -> Vec<PciAddress> {
        let state = lock(&self.state);
        let pfs = state.networks.get(network).into_iter().flatten();
        pfs.flat_map(|pf| state.pool.vfs_of(*pf))
            .map(|vf| vf.address)
            .collect()
    }

    /// Chooses a device of a network and claims it. One that the host itself uses is passed over,
    /// as are those of `excluded`, with what is wrong with each.
    pub(crate) async fn choose(
        &self,
        network: &Network,
        borrower: &Borrower,
        mut excluded: BTreeMap<PciAddress, String>,
    ) -> Result<Chosen> {
        loop {
            let (address, claim) = self.choose_once(network, borrower, &excluded)?;
            match self.usage(address) {
                Ok(usage) if usage.is_empty() => {
                    let forward = network.forward.as_ref();
                    let plug = Plug::HostdevPci {
                        managed: forward.is_some_and(|forward| forward.managed),
                        driver: forward.and_then(|forward| forward.driver.clone()),
                        address,
                    };
                    return Ok(Chosen { plug, claim });
                }
                Ok(usage) => {
                    self.drop_claim(claim);
                    excluded.insert(address, usage);
                }
                Err(error) => {
                    self.drop_claim(claim);
                    excluded.insert(address, error);
                }
            }
        }
    }

    fn choose_once(
        &self,
        network: &Network,
        borrower: &Borrower,
        excluded: &BTreeMap<PciAddress, String>,
    ) -> Result<(PciAddress, Generation)> {
        let mut state = lock(&self.state);
        let request = Request {
            network: &network.name,
            guest: &borrower.owner.name,
            mac: borrower.owner.mac,
            numa_nodes: &[],
            exclude: excluded,
        };
        let choice = state.pool.choose(&request).map_err(|refusal| {
            let detail = format!("{refusal}\n{}", refusal.advice());
            Error::new(Code::InternalError, Domain::Network, detail)
        })?;
        let claim = self.claim_in(&mut state, choice.device, borrower)?;
        Ok((choice.device, claim))
    }

    /// Claims that very device.
    pub(crate) fn claim(&self, address: PciAddress, borrower: &Borrower) -> Result<Generation> {
        self.claim_in(&mut lock(&self.state), address, borrower)
    }

    fn claim_in(
        &self,
        state: &mut State,
        address: PciAddress,
        borrower: &Borrower,
    ) -> Result<Generation> {
        let claim = self
            .assigner
            .claim(address.into(), borrower.owner.clone(), borrower.origin)
            .map_err(|error| fault::invalid(Domain::Qemu, error.to_string()))?;
        let generation = claim.generation();
        // `assign` has just said that nobody else has it.
        let _ = state.pool.claim(address, borrower.holder());
        state.claims.insert(generation, claim);
        Ok(generation)
    }

    /// The claim of a port that an earlier daemon made: the one that its device is still lent
    /// under, or a new one.
    pub(crate) fn reclaim(&self, address: PciAddress, borrower: &Borrower) -> Result<Generation> {
        let known = self.assigner.find(address.into());
        match known.filter(|known| known.owner.port == borrower.owner.port) {
            Some(known) => Ok(known.generation),
            None => self.claim(address, borrower),
        }
    }

    /// Ends a claim that nothing was done with. A device that is lent stays so.
    pub(crate) fn drop_claim(&self, generation: Generation) {
        let mut state = lock(&self.state);
        let Some(claim) = state.claims.remove(&generation) else {
            return;
        };
        let DeviceId::Pci(address) = claim.device();
        // Only claimed, so there is nothing that could fail on the way back.
        if self.assigner.give_back(generation).is_ok() {
            state.pool.release(address);
        }
    }

    /// Prepares a claimed device for its guest.
    pub(crate) async fn prepare(
        &self,
        generation: Generation,
        preparation: Preparation,
    ) -> std::result::Result<(), NotLent> {
        let Some(claim) = lock(&self.state).claims.remove(&generation) else {
            let detail = format!("the claim {generation} is not good any more");
            let error = Error::new(Code::InternalError, Domain::Qemu, detail);
            return Err(NotLent {
                error,
                try_another: None,
            });
        };
        let DeviceId::Pci(address) = claim.device();
        let assigner = Arc::clone(&self.assigner);
        let prepared = tokio::task::spawn_blocking(move || assigner.prepare(claim, &preparation));
        let error = match prepared.await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                let detail = format!("preparing {address} broke off; the log says why");
                let error = Error::new(Code::InternalError, Domain::Qemu, detail);
                return Err(NotLent {
                    error,
                    try_another: None,
                });
            }
        };
        self.settle(address);
        Err(NotLent {
            try_another: error
                .is_about_this_device()
                .then(|| error.obstacle.to_string()),
            error: prepare_error(&error),
        })
    }

    /// Takes a device back from its guest, whose process is gone.
    pub(crate) async fn give_back(
        &self,
        generation: Generation,
    ) -> std::result::Result<(), String> {
        lock(&self.state).claims.remove(&generation);
        let assigner = Arc::clone(&self.assigner);
        let returned = tokio::task::spawn_blocking(move || assigner.give_back(generation)).await;
        match returned {
            Ok(Ok(returned)) => {
                let DeviceId::Pci(address) = returned.device;
                self.settle(address);
                Ok(())
            }
            // Given back before, by whoever undid a failed start.
            Ok(Err(ReturnError::Superseded(_))) => Ok(()),
            Ok(Err(error)) => {
                if let ReturnError::Dirty {
                    device: DeviceId::Pci(address),
                    ..
                } = &error
                {
                    self.settle(*address);
                }
                Err(fault::chain(&error))
            }
            Err(_) => Err(format!(
                "giving {generation} back broke off; the log says why"
            )),
        }
    }

    /// Makes the pool agree with the list about one device.
    fn settle(&self, address: PciAddress) {
        let mut state = lock(&self.state);
        let pool = &mut state.pool;
        pool.release(address);
        pool.readmit(address);
        match self.assigner.find(address.into()) {
            None => {}
            Some(Assignment {
                phase: Phase::Dirty(reasons),
                ..
            }) => {
                pool.withhold(address, reasons.join("; "));
            }
            // Another has it already.
            Some(Assignment { owner, origin, .. }) => {
                let _ = pool.claim(address, Borrower { owner, origin }.holder());
            }
        }
    }

    /// All devices on the list.
    pub(crate) fn list(&self) -> Vec<Assignment> {
        self.assigner.list()
    }

    /// The PF that a VF of a network belongs to, and its number there.
    pub(crate) fn place_of(&self, address: PciAddress) -> Option<(String, u16)> {
        let state = lock(&self.state);
        let (pf_address, number) = state.pool.vf(address)?;
        let pf = state.pfs.get(&pf_address)?;
        Some((pf.netdev.clone(), number))
    }

    /// How many devices are with guests.
    pub(crate) fn lent_count(&self) -> usize {
        self.list()
            .iter()
            .filter(|line| line.phase == Phase::Lent)
            .count()
    }

    /// Whether a claim's device is with its guest, or on its way there or back.
    pub(crate) fn is_in_use(&self, generation: Generation) -> bool {
        self.assigner
            .find_generation(generation)
            .is_some_and(|line| line.phase != Phase::Claimed)
    }

    /// Keeps the pool up to date with the host, until the host says no more. Blocks.
    pub(crate) fn follow(&self, mut events: Box<dyn host::HostEvents>) {
        use host::HostEvent as E;
        while let Some(event) = events.next() {
            let mut pfs: Vec<PhysicalFunction> = lock(&self.state).pfs.values().cloned().collect();
            match &event {
                E::LinkChanged { ifindex, netdev } => {
                    pfs.retain(|pf| pf.ifindex == *ifindex || pf.netdev == *netdev);
                    for pf in &mut pfs {
                        self.look_again(pf, netdev);
                    }
                }
                E::PciAdded(_) | E::PciRemoved(_) | E::Lost => {}
                E::PciDriverChanged(_) => continue,
            }
            for pf in pfs {
                if let Err(error) = self.look_at(&pf) {
                    tracing::debug!(
                        pf = pf.netdev,
                        error = fault::chain(&error),
                        "not looked at"
                    );
                }
            }
        }
    }

    /// A PF's network device was renamed, or is another one since its driver was loaded anew.
    fn look_again(&self, pf: &mut PhysicalFunction, netdev: &str) {
        match self.host.physical_function(netdev) {
            Ok(now) if now.address == pf.address => {
                *pf = now.clone();
                lock(&self.state).pfs.insert(now.address, now);
            }
            // Gone, or another card's: looking at it tells.
            _ => {}
        }
    }

    /// Tells the pool what a PF has now. Asks the kernel, so no lock is held meanwhile.
    fn look_at(&self, pf: &PhysicalFunction) -> std::result::Result<(), HostError> {
        let link = match self.host.pf_link(pf) {
            Err(HostError::NoNetdev(_) | HostError::NoPciDevice(_)) => {
                let update = lock(&self.state).pool.remove_pf(pf.address);
                self.tell_vanished(&pf.netdev, &update.vanished_while_lent);
                return Ok(());
            }
            link => link?,
        };
        let vfs = self.host.virtual_functions(pf)?;
        let info = PfInfo {
            address: pf.address,
            netdev: pf.netdev.clone(),
            numa_node: pf.numa_node,
            max_vfs: pf.max_vfs,
            health: Health {
                up: link.up,
                carrier: link.carrier,
            },
        };
        let of_pool: Vec<_> = vfs
            .iter()
            .map(|vf| VfInfo {
                address: vf.address,
                number: vf.number,
            })
            .collect();
        let update = {
            let mut state = lock(&self.state);
            state.vfs.extend(vfs.into_iter().map(|vf| (vf.address, vf)));
            state.pool.set_pf(&info, &of_pool)
        };
        self.tell_vanished(&pf.netdev, &update.vanished_while_lent);
        Ok(())
    }

    fn tell_vanished(&self, pf: &str, vanished: &[(PciAddress, Holder)]) {
        for (address, holder) in vanished {
            tracing::error!(%address, pf, guest = holder.guest, "a lent VF vanished");
        }
    }

    /// What uses a VF on the host, in words; empty: nothing.
    fn usage(&self, address: PciAddress) -> std::result::Result<String, String> {
        let known = lock(&self.state).vfs.get(&address).cloned();
        // The common case, spared a change of threads, which would take as long as all the rest.
        if known.as_ref().is_some_and(|vf| self.host.vf_is_idle(vf)) {
            return Ok(String::new());
        }
        let asked = block_in_place(|| match known {
            Some(vf) => self.host.vf_usage(&vf),
            None => self.host.vf_usage(&self.host.virtual_function(address)?),
        });
        let usage = asked.map_err(|error: HostError| fault::chain(&error))?;
        let words: Vec<_> = usage.iter().map(assign::describe_usage).collect();
        Ok(words.join("; "))
    }
}

fn no_vfs(network: &str, pfs: &[PhysicalFunction]) -> Error {
    let pf = pfs.first().map_or("", |pf| pf.netdev.as_str());
    let names: Vec<_> = pfs.iter().map(|pf| format!("'{}'", pf.netdev)).collect();
    let detail = format!(
        "network '{network}': {} has no VFs\nMake some: echo 4 > /sys/class/net/{pf}/device/sriov_numvfs",
        names.join(" and ")
    );
    Error::new(Code::InternalError, Domain::Network, detail)
}

fn prepare_error(error: &PrepareError) -> Error {
    let mut detail = fault::chain(error);
    if let Some(advice) = error.obstacle.advice() {
        detail.push('\n');
        detail.push_str(&advice);
    }
    match error.kind() {
        ErrorKind::ConfigUnsupported => Error::new(Code::ConfigUnsupported, Domain::Qemu, detail),
        ErrorKind::OperationInvalid => Error::new(Code::OperationInvalid, Domain::Qemu, detail),
        // The chain ends with the kernel's own words already.
        ErrorKind::System(_) => Error::new(Code::SystemError, Domain::Qemu, detail),
        ErrorKind::Internal => Error::new(Code::InternalError, Domain::Qemu, detail),
    }
}
