//! Who wants to hear of what on one connection.

use std::collections::HashMap;

use uuid::Uuid;

use crate::error::{Code, Error};
use crate::event::{CallbackId, Event, EventClass, Subject};
use crate::flags::MonitorEvents;
use crate::frame::{FRAME_MIN, Header, Kind, Status, frame};
use crate::procedure::{Info, Program};
use crate::table::{Reply, Request};

/// The registrations of one connection. One counter numbers them all, as some clients tell them
/// apart by nothing else.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    last: CallbackId,
    count: usize,
    /// By what they are for.
    all: HashMap<(EventClass, i32), Vec<Subscription>>,
}

#[derive(Debug)]
struct Subscription {
    callback: CallbackId,
    /// The number of the last event before it.
    since: u64,
    about: About,
    /// For a monitor: the name of the event, and whether its case matters.
    name: Option<(String, bool)>,
}

/// Which objects a registration is for.
#[derive(Debug)]
enum About {
    All,
    Uuid(Uuid),
    Name(String),
}

impl Subscriptions {
    /// Whether nothing was ever registered.
    pub(crate) fn is_unused(&self) -> bool {
        self.last == 0
    }

    /// Carries out a call that registers or deregisters; none if it is another call. `since` is the
    /// number of the last event before it; at most `max` registrations are kept.
    ///
    /// The caller keeps hold of all registrations until the reply is queued: a client drops events
    /// that come before it.
    pub(crate) fn answer(
        &mut self,
        request: &Request,
        since: u64,
        max: usize,
    ) -> Option<Result<Reply, Error>> {
        use EventClass::{Domain, Monitor, Network, NodeDevice};
        let info = request.info();
        let bounds = Bounds { since, max };
        Some(match request {
            Request::ConnectDomainEventCallbackRegisterAny(args) => {
                let about = About::uuid(args.dom.as_ref().map(|dom| dom.uuid));
                self.add(info, (Domain, args.event_id), about, None, bounds)
                    .map(Reply::ConnectDomainEventCallbackRegisterAny)
            }
            Request::ConnectNetworkEventRegisterAny(args) => {
                let about = About::uuid(args.net.as_ref().map(|net| net.uuid));
                self.add(info, (Network, args.event_id), about, None, bounds)
                    .map(Reply::ConnectNetworkEventRegisterAny)
            }
            Request::ConnectNodeDeviceEventRegisterAny(args) => {
                let about = args
                    .dev
                    .as_ref()
                    .map_or(About::All, |dev| About::Name(dev.name.clone()));
                self.add(info, (NodeDevice, args.event_id), about, None, bounds)
                    .map(Reply::ConnectNodeDeviceEventRegisterAny)
            }
            Request::QemuConnectDomainMonitorEventRegister(args) => {
                let about = About::uuid(args.dom.as_ref().map(|dom| dom.uuid));
                if args.flags.contains(MonitorEvents::REGEX) {
                    return Some(Err(Error::new(
                        Code::ArgumentUnsupported,
                        info.domain,
                        "events are chosen by name here, not by regular expression",
                    )));
                }
                let exact = !args.flags.contains(MonitorEvents::NOCASE);
                let name = args.event.clone().map(|name| (name, exact));
                self.add(info, (Monitor, 0), about, name, bounds)
                    .map(Reply::QemuConnectDomainMonitorEventRegister)
            }
            Request::ConnectDomainEventCallbackDeregisterAny(args) => self
                .remove(info, Domain, args.callback_id)
                .map(Reply::ConnectDomainEventCallbackDeregisterAny),
            Request::ConnectNetworkEventDeregisterAny(args) => self
                .remove(info, Network, args.callback_id)
                .map(Reply::ConnectNetworkEventDeregisterAny),
            Request::ConnectNodeDeviceEventDeregisterAny(args) => self
                .remove(info, NodeDevice, args.callback_id)
                .map(Reply::ConnectNodeDeviceEventDeregisterAny),
            Request::QemuConnectDomainMonitorEventDeregister(args) => self
                .remove(info, Monitor, args.callback_id)
                .map(Reply::QemuConnectDomainMonitorEventDeregister),
            _ => return None,
        })
    }

