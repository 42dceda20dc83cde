//! What a guest's start would take, shown and not done.

use std::sync::Arc;

use assign::Preparation;
use conf::{DeviceId, DirectMode, HostSource};
use lending::{ChooseError, DevicePlan, DeviceRefusal, Outcome, Role, Share, Subject};
use rpc::{
    ChosenDevice, Code, Error, LentKind, PlanOf, PlanRefusal, PlanReport, PlannedChoice,
    PlannedDevice, PlannedHalf,
};

use super::{GuestHandle, QEMU, pairs};
use crate::daemon::Daemon;
use crate::fault::{self, Result};

impl Daemon {
    /// The plan of a guest's start. Asks the host, changes nothing; blocks.
    pub(crate) fn plan_report(&self, of: &PlanOf) -> Result<PlanReport> {
        let (domain, running) = self.guest_to_plan(of)?;
        // Another guest that has its name or identity: it could be neither defined nor created.
        let clash = self.guests.clash(&domain.name, domain.uuid);
        let clash = clash.map(|clash| clash.words("domain", &domain.name, domain.uuid));
        let mut trial = self.lender.trial_of(&domain);
        let context = self.plan_context(&domain);
        let plan = lending::plan(&domain, &mut trial, self, &context);
        let mut obstacles: Vec<_> = plan.obstacles.iter().map(ToString::to_string).collect();
        obstacles.extend(clash);
        if !running {
            let (uuid, name) = (domain.uuid, &domain.name);
            let known = self.barred.check(uuid, name);
            let refused = known.and_then(|()| self.check_no_process(uuid, name)).err();
            obstacles.extend(refused.map(|error| error.detail().to_owned()));
        }
        let would_start = plan.refusal().is_none() && obstacles.is_empty();
        let devices = plan.devices.iter();
        Ok(PlanReport {
            guest_uuid: domain.uuid,
            running,
            would_start,
            obstacles,
            notes: Vec::new(),
            devices: (devices.map(|device| self.planned_device(&domain, device))).collect(),
            guest: domain.name,
        })
    }

    fn guest_to_plan(&self, of: &PlanOf) -> Result<(conf::Domain, bool)> {
        match of {
            PlanOf::Document(xml) => {
                let domain = self.read_asked_domain(xml)?;
                let known = self.guests.by_uuid(domain.uuid);
                Ok((domain, known.is_some_and(|guest| guest.is_active())))
            }
            PlanOf::Guest(name) => {
                let handle = self.guest_named(name)?;
                let view = handle.view();
                let running = view.run.as_ref();
                let domain = view.defined.as_deref().or(running.map(|run| &run.domain));
                let domain = domain.cloned().ok_or_else(|| {
                    Error::new(Code::NoDomain, QEMU, format!("guest '{name}' is gone"))
                })?;
                Ok((domain, running.is_some()))
            }
        }
    }

    /// The guest that a person means, by its name or uuid.
    pub(crate) fn guest_named(&self, name: &str) -> Result<Arc<GuestHandle>> {
        match name.parse() {
            Ok(uuid) => self.guest_by_uuid(uuid),
            Err(_) => self.guest_by_name(name),
        }
    }

    fn planned_device(&self, domain: &conf::Domain, device: &DevicePlan) -> PlannedDevice {
        let interfaces = domain.devices.interfaces.get(device.place);
        let (element, kind) = match (device.attachment.subject, interfaces) {
            (Subject::Interface, Some(interface)) => ("interface", interface.source.kind()),
            (Subject::Interface | Subject::HostDevice, _) => {
                let hostdev = domain.devices.hostdevs.get(device.place);
                let is_usb = hostdev.is_some_and(|one| matches!(one.source, HostSource::Usb(_)));
                ("hostdev", if is_usb { "usb" } else { "pci" })
            }
        };
        let (mut steps, mut notes) = (Vec::new(), Vec::new());
        let choice = match &device.outcome {
            Outcome::Lend(planned) => {
                steps.extend(planned.steps.iter().map(ToString::to_string));
                let passed_over = planned.passed_over.iter();
                notes.extend(
                    passed_over
                        .map(|(device, reason)| format!("{device} is passed over: {reason}")),
                );
                notes.extend(planned.notes.iter().map(ToString::to_string));
                if pairs::is_withheld(domain, &device.attachment, false) {
                    notes.push(
                        "it is reserved for the guest, and plugged in when that has negotiated \
                         failover"
                            .to_owned(),
                    );
                }
                PlannedChoice::Device(self.chosen(planned))
            }
            Outcome::Owed(owed) => {
                notes.push(format!(
                    "why there is none now: {}",
                    fault::chain(&owed.refusal)
                ));
                let text = format!(
                    "no VF yet: the next one of {} that is free; until then the guest runs on virtio",
                    owed.pf.netdev
                );
                PlannedChoice::Owed(text)
            }
            Outcome::Alone => PlannedChoice::None(match device.attachment.subject {
                Subject::Interface => alone(interfaces).to_owned(),
                Subject::HostDevice => "nothing: it is not plugged in, and optional".to_owned(),
            }),
            Outcome::Refused(refusal) => PlannedChoice::Refused(self.plan_refusal(refusal)),
        };
        PlannedDevice {
            element: element.to_owned(),
            r#type: kind.to_owned(),
            mac: device.attachment.mac.map(|mac| mac.to_string()),
            alias: Some(device.attachment.alias.clone()),
            network: device.network.clone(),
            half: self.planned_half(device),
            choice,
            steps,
            notes,
        }
    }

