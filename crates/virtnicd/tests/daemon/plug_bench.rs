//! A host on which guests plug and unplug, and what has to be so whenever all is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conf::PciAddress;
use host::{Host as _, Snapshot};
use qemu::{Faults, SimulatedGuest};
use rpc::client::CallError;
use rpc::*;
use virtnicd::Virtnicd;

use crate::harness::*;
use crate::in_process::Site;
use crate::updates::{running, sharing};

/// Two PFs with three VFs each: too few for all that is asked.
pub(crate) const NARROW: &str = "pfs=2,vfs=6";
pub(crate) const PFS: [&str; 2] = ["sim0", "sim1"];

/// Numbers that are always the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of so many, from 0 on.
    pub(crate) fn roll(&mut self, faces: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % u64::try_from(faces).unwrap()).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

/// What is plugged in: each with the MAC of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A VF of a network.
    Vf,
    /// A macvtap of a network.
    Macvtap,
    /// A VF by its address.
    HostDevice(PciAddress),
    /// A failover pair over a PF.
    PairOverPf,
    /// A failover pair of a network, which goes without a VF if there is none.
    Pair,
    /// The same, which the guest bonds.
    Bond,
}

impl What {
    pub(crate) fn xml(self, mac: &str) -> String {
        let on = |network: &str| {
            format!(
                "<interface type='network'><mac address='{mac}'/><source network='{network}'/>\
                 <model type='virtio'/></interface>"
            )
        };
        match self {
            Self::Vf => on("vfs").replace("<model type='virtio'/>", ""),
            Self::Macvtap => on("shared"),
            Self::Pair => on("pairs").replace("<model type='virtio'/>", ""),
            Self::Bond => on("bonds").replace("<model type='virtio'/>", ""),
            Self::PairOverPf => format!(
                "<interface type='hostdev-hybrid'><mac address='{mac}'/><source dev='sim1'/>\
                 </interface>"
            ),
            Self::HostDevice(address) => format!(
                "<hostdev mode='subsystem' type='pci' managed='yes'><source><address \
                 domain='0x{:04x}' bus='0x{:02x}' slot='0x{:02x}' function='0x{:x}'/></source>\
                 </hostdev>",
                address.domain(),
                address.bus(),
                address.slot(),
                address.function()
            ),
        }
    }
}

/// The bench.
pub(crate) struct Bench {
    pub(crate) site: Site,
    pub(crate) daemon: Option<Virtnicd>,
    pub(crate) client: Client,
    pub(crate) doms: Vec<Dom>,
    nets: Vec<Net>,
    /// Before anything was done.
    before: Snapshot,
    /// The VFs of each PF.
    pub(crate) vfs: BTreeMap<PciAddress, Vec<PciAddress>>,
    pub(crate) drained: BTreeSet<&'static str>,
}

impl Bench {
    /// With that many guests, which have nothing but free ports, and run.
    pub(crate) async fn new(shape: &str, guests: usize) -> Self {
        let site = Site::on(shape);
        let before = site.simulation.host.snapshot();
        let host = site.simulation.host.clone();
        let vfs = PFS.map(|pf| {
            let pf = host.physical_function(pf).unwrap();
            let vfs = host.virtual_functions(&pf).unwrap();
            let vfs = vfs.iter().map(|vf| vf.address).collect();
            (pf.address, vfs)
        });
        // A QEMU opens only what is bound for it.
        let opens = host.clone();
        site.simulation.guests.set_opening_rule(move |_, device| {
            let snapshot = opens.snapshot();
            let driver = snapshot
                .devices
                .get(&device)
                .and_then(|one| one.driver.clone());
            match driver.as_deref() {
                Some("vfio-pci") => Ok(()),
                driver => Err(format!("no vfio group: its driver is {driver:?}")),
            }
        });
        // And the kernel takes nothing away that is open.
        let opened = host.clone();
        let processes = &site.simulation.guests;
        processes.set_open_listener(move |device, is_open| opened.hold_vfio(device, is_open));
        let daemon = site.start().await;
        let client = site.root.client().await;
        let mut nets = vec![client.running_network("vfs", "sim0").await];
        nets.push(running(&client, &sharing("shared", &["sim0"])).await);
        for (name, settings) in [
            ("pairs", "fallback='virtio'"),
            ("bonds", "guest='bond' fallback='virtio'"),
        ] {
            let xml = format!(
                "<network xmlns:virtnic='urn:virtnic:1'><name>{name}</name>\
                 <forward mode='hostdev-hybrid' managed='yes'><pf dev='sim0'/><pf dev='sim1'/>\
                 </forward><virtnic:hybrid {settings}/></network>"
            );
            nets.push(running(&client, &xml).await);
        }
        let mut doms = Vec::new();
        for number in 0..guests {
            let dom = client.define_guest(&bare(number)).await;
            doms.push(client.start(&dom).await);
        }
        Self {
            site,
            daemon: Some(daemon),
            client,
            doms,
            nets,
            before,
            vfs: vfs.into_iter().collect(),
            drained: BTreeSet::new(),
        }
    }