    /// The callbacks that want this event, and were registered before it.
    pub(crate) fn matching(&self, event: &Event, number: u64) -> impl Iterator<Item = CallbackId> {
        self.all
            .get(&event.kind())
            .into_iter()
            .flatten()
            .filter(move |one| one.since < number && one.wants(event))
            .map(|one| one.callback)
    }

    fn add(
        &mut self,
        info: &Info,
        (class, id): (EventClass, i32),
        about: About,
        name: Option<(String, bool)>,
        Bounds { since, max }: Bounds,
    ) -> Result<CallbackId, Error> {
        if !(0..=class.last_id()).contains(&id) {
            let detail = format!("unsupported event ID {id}");
            return Err(Error::new(Code::InternalError, info.domain, detail));
        }
        if self.count >= max {
            let detail = format!(
                "this connection has {max} event registrations, and may have no more; end some of them"
            );
            return Err(Error::new(Code::OperationFailed, info.domain, detail));
        }
        self.last = self.last.checked_add(1).ok_or_else(|| {
            Error::new(
                Code::Overflow,
                info.domain,
                "no callback ids are left; connect again",
            )
        })?;
        self.count += 1;
        let callback = self.last;
        self.all.entry((class, id)).or_default().push(Subscription {
            callback,
            since,
            about,
            name,
        });
        Ok(callback)
    }

    fn remove(
        &mut self,
        info: &Info,
        class: EventClass,
        callback: CallbackId,
    ) -> Result<(), Error> {
        let of_class = self.all.iter_mut().filter(|((of, _), _)| *of == class);
        for (_, subscriptions) in of_class {
            if let Some(index) = subscriptions
                .iter()
                .position(|one| one.callback == callback)
            {
                subscriptions.remove(index);
                self.count -= 1;
                return Ok(());
            }
        }
        let detail = format!("event callback {callback} is not registered");
        Err(Error::new(Code::InternalError, info.domain, detail))
    }
}

/// Between which bounds a registration is made.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    since: u64,
    max: usize,
}

/// An event as it is sent: encoded once, whoever hears of it.
#[derive(Debug)]
pub(crate) struct Notice {
    event: Event,
    /// Its frame, with some callback's id.
    bytes: Vec<u8>,
}

impl Notice {
    /// None if the event can't be encoded, which is logged.
    pub(crate) fn new(event: Event) -> Option<Notice> {
        let (program, procedure) = event.message();
        let header = Header {
            program: program.number(),
            version: Program::VERSION,
            procedure,
            kind: Kind::Event,
            serial: 1,
            status: Status::Ok,
        };
        match frame(&header, |w| event.encode(0, w)) {
            Ok(bytes) => Some(Notice { event, bytes }),
            Err(error) => {
                tracing::error!(%error, ?event, "an event can't be sent");
                None
            }
        }
    }

    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// A frame for each of the callbacks, one after the other, and how many those are.
    pub(crate) fn frames(&self, callbacks: impl Iterator<Item = CallbackId>) -> (Vec<u8>, usize) {
        let (mut frames, mut count) = (Vec::new(), 0);
        for callback in callbacks {
            let at = frames.len() + FRAME_MIN;
            frames.extend_from_slice(&self.bytes);
            frames[at..at + 4].copy_from_slice(&callback.to_be_bytes());
            count += 1;
        }
        (frames, count)
    }
}

impl About {
    fn uuid(uuid: Option<Uuid>) -> About {
        uuid.map_or(About::All, About::Uuid)
    }
}

impl Subscription {
    fn wants(&self, event: &Event) -> bool {
        let about = match (&self.about, event.subject()) {
            (About::All, _) => true,
            (About::Uuid(wanted), Subject::Uuid(uuid)) => *wanted == uuid,
            (About::Name(wanted), Subject::Name(name)) => wanted == name,
            _ => false,
        };
        let name = match (&self.name, event) {
            (Some((wanted, true)), Event::MonitorEvent(event)) => *wanted == event.event,
            (Some((wanted, false)), Event::MonitorEvent(event)) => {
                wanted.eq_ignore_ascii_case(&event.event)
            }
            _ => true,
        };
        about && name
    }
}