    /// The half of a pair that it would be.
    fn planned_half(&self, device: &DevicePlan) -> Option<PlannedHalf> {
        let role = match device.attachment.role {
            Role::Sole => return None,
            Role::Standby => "standby",
            Role::Primary => "primary",
        };
        let pf = match &device.outcome {
            Outcome::Lend(planned) => planned.share.device().map(|own| match self.vf_of(own) {
                Some((pf, _)) => pf,
                None => self.lender.name_of(own),
            }),
            Outcome::Owed(owed) => Some(owed.pf.netdev.clone()),
            Outcome::Alone | Outcome::Refused(_) => None,
        };
        Some(PlannedHalf {
            pair: device.attachment.pair?,
            role: role.to_owned(),
            pf,
        })
    }

    fn plan_refusal(&self, refusal: &DeviceRefusal) -> PlanRefusal {
        let rows = match refusal {
            DeviceRefusal::Choose(ChooseError::Refused(refusal)) => refusal.explanation.as_ref(),
            _ => None,
        };
        PlanRefusal {
            error: fault::chain(refusal),
            advice: refusal.advice(),
            rows: rows.map_or_else(Vec::new, |table| self.pool_rows(table)),
        }
    }

    fn chosen(&self, planned: &lending::PlannedDevice) -> ChosenDevice {
        let (kind, device) = match &planned.preparation {
            Preparation::Vfio(_) => {
                let device = planned.share.device();
                let text =
                    device.map_or_else(|| "host device".to_owned(), |d| self.function_text(d));
                (LentKind::Hostdev, text)
            }
            Preparation::Usb => {
                let device = planned.share.device();
                let text = device.map_or_else(|| "USB device".to_owned(), |d| d.to_string());
                (LentKind::Usb, text)
            }
            Preparation::Macvtap(macvtap) => {
                let mode: DirectMode = macvtap.mode;
                let mode = conf::xml::Keyword::word(mode);
                let text = format!("macvtap on {} in {mode} mode", macvtap.lower);
                (LentKind::Macvtap, text)
            }
            Preparation::Tap(tap) => {
                let text = match &tap.bridge {
                    Some(bridge) => format!("tap in {bridge}"),
                    None => "tap".to_owned(),
                };
                (LentKind::Tap, text)
            }
        };
        let pci_address = match planned.share {
            Share::Whole(device) => device.pci().map(|address| address.to_string()),
            Share::Part(_) | Share::Tap => None,
        };
        ChosenDevice {
            kind,
            device,
            pci_address,
            why: planned.why.clone(),
        }
    }

    fn function_text(&self, device: DeviceId) -> String {
        match self.vf_of(device) {
            Some((pf, number)) => format!("VF {number} of {pf} ({device})"),
            None => device.to_string(),
        }
    }

    /// The PF and number of a VF, whether a network lends it or not.
    fn vf_of(&self, device: DeviceId) -> Option<(String, u16)> {
        self.lender.place_of(device).or_else(|| {
            let vf = self.host.virtual_function(device.pci()?).ok()?;
            Some((vf.pf_netdev, vf.number))
        })
    }
}

/// What an interface gets that takes nothing of the host.
fn alone(interface: Option<&conf::Interface>) -> &'static str {
    use conf::InterfaceSource as S;
    match interface.map(|interface| &interface.source) {
        Some(S::User | S::Null | S::Ethernet) => "QEMU plays it alone",
        _ => "nothing: what it asks for is not carried out",
    }
}
