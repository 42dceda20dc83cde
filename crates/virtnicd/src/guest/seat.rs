//! Taps of running guests that go to another bridge or network, or stand otherwise in the one where
//! they are.

use std::sync::Arc;

use assign::{Generation, Kind, SeatOwner};
use conf::{Interface, InterfaceSource};
use lending::{Attachment, PortId, TapSeat};
use qemu::GuestState;
use rpc::{Code, Error};

use super::QEMU;
use super::change::Direction;
use super::handle::Run;
use super::interface::Carrier;
use crate::blocking::blocking;
use crate::daemon::Daemon;
use crate::fault::{self, Result};

/// All taps of a guest that a change moves. Their new ports are on their networks, and nothing else is
/// done yet.
#[derive(Debug, Default)]
pub(super) struct Moves(Vec<TapMove>);

/// One of them.
#[derive(Debug)]
struct TapMove {
    /// Its place in the document.
    place: usize,
    alias: String,
    claim: Generation,
    from: Place,
    to: Place,
}

/// Where a tap stands.
#[derive(Debug, Clone)]
struct Place {
    seat: TapSeat,
    port: Option<PortId>,
    owner: SeatOwner,
}

/// Whether the document has an interface connected otherwise than before.
pub(super) fn is_moved(old: &Interface, new: &Interface) -> bool {
    old.source != new.source || old.vlan != new.vlan || old.isolated != new.isolated
}

impl Moves {
    /// Plans the way from one document to the other, puts new ports on their networks, and has the new
    /// document say what came of it. Blocks.
    pub(super) fn plan(
        daemon: &Daemon,
        run: &Run,
        old: &conf::Domain,
        new: &mut conf::Domain,
        direction: Direction,
    ) -> Result<Self> {
        let mut moves = Self::default();
        for (place, before) in old.devices.interfaces.iter().enumerate() {
            let after = new.devices.interfaces.get(place);
            let Some(after) = after.filter(|after| is_moved(before, after)).cloned() else {
                continue;
            };
            match plan_one(daemon, run, place, before, after, direction) {
                Ok((planned, resolved)) => {
                    if let Some(interface) = new.devices.interfaces.get_mut(place) {
                        *interface = resolved;
                    }
                    moves.0.push(planned);
                }
                Err(error) => {
                    moves.end_new_ports(daemon);
                    return Err(error);
                }
            }
        }
        Ok(moves)
    }

    /// What the guest has, once they are made.
    pub(super) fn apply_to(&self, attachments: &[Attachment]) -> Vec<Attachment> {
        let mut attachments = attachments.to_vec();
        for one in &self.0 {
            let mut its = attachments.iter_mut();
            if let Some(attachment) = its.find(|attachment| attachment.alias == one.alias) {
                attachment.port = one.to.port;
            }
        }
        attachments
    }

    /// Ports that are nobody's once they are made.
    pub(super) fn old_ports(&self) -> Vec<PortId> {
        self.0.iter().filter_map(|one| one.from.port).collect()
    }

    /// Ports that are nobody's if they are not made.
    pub(super) fn new_ports(&self) -> Vec<PortId> {
        self.0.iter().filter_map(|one| one.to.port).collect()
    }

    fn end_new_ports(&self, daemon: &Daemon) {
        end_ports(daemon, &self.new_ports());
    }

    /// Moves the tap at that place of the document, or takes that back; one that is not moved stays.
    pub(super) async fn carry_out(
        &self,
        daemon: &Arc<Daemon>,
        run: &Run,
        place: usize,
        direction: Direction,
    ) -> Result<()> {
        let Some(one) = self.0.iter().find(|one| one.place == place) else {
            return Ok(());
        };
        let (from, to) = match direction {
            Direction::On { .. } => (&one.from, &one.to),
            Direction::Back => (&one.to, &one.from),
        };
        let (from, to, claim) = (from.seat.clone(), to.clone(), one.claim);
        move_tap(daemon, run, claim, Some(from), to).await
    }
}

/// Removes ports of networks that no tap stands on any more. Blocks.
pub(super) fn end_ports(daemon: &Daemon, ports: &[PortId]) {
    for &PortId { network, port } in ports {
        daemon.end_port(network, port);
    }
}

