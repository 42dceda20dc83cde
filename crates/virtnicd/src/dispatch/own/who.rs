//! Who has which device.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use assign::{Assignment, Holder, Item, Kind, Origin, Phase};
use conf::xml::Keyword as _;
use conf::{DeviceId, Plug};
use lending::AttachmentState;
use rpc::{Lent, LentKind, VirtnicWho};

use super::counters;
use crate::daemon::Daemon;
use crate::network::PortEntry;

impl Daemon {
    /// Every device that is lent, with who has it; the filter is a part of any of its texts.
    pub(in crate::dispatch) async fn who(self: &Arc<Self>, question: VirtnicWho) -> Vec<Lent> {
        let filter = question.filter.as_deref();
        let rows = (self.lender.list().into_iter()).map(|line| (self.lent_row(&line), line));
        // What a guest has is told of the guest.
        let is_lent = |line: &Assignment| {
            let device = line
                .item
                .detached()
                .map(|address| Item::Device(address.into()));
            device.is_some_and(|device| self.lender.is_listed(device))
        };
        let rows = rows.filter(|(_, line)| !is_lent(line));
        let mut rows: Vec<(Lent, Assignment)> = rows
            .filter(|(row, _)| filter.is_none_or(|filter| mentions(row, filter)))
            .collect();
        let asks_driver = rows.iter().any(|(row, _)| has_open_driver(row));
        if question.counters || asks_driver {
            let host = Arc::clone(&self.host);
            let asked = tokio::task::spawn_blocking(move || {
                for (row, line) in &mut rows {
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
        rows.into_iter().map(|(row, _)| row).collect()
    }

    fn lent_row(&self, line: &Assignment) -> Lent {
        let state = match &line.phase {
            Phase::Lent if line.origin == Origin::Detached => "detached",
            Phase::Claimed => "claimed",
            Phase::Preparing => "preparing",
            Phase::Lent if self.is_asked_back(line) => "pending",
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

    /// Whether its guest was asked to let it go, and has not yet.
    fn is_asked_back(&self, line: &Assignment) -> bool {
        let Some(guest) = self.guests.by_uuid(line.holder.guest) else {
            return false;
        };
        guest.view().run.as_ref().is_some_and(|run| {
            let mut attachments = run.attachments.iter();
            attachments.any(|one| {
                one.claim == Some(line.generation) && one.state == AttachmentState::Unplugging
            })
        })
    }

    fn port_of(&self, holder: &Holder) -> Option<PortEntry> {
        let network = self.networks.by_name(holder.network.as_deref()?)?;
        self.port(&network, holder.port?).ok()
    }
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
