//! Who has which device.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use assign::{Assignment, Holder, Item, Kind, Origin, Phase};
use conf::xml::Keyword as _;
use conf::{DeviceId, InterfaceSource, Plug};
use lending::Attachment;
use rpc::{Lent, LentKind, VirtnicWho};

use super::counters;
use crate::daemon::Daemon;
use crate::guest::{self, GuestHandle, Run};
use crate::network::PortEntry;

impl Daemon {
    /// Every device that is lent, with who has it; the filter is a part of any of its texts.
    pub(in crate::dispatch) async fn who(self: &Arc<Self>, question: VirtnicWho) -> Vec<Lent> {
        let filter = question.filter.as_deref();
        let lines = self.lender.list();
        let on_their_way: HashSet<_> = lines.iter().filter_map(on_its_way).collect();
        let rows = lines
            .into_iter()
            .map(|line| (self.lent_row(&line), Some(line)));
        // What a guest has is told of the guest.
        let is_lent = |line: &Assignment| {
            let device = line
                .item
                .detached()
                .map(|address| Item::Device(address.into()));
            device.is_some_and(|device| self.lender.is_listed(device))
        };
        let rows = rows.filter(|(_, line)| !line.as_ref().is_some_and(is_lent));
        let bare = self.halves_without_vf().into_iter();
        let bare = bare.filter(|(_, _, half)| !on_their_way.contains(&half.id));
        let bare = bare.map(|(guest, run, half)| (self.row_of_half(&guest, &run, &half), None));
        let mut rows: Vec<(Lent, Option<Assignment>)> = rows
            .chain(bare)
            .filter(|(row, _)| filter.is_none_or(|filter| mentions(row, filter)))
            .collect();
        let asks_driver = rows.iter().any(|(row, _)| has_open_driver(row));
        if question.counters || asks_driver {
            let host = Arc::clone(&self.host);
            let asked = tokio::task::spawn_blocking(move || {
                for (row, line) in &mut rows {
                    let Some(line) = line else {
                        continue;
                    };
                    if question.counters {
                        row.counters = counters::of(&*host, line);
                    }
                    if has_open_driver(row)
                        && let Some(address) = line.item.device().and_then(DeviceId::pci)
                    {
                        row.driver = host.pci_device(address).ok().and_then(|found| found.driver);
                    }
                }
                rows
            });
            // Broken off, the log says why; there is nothing to tell then.
            rows = asked.await.unwrap_or_default();
        }
        in_pairs(rows.into_iter().map(|(row, _)| row).collect())
    }

    fn lent_row(&self, line: &Assignment) -> Lent {
        let attached = self.attachment_of(line);
        let is_leaving = || (attached.as_ref()).is_some_and(|(_, one)| one.state.is_leaving());
        let is_on_its_way = || {
            let waits = |one: &Attachment| guest::without_vf(one).is_some();
            (attached.as_ref()).is_some_and(|(_, one)| waits(one))
        };
        let is_reserved = || (attached.as_ref()).is_some_and(|(_, one)| one.reserved.is_some());
        let state = match &line.phase {
            Phase::Lent if line.origin == Origin::Detached => "detached",
            Phase::Claimed if is_reserved() => "reserved",
            Phase::Claimed => "claimed",
            Phase::Preparing => "preparing",
            Phase::Lent if is_leaving() => "pending",
            Phase::Lent if is_on_its_way() => "preparing",
            Phase::Lent => "lent",
            Phase::Returning => "returning",
            Phase::Dirty(_) => "dirty",
        };
        let port = self.port_of(&line.holder);
        let kind = line.kind.unwrap_or_else(|| kind_to_be(line, port.as_ref()));
        let detached = line.item.detached().map(DeviceId::Pci);
        let device = line.item.device().or(detached);
        // A device that is only claimed was not looked at yet; its network knows it.
        let place = (line.vf.as_ref())
            .map(|vf| (vf.pf_netdev.clone(), vf.number))
            .or_else(|| self.lender.place_of(device?));
        let (pf, vf) = place.unzip();
        let parent = match kind {
            Kind::Hostdev => None,
            Kind::Macvtap => line.parent.or(device).map(|on| self.lender.name_of(on)),
            Kind::Tap => line.bridge.map(|bridge| bridge.to_string()),
            Kind::Usb => device.map(|device| device.to_string()),
        };
        let made = || {
            let since = port.as_ref()?.since.duration_since(UNIX_EPOCH).ok()?;
            Some(since.as_secs())
        };
        let since = line.since.or_else(made);
        let holder = &line.holder;
        Lent {
            kind: match kind {
                Kind::Hostdev => LentKind::Hostdev,
                Kind::Macvtap => LentKind::Macvtap,
                Kind::Tap => LentKind::Tap,
                Kind::Usb => LentKind::Usb,
            },
            network: holder.network.clone(),
            guest: detached.is_none().then(|| holder.name.clone()),
            guest_uuid: detached.is_none().then_some(holder.guest),
            mac: holder.mac.map(|mac| mac.to_string()),
            alias: holder.alias.clone(),
            half: attached.and_then(|(run, one)| guest::half_of(&run, &one)),
            pf,
            vf: vf.map(u32::from),
            pci_address: device.and_then(DeviceId::pci).map(|pci| pci.to_string()),
            driver: line.driver.clone(),
            host_netdev: line.netdev.map(|netdev| netdev.to_string()),
            parent,
            mode: line.mode.map(|mode| mode.word().to_owned()),
            state: state.to_owned(),
            vanished: (device.or(line.parent)).is_some_and(|on| self.lender.is_vanished(on)),
            since: since.map_or(0, |since| i64::try_from(since).unwrap_or(i64::MAX)),
            port: holder.port.unwrap_or_default(),
            counters: None,
        }
    }