    pub(crate) fn guest(&self, number: usize) -> Option<SimulatedGuest> {
        self.site.simulation.guests.guest(self.doms[number].uuid)
    }

    pub(crate) fn all_vfs(&self) -> Vec<PciAddress> {
        self.vfs.values().flatten().copied().collect()
    }

    /// The next daemon.
    pub(crate) async fn restart(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop().await;
        }
        self.daemon = Some(self.site.start_when_free().await);
        self.client = self.site.root.client().await;
    }

    /// Nothing fails any more, and guests let go what they were asked for.
    pub(crate) fn heal(&self) {
        self.site.simulation.host.heal();
        for number in 0..self.doms.len() {
            if let Some(guest) = self.guest(number) {
                guest.set_faults(Faults::default());
                for alias in guest.devices() {
                    guest.release(&alias);
                }
            }
        }
    }

    /// Waits until all is consistent.
    pub(crate) async fn is_consistent(&self, when: &str) {
        let mut found = String::new();
        let until = std::time::Instant::now() + PATIENCE / 2;
        while std::time::Instant::now() < until {
            match self.consistent().await {
                Ok(()) => return,
                Err(differs) => found = differs,
            }
            tokio::task::yield_now().await;
        }
        let who = self.client.who().await;
        let dump = self.dumps().await;
        let who: Vec<_> = who.iter().map(in_short).collect();
        panic!("{when}\n{dump}\n{}\n{found}", who.join("\n"));
    }

    async fn dumps(&self) -> String {
        let mut dumps = String::new();
        for (number, dom) in self.doms.iter().enumerate() {
            if let Some(guest) = self.guest(number) {
                dumps += &format!(
                    "{}: {:?} {:?}\n",
                    dom.name,
                    guest.devices(),
                    guest.open_devices()
                );
                let shown = self.client.guest_dump(dom, 0).await;
                let devices = shown.find("<interface").map_or("", |at| &shown[at..]);
                dumps += devices.split("<input").next().unwrap_or_default();
                for one in self.record_of(dom).as_array().into_iter().flatten() {
                    dumps += &format!("{one}\n");
                }
            }
        }
        dumps
    }

    /// What the guest's record says that it has.
    pub(crate) fn record_of(&self, dom: &Dom) -> serde_json::Value {
        let path = format!("run/virtnic/domains/{}.json", dom.uuid);
        let text = std::fs::read(self.site.root.path(&path)).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        record["attachments"].clone()
    }

    /// Whether what QEMU has, what documents show, what is lent and what is bound are the same.
    pub(crate) async fn consistent(&self) -> Result<(), String> {
        let host = self.site.simulation.host.snapshot();
        let mut who = self.client.who().await;
        // Halves of pairs without a VF have nothing of the host; what is reserved is claimed for one.
        who.retain(|row| !["owed", "parted"].contains(&&*row.state));
        for row in who.iter_mut().filter(|row| row.state == "reserved") {
            "claimed".clone_into(&mut row.state);
        }
        let mut lent = BTreeMap::new();
        for row in &who {
            if !["lent", "claimed", "pending"].contains(&&*row.state) {
                return Err(format!("{row:?} is not at rest"));
            }
            if row.kind == LentKind::Hostdev
                && let Some(other) = lent.insert(row.pci_address.clone().unwrap(), row)
            {
                return Err(format!("lent twice: {row:?} {other:?}"));
            }
        }
        for (address, device) in &host.devices {
            let is_lent = lent
                .get(&address.to_string())
                .is_some_and(|row| row.state != "claimed");
            if device.driver.as_deref() == Some("vfio-pci") && !is_lent {
                return Err(format!("{address} is bound, and nobody has it"));
            }
        }
        let is_link = |name: &&String| name.starts_with("macvtap");
        let links: BTreeSet<_> = host.netdevs.keys().filter(is_link).cloned().collect();
        let told: BTreeSet<_> = who
            .iter()
            .filter_map(|row| row.host_netdev.clone())
            .collect();
        if links != told {
            return Err(format!("links {links:?}, told {told:?}"));
        }
        let mut running = 0;
        let mut rows = 0;
        for (number, dom) in self.doms.iter().enumerate() {
            let its: Vec<_> = (who.iter().filter(|row| row.guest_uuid == Some(dom.uuid))).collect();
            rows += its.len();
            match self.guest(number) {
                Some(guest) => {
                    running += 1;
                    let checked = self.guest_is_consistent(dom, &guest, &its, &who).await;
                    checked.map_err(|text| format!("{}: {text}", dom.name))?;
                }
                None if its.is_empty() => {}
                None => return Err(format!("{} is gone, and has {its:?}", dom.name)),
            }
        }
        if rows != who.len() {
            return Err("something is nobody's".to_owned());
        }
        if self.site.root.records("domains") != running {
            return Err("records of guests that do not run, or none of one that does".to_owned());
        }
        let ports = self.ports().await;
        let of_rows: BTreeSet<_> = who
            .iter()
            .map(|row| row.port)
            .filter(|port| !port.is_nil())
            .collect();
        if ports != of_rows {
            return Err(format!("ports {ports:?}, of what is lent {of_rows:?}"));
        }
        let records = self.site.root.records("devices");
        let at_work = who.iter().filter(|row| row.state != "claimed").count();
        if records != at_work {
            return Err(format!("{records} records of {at_work} devices"));
        }
        Ok(())
    }

    async fn ports(&self) -> BTreeSet<uuid::Uuid> {
        let mut ports = BTreeSet::new();
        for net in &self.nets {
            ports.extend(
                self.client
                    .ports(net)
                    .await
                    .into_iter()
                    .map(|port| port.uuid),
            );
        }
        ports
    }

    async fn guest_is_consistent(
        &self,
        dom: &Dom,
        guest: &SimulatedGuest,
        its: &[&Lent],
        who: &[Lent],
    ) -> Result<(), String> {
        let ask = DomainGetXmlDesc {
            dom: dom.clone(),
            flags: Default::default(),
        };
        let xml = self
            .client
            .rpc
            .call(&ask)
            .await
            .map_err(|error| error.to_string())?;
        let document = conf::Domain::parse_status(&xml).map_err(|error| error.to_string())?;
        let is_ours = |alias: &String| {
            ["net", "hostdev", "ua-"]
                .iter()
                .any(|prefix| alias.starts_with(prefix))
        };
        let in_qemu: BTreeSet<_> = guest.devices().into_iter().filter(is_ours).collect();
        let devices = &document.devices;
        let mut shown = BTreeSet::new();
        let mut netdevs = BTreeSet::new();
        let mut pairs = BTreeMap::new();
        for interface in &devices.interfaces {
            let alias = interface
                .info
                .alias
                .clone()
                .ok_or("a device has no alias")?;
            pairs.insert(
                alias.clone(),
                (interface.mac.to_string(), interface.target.clone()),
            );
            if !alias.starts_with("hostdev") && !alias.ends_with("-vf") {
                netdevs.insert(format!("host{alias}"));
            }
            shown.insert(alias);
        }
        for hostdev in &devices.hostdevs {
            // A live document has interfaces that are host devices in one place.
            shown.extend(hostdev.info.alias.clone());
        }
        let missing: Vec<_> = shown
            .difference(&in_qemu)
            .filter(|one| !one.ends_with("-vf"))
            .collect();
        let hidden: Vec<_> = in_qemu.difference(&shown).collect();
        if !missing.is_empty() || !hidden.is_empty() {
            return Err(format!("QEMU lacks {missing:?}, the document {hidden:?}"));
        }
        let made: BTreeSet<_> = guest.netdevs().into_iter().collect();
        if made != netdevs {
            return Err(format!("netdevs {made:?}, to be {netdevs:?}"));
        }
        if !(guest.descriptors().is_empty()
            && guest.nodes().is_empty()
            && guest.descriptor_sets().is_empty())
        {
            return Err(format!(
                "left in QEMU: {:?} {:?}",
                guest.descriptors(),
                guest.nodes()
            ));
        }
        let open: BTreeSet<_> = guest
            .open_devices()
            .iter()
            .map(ToString::to_string)
            .collect();
        let lent: BTreeSet<_> = (its.iter())
            .filter(|row| row.kind == LentKind::Hostdev && row.state != "claimed")
            .filter_map(|row| row.pci_address.clone())
            .collect();
        if open != lent {
            return Err(format!("has {open:?} open, and lent is {lent:?}"));
        }
        self.pairs_are_consistent(dom, guest, &in_qemu, &pairs, (its, who))?;
        let record = self.record_of(dom);
        let attachments = record.as_array().ok_or("no record")?;
        if attachments.len() != shown.len() {
            return Err(format!("shows {shown:?}, records {record}"));
        }
        Ok(())
    }

    fn pairs_are_consistent(
        &self,
        dom: &Dom,
        guest: &SimulatedGuest,
        in_qemu: &BTreeSet<String>,
        pairs: &BTreeMap<String, (String, Option<String>)>,
        (its, who): (&[&Lent], &[Lent]),
    ) -> Result<(), String> {
        let record = self.record_of(dom);
        for (vf, (mac, _)) in pairs {
            let Some(standby) = vf.strip_suffix("-vf") else {
                continue;
            };
            if !in_qemu.contains(standby) {
                return Err(format!("'{vf}' has no other half"));
            }
            let link = pairs.get(standby).and_then(|(_, link)| link.as_ref());
            let row = its.iter().find(|row| row.host_netdev.as_ref() == link);
            let on = row.and_then(|row| row.parent.as_deref());
            let on = on.ok_or_else(|| format!("'{standby}' has no link"))?;
            // A guest may have two with one MAC, on two PFs. What has vanished has no PF any more.
            let of_mac = |row: &&&Lent| row.mac.as_ref() == Some(mac) && !row.vanished;
            for vf in its
                .iter()
                .filter(of_mac)
                .filter(|row| row.kind == LentKind::Hostdev)
            {
                let links = its.iter().filter(of_mac).filter(|row| row.parent == vf.pf);
                let vfs = its
                    .iter()
                    .filter(of_mac)
                    .filter(|row| row.pf == vf.pf && row.pf.is_some());
                if vfs.count() > links.count() {
                    return Err(format!("'{standby}' is on {on}, and a VF is {vf:?}"));
                }
            }
            if in_qemu.contains(vf) {
                continue;
            }
            let empty = Vec::new();
            let all = record.as_array().unwrap_or(&empty);
            let Some(its) = all.iter().find(|one| one["alias"] == **vf) else {
                return Err(format!("'{vf}' is not recorded"));
            };
            let is_owed = its["state"]["owed"] == "guest";
            let is_reserved = !its["reserved"].is_null();
            let is_bond = mac.starts_with("52:54:01");
            let is_ready = is_bond || guest.has_negotiated(standby);
            let pf = PFS.iter().position(|pf| *pf == on).ok_or("an unknown PF")?;
            let (_, vfs) = self.vfs.iter().nth(pf).ok_or("an unknown PF")?;
            let host = self.site.simulation.host.snapshot();
            let is_free = |vf: &&PciAddress| {
                let text = vf.to_string();
                host.devices.contains_key(*vf)
                    && !who
                        .iter()
                        .any(|row| row.pci_address.as_ref() == Some(&text))
            };
            let has_free = !self.drained.contains(on) && vfs.iter().any(|vf| is_free(&vf));
            if is_ready && (is_reserved || is_owed && has_free) {
                return Err(format!("'{vf}' could be given a VF of {on}"));
            }
        }
        Ok(())
    }

    /// The same, its guests ended, without what was plugged in, and started again.
    pub(crate) async fn begun_anew(self, when: &str) -> Self {
        for dom in &self.doms {
            let dom = dom.clone();
            self.client.ok(DomainDestroy { dom }).await;
        }
        let mended = self.client.ok(VirtnicReconcile { apply: true }).await;
        let left = self.client.who().await;
        assert!(left.is_empty(), "{when}: {left:#?} after {mended:#?}");
        for (number, dom) in self.doms.iter().enumerate() {
            let identity = format!("</name><uuid>{}</uuid>", dom.uuid);
            let xml = bare(number).replace("</name>", &identity);
            let dom = self.client.define_guest(&xml).await;
            self.client.start(&dom).await;
        }
        self
    }

    /// Ends all, and looks whether the host is as it was.
    pub(crate) async fn ends_clean(mut self, when: &str) {
        self.heal();
        for vf in 0..8 {
            for pf in self.vfs.keys() {
                self.site.simulation.host.restore_vf(*pf, vf);
            }
        }
        for dom in std::mem::take(&mut self.doms) {
            let _ = call(&self.client, DomainDestroy { dom: dom.clone() }).await;
            self.client.ok(DomainUndefine { dom }).await;
        }
        for pf in PFS {
            self.client.ok(VirtnicUndrain { pf: pf.to_owned() }).await;
        }
        let mended = self.client.ok(VirtnicReconcile { apply: true }).await;
        let left = self.client.who().await;
        assert!(left.is_empty(), "{when}: {left:#?} after {mended:#?}");
        assert!(self.ports().await.is_empty(), "{when}");
        for net in std::mem::take(&mut self.nets) {
            self.client.ok(NetworkDestroy { net: net.clone() }).await;
            self.client.ok(NetworkUndefine { net }).await;
        }
        for kind in ["devices", "domains", "ports", "networks"] {
            assert_eq!(self.site.root.records(kind), 0, "{when}: {kind}");
        }
        let after = without_own_macs(self.site.simulation.host.snapshot());
        let before = without_own_macs(self.before);
        assert_eq!(before.differences(&after), [""; 0], "{when}");
    }
}

/// What a VF's driver makes up anew each time that it is bound.
fn without_own_macs(mut snapshot: Snapshot) -> Snapshot {
    for device in snapshot.devices.values_mut() {
        if let Some((_, mac)) = device.vf.as_mut().and_then(|vf| vf.netdev.as_mut()) {
            *mac = conf::MacAddress::ZERO;
        }
    }
    snapshot
}

fn in_short(row: &Lent) -> String {
    let texts = [
        &row.guest,
        &row.mac,
        &row.pf,
        &row.pci_address,
        &row.host_netdev,
        &row.parent,
    ];
    let texts: Vec<_> = texts.into_iter().flatten().map(String::as_str).collect();
    format!("{:?} {} {}", row.kind, row.state, texts.join(" "))
}

/// Makes a call that may be refused; no answer is a fault, a daemon that goes is none.
pub(crate) async fn call<P: Procedure>(client: &Client, args: P) -> Result<P::Reply, String> {
    match tokio::time::timeout(Duration::from_secs(60), client.rpc.call(&args)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(CallError::Refused(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => panic!("{} gets no answer", P::INFO.api),
    }
}

/// A guest with nothing but free ports.
fn bare(number: usize) -> String {
    guest_xml(&format!("g{number}"), &root_ports(11))
}