/// Puts every tap where the document says that it is: a change was cut short.
pub(super) async fn put_right(daemon: &Arc<Daemon>, run: &Run) -> Result<()> {
    for interface in &run.domain.devices.interfaces {
        let Carrier::Link {
            kind: Kind::Tap,
            claim,
            ..
        } = Carrier::of(interface, run, &daemon.lender)
        else {
            continue;
        };
        let (on_host, domain, asked) = (Arc::clone(daemon), run.domain.clone(), interface.clone());
        let seat = blocking(QEMU, move || {
            lending::seat_of(&*on_host.host, &domain, &asked)
                .map_err(|error| fault::lending::wish(&error))
        });
        if let Some(seat) = seat.await?? {
            let place = Place {
                seat,
                port: None,
                owner: owner_of(interface),
            };
            move_tap(daemon, run, claim, None, place).await?;
        }
    }
    Ok(())
}

async fn move_tap(
    daemon: &Arc<Daemon>,
    run: &Run,
    claim: Generation,
    from: Option<TapSeat>,
    to: Place,
) -> Result<()> {
    let runs = run.machine.state() == GuestState::Running;
    let daemon = Arc::clone(daemon);
    blocking(QEMU, move || {
        let Place { seat, owner, .. } = to;
        let lender = &daemon.lender;
        lender.move_tap(claim, from.as_ref(), &seat, owner, runs)
    })
    .await?
    .map_err(fault::lending::change)
}

fn plan_one(
    daemon: &Daemon,
    run: &Run,
    place: usize,
    before: &Interface,
    mut after: Interface,
    direction: Direction,
) -> Result<(TapMove, Interface)> {
    let domain = &run.domain;
    let named = |error: Error| error.preceded_by(&format!("interface {}: ", before.mac));
    let Carrier::Link {
        kind: Kind::Tap,
        claim,
        ..
    } = Carrier::of(before, run, &daemon.lender)
    else {
        let detail = format!("interface {} is no tap in a bridge", before.mac);
        return Err(Error::new(Code::OperationUnsupported, QEMU, detail));
    };
    let seat = |interface: &Interface| {
        let seat = lending::seat_of(&*daemon.host, domain, interface);
        let seat = seat.map_err(|error| named(fault::lending::wish(&error)))?;
        seat.ok_or_else(|| {
            let detail = format!("interface {} is in no bridge", interface.mac);
            Error::new(Code::OperationUnsupported, QEMU, detail)
        })
    };
    let attachment = super::attachment::by_alias(
        &run.attachments,
        before.info.alias.as_deref().unwrap_or_default(),
    );
    let from = Place {
        seat: seat(before)?,
        port: attachment.and_then(|attachment| attachment.port),
        owner: owner_of(before),
    };
    let wanted = after.clone();
    loop {
        after.clone_from(&wanted);
        // What is taken back gets the port that it had.
        let had = wanted.actual.as_ref().map(|actual| actual.port);
        let uuid = had.filter(|_| direction == Direction::Back);
        let port = lending::plan_move(domain, &mut after, uuid, daemon);
        let mut port = port.map_err(|refusal| named(fault::lending::device_alone(&refusal)))?;
        if let (Some(actual), Some(port)) = (&mut after.actual, &mut port)
            && let Some(shaped) = kept_bandwidth(before, &wanted, direction)
        {
            actual.bandwidth.clone_from(&shaped);
            port.port.bandwidth = shaped;
        }
        let to = Place {
            seat: seat(&after)?,
            port: port.as_ref().map(|port| PortId {
                network: port.network.uuid,
                port: port.port.uuid,
            }),
            owner: owner_of(&after),
        };
        // False: its network was changed meanwhile, and what was planned is of the past.
        if match &port {
            Some(port) => daemon.keep_planned_port(port, None)?,
            None => true,
        } {
            let planned = TapMove {
                place,
                alias: before.info.alias.clone().unwrap_or_default(),
                claim,
                from,
                to,
            };
            return Ok((planned, after));
        }
    }
}

/// The shaping that was set by hand, where nobody asks for another.
fn kept_bandwidth(
    before: &Interface,
    wanted: &Interface,
    direction: Direction,
) -> Option<Option<conf::Bandwidth>> {
    let of = |interface: &Interface| Some(interface.actual.as_ref()?.bandwidth.clone());
    match direction {
        Direction::Back => of(wanted),
        Direction::On { .. }
            if before.source == wanted.source && before.bandwidth == wanted.bandwidth =>
        {
            of(before)
        }
        Direction::On { .. } => None,
    }
}

fn owner_of(interface: &Interface) -> SeatOwner {
    let InterfaceSource::Network { network, .. } = &interface.source else {
        return SeatOwner::default();
    };
    SeatOwner {
        network: Some(network.clone()),
        port: interface.actual.as_ref().map(|actual| actual.port),
    }
}