    /// The row of a pair's VF half that has no VF.
    fn row_of_half(&self, handle: &GuestHandle, run: &Run, half: &Attachment) -> Lent {
        let dom = handle.dom();
        let mut interfaces = run.domain.devices.interfaces.iter();
        let interface = interfaces.find(|one| one.info.alias.as_ref() == Some(&half.alias));
        let network = interface.and_then(|interface| match &interface.source {
            InterfaceSource::Network { network, .. } => Some(network.clone()),
            _ => None,
        });
        Lent {
            kind: LentKind::Hostdev,
            network,
            guest: Some(dom.name),
            guest_uuid: Some(dom.uuid),
            mac: half.mac.map(|mac| mac.to_string()),
            alias: Some(half.alias.clone()),
            half: guest::half_of(run, half),
            pf: guest::pf_of(self, run, half).map(|pf| pf.netdev),
            vf: None,
            pci_address: None,
            driver: None,
            host_netdev: None,
            parent: None,
            mode: None,
            state: guest::without_vf(half).unwrap_or_default().to_owned(),
            vanished: false,
            since: 0,
            port: Default::default(),
            counters: None,
        }
    }

    /// What the guest that has it runs with, and what it is there.
    fn attachment_of(&self, line: &Assignment) -> Option<(Arc<Run>, Attachment)> {
        let run = (self.guests.by_uuid(line.holder.guest)?)
            .view()
            .run
            .clone()?;
        let find = |is_its: &dyn Fn(&Attachment) -> bool| {
            let mut attachments = run.attachments.iter();
            attachments.find(|one| is_its(one)).cloned()
        };
        let its = find(&|one| one.claim == Some(line.generation)).or_else(|| {
            // It is just being lent: the guest does not know of its claim yet.
            find(&|one| on_its_way(line) == Some(one.id))
        });
        let its = its?;
        Some((run, its))
    }

    fn port_of(&self, holder: &Holder) -> Option<PortEntry> {
        let network = self.networks.by_name(holder.network.as_deref()?)?;
        self.port(&network, holder.port?).ok()
    }
}

/// The attachment that a device was claimed for, unless it is on its way back: then it is that one's no more,
/// whose half of a pair may wait for another.
fn on_its_way(line: &Assignment) -> Option<conf::Uuid> {
    let is_to_be_had = matches!(line.phase, Phase::Claimed | Phase::Preparing | Phase::Lent);
    line.holder.attachment.filter(|_| is_to_be_had)
}

/// The rows in their order, but for the halves of a pair, which stand together: first the one that stays.
fn in_pairs(rows: Vec<Lent>) -> Vec<Lent> {
    let pair = |row: &Lent| row.half.as_ref().map(|half| (row.guest_uuid, half.pair));
    let mut places = HashMap::new();
    for (place, row) in rows.iter().enumerate() {
        if let Some(pair) = pair(row) {
            places.entry(pair).or_insert(place);
        }
    }
    let mut placed: Vec<_> = rows.into_iter().enumerate().collect();
    placed.sort_by_key(|(at, row)| {
        let first = pair(row).and_then(|pair| places.get(&pair).copied());
        let comes_second = row.half.as_ref().is_some_and(|half| half.role == "primary");
        (first.unwrap_or(*at), comes_second)
    });
    placed.into_iter().map(|(_, row)| row).collect()
}

/// Whether the driver of its function is still to be asked for: one below a macvtap stays bound as
/// the host has it, and no record says how.
fn has_open_driver(row: &Lent) -> bool {
    row.driver.is_none() && row.kind == LentKind::Macvtap && row.pci_address.is_some()
}

/// How a device that is only claimed will be lent.
fn kind_to_be(line: &Assignment, port: Option<&PortEntry>) -> Kind {
    match (line.item, port.and_then(|port| port.port.plug.as_ref())) {
        (_, Some(Plug::Direct { .. })) => Kind::Macvtap,
        (Item::Device(DeviceId::Usb(_)), _) => Kind::Usb,
        (Item::Device(DeviceId::Netdev(_)), _) => Kind::Macvtap,
        (Item::Device(DeviceId::Pci(_)) | Item::Detached(_), _) => Kind::Hostdev,
        (Item::Link(_), _) if line.parent.is_some() => Kind::Macvtap,
        (Item::Link(_), _) => Kind::Tap,
    }
}

fn mentions(row: &Lent, part: &str) -> bool {
    let texts = [
        &row.network,
        &row.guest,
        &row.mac,
        &row.pf,
        &row.pci_address,
        &row.driver,
        &row.host_netdev,
        &row.parent,
    ];
    texts.into_iter().flatten().any(|text| text.contains(part))
}
