//! Who wants to hear of what on one connection.

use uuid::Uuid;

use crate::error::{Code, Error};
use crate::event::{CallbackId, Event, EventClass, Subject};
use crate::procedure::Info;
use crate::table::{Reply, Request};

/// How many registrations a connection may have.
const SUBSCRIPTIONS_MAX: usize = 4096;

/// A client wants the event names of a monitor to be taken for regular expressions.
const MONITOR_REGEX: u32 = 1;
/// Upper and lower case of the event's name are the same.
const MONITOR_NOCASE: u32 = 2;

/// The registrations of one connection. One counter numbers them all, as some clients tell them
/// apart by nothing else.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    last: CallbackId,
    all: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    callback: CallbackId,
    class: EventClass,
    id: i32,
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
    /// Carries out a call that registers or deregisters; none if it is another call.
    ///
    /// The caller keeps hold of all registrations until the reply is queued: a client drops events
    /// that come before it.
    pub(crate) fn answer(&mut self, request: &Request) -> Option<Result<Reply, Error>> {
        use EventClass::{Domain, Monitor, Network, NodeDevice};
        let info = request.info();
        Some(match request {
            Request::ConnectDomainEventCallbackRegisterAny(args) => {
                let about = About::uuid(args.dom.as_ref().map(|dom| dom.uuid));
                self.add(info, Domain, args.event_id, about, None)
                    .map(Reply::ConnectDomainEventCallbackRegisterAny)
            }
            Request::ConnectNetworkEventRegisterAny(args) => {
                let about = About::uuid(args.net.as_ref().map(|net| net.uuid));
                self.add(info, Network, args.event_id, about, None)
                    .map(Reply::ConnectNetworkEventRegisterAny)
            }
            Request::ConnectNodeDeviceEventRegisterAny(args) => {
                let about = args
                    .dev
                    .as_ref()
                    .map_or(About::All, |dev| About::Name(dev.name.clone()));
                self.add(info, NodeDevice, args.event_id, about, None)
                    .map(Reply::ConnectNodeDeviceEventRegisterAny)
            }
            Request::QemuConnectDomainMonitorEventRegister(args) => {
                let about = About::uuid(args.dom.as_ref().map(|dom| dom.uuid));
                if args.flags & MONITOR_REGEX != 0 {
                    return Some(Err(Error::new(
                        Code::ArgumentUnsupported,
                        info.domain,
                        "events are chosen by name here, not by regular expression",
                    )));
                }
                let exact = args.flags & MONITOR_NOCASE == 0;
                let name = args.event.clone().map(|name| (name, exact));
                self.add(info, Monitor, 0, about, name)
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

    /// The callbacks that want this event.
    pub(crate) fn matching(&self, event: &Event) -> impl Iterator<Item = CallbackId> {
        let (class, id) = event.kind();
        self.all
            .iter()
            .filter(move |one| one.class == class && one.id == id && one.wants(event))
            .map(|one| one.callback)
    }

    fn add(
        &mut self,
        info: &Info,
        class: EventClass,
        id: i32,
        about: About,
        name: Option<(String, bool)>,
    ) -> Result<CallbackId, Error> {
        if !(0..=class.last_id()).contains(&id) {
            let detail = format!("unsupported event ID {id}");
            return Err(Error::new(Code::InternalError, info.domain, detail));
        }
        if self.all.len() >= SUBSCRIPTIONS_MAX {
            let detail = format!(
                "this connection has {SUBSCRIPTIONS_MAX} event registrations; end some of them"
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
        let callback = self.last;
        self.all.push(Subscription {
            callback,
            class,
            id,
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
        let found = self
            .all
            .iter()
            .position(|one| one.class == class && one.callback == callback);
        match found {
            Some(index) => {
                self.all.remove(index);
                Ok(())
            }
            None => {
                let detail = format!("event callback {callback} is not registered");
                Err(Error::new(Code::InternalError, info.domain, detail))
            }
        }
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
