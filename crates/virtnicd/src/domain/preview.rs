//! What a guest's start would take, shown and not done.

use std::sync::Arc;

use assign::{Preparation, VfioPreparation};
use conf::{
    DeviceId, DirectMode, HostDevice, Interface, InterfaceSource, Network, Plug, PoolMembers,
};
use lending::{PoolRequest, Share, Trial, host_device_owner, interface_owner, port_owner};
use rpc::{
    ChosenDevice, Code, Error, LentKind, PlanOf, PlanRefusal, PlanReport, PlannedChoice,
    PlannedDevice, PoolRow,
};

use super::connect::{Settings, Target};
use super::plan::{refuse_unsupported, wanted_port};
use super::{DomainObject, QEMU};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::network::{NO_HOST_ACCESS, PortSource};
use crate::sync::lock;

/// What is found out about one device of the guest.
struct Preview {
    network: Option<String>,
    outcome: std::result::Result<Found, Refused>,
    notes: Vec<String>,
}

/// A device that would be lent.
struct Found {
    chosen: ChosenDevice,
    steps: Vec<String>,
}

/// None would.
struct Refused {
    error: String,
    advice: Option<String>,
    rows: Vec<PoolRow>,
}

impl Daemon {
    /// The plan of a guest's start. Asks the host, changes nothing; blocks.
    pub(crate) fn plan_report(&self, of: &PlanOf) -> Result<PlanReport> {
        let (domain, running) = self.guest_to_plan(of)?;
        let mut trial = self.lender.trial();
        let numa_nodes = self.numa_nodes_of(&domain);
        let mut obstacles = Vec::new();
        for checked in [refuse_unsupported(&domain), self.refuse_misplaced(&domain)] {
            obstacles.extend(checked.err().map(|error| error.detail().to_owned()));
        }
        let mut devices = Vec::new();
        for interface in &domain.devices.interfaces {
            let preview = self.preview_interface(&mut trial, &domain, interface, &numa_nodes);
            devices.push(report(
                "interface",
                interface.source.kind(),
                Some(interface),
                preview,
            ));
        }
        for hostdev in &domain.devices.hostdevs {
            let preview = self.preview_hostdev(&mut trial, &domain, hostdev);
            devices.push(report("hostdev", "pci", None, Some(preview)));
        }
        let is_refused =
            |device: &PlannedDevice| matches!(device.choice, PlannedChoice::Refused(_));
        let would_start = obstacles.is_empty() && !devices.iter().any(is_refused);
        Ok(PlanReport {
            guest: domain.name,
            guest_uuid: domain.uuid,
            running,
            would_start,
            obstacles,
            notes: Vec::new(),
            devices,
        })
    }

    fn guest_to_plan(&self, of: &PlanOf) -> Result<(conf::Domain, bool)> {
        match of {
            PlanOf::Document(xml) => Ok((self.read_domain(xml)?, false)),
            PlanOf::Guest(name) => {
                let object: Arc<DomainObject> = match name.parse() {
                    Ok(uuid) => self.domain_by_uuid(uuid)?,
                    Err(_) => self.domain_by_name(name)?,
                };
                let status = lock(&object.state);
                let running = status.running.as_ref();
                let domain = status.defined.as_ref().or(running.map(|r| &r.domain));
                let domain = domain.cloned().ok_or_else(|| {
                    Error::new(Code::NoDomain, QEMU, format!("guest '{name}' is gone"))
                })?;
                Ok((domain, running.is_some()))
            }
        }
    }

    /// `None`: it takes nothing of the host.
    fn preview_interface(
        &self,
        trial: &mut Trial,
        domain: &conf::Domain,
        interface: &Interface,
        numa_nodes: &[u16],
    ) -> Option<Preview> {
        let mut notes = Vec::new();
        let mut network = None;
        let outcome = match &interface.source {
            InterfaceSource::Network { network: name, .. } => {
                network = Some(name.clone());
                self.preview_port(trial, domain, interface, numa_nodes, &mut notes)
            }
            InterfaceSource::Hostdev {
                managed,
                driver,
                source,
            } => self
                .resolve(source)
                .map_err(Refused::from)
                .and_then(|address| {
                    let target = Target::Plug(Plug::HostdevPci {
                        managed: *managed,
                        driver: driver.clone(),
                        address,
                    });
                    self.preview_own(trial, domain, interface, &target, &mut notes)
                }),
            _ => {
                let target = Target::of(interface)?;
                self.preview_own(trial, domain, interface, &target, &mut notes)
            }
        };
        Some(Preview {
            network,
            outcome,
            notes,
        })
    }

    fn preview_port(
        &self,
        trial: &mut Trial,
        domain: &conf::Domain,
        interface: &Interface,
        numa_nodes: &[u16],
        notes: &mut Vec<String>,
    ) -> std::result::Result<Found, Refused> {
        let (name, port) = wanted_port(domain, interface)?;
        let object = self.network_by_name(name)?;
        let network = object.running()?;
        let port = conf::merge_port(port, &network)
            .map_err(crate::fault::document(rpc::Domain::Network))?;
        let owner = port_owner(&network, &port);
        let settings = Settings {
            vf: object.vf_settings(interface.vf, port.group.as_deref()),
            ..Settings::of_port(&port)
        };
        let (plug, taken, why) = match PortSource::of(&network, interface.direct_mode)? {
            PortSource::Bridge(plug) => (plug, false, "the network's bridge".to_owned()),
            PortSource::Pool(mode) => {
                let found = self
                    .lender
                    .try_choose(
                        trial,
                        &PoolRequest {
                            network: &network,
                            mode,
                            owner: &owner,
                            numa_nodes,
                        },
                    )
                    .map_err(|refusal| Refused {
                        error: refusal.to_string(),
                        advice: Some(refusal.advice()).filter(|advice| !advice.is_empty()),
                        rows: (refusal.explanation.as_ref())
                            .map_or_else(Vec::new, |table| self.pool_rows(table)),
                    })?;
                for (device, reason) in &found.passed_over {
                    notes.push(format!("{device} is passed over: {reason}"));
                }
                if let Some(note) = lone_pf(self, &network) {
                    notes.push(note);
                }
                (found.plug, true, found.choice.to_string())
            }
        };
        let target = Target::Plug(plug);
        let (wanted, preparation) = self.connection(domain, interface, &target, &settings)?;
        if !taken {
            (trial.claim(wanted, &owner)).map_err(|taken| Refused::of_text(&taken.to_string()))?;
        }
        let found = self.steps_of(wanted, &owner, &preparation, why, notes);
        if network.extension.host_access {
            notes.retain(|note| note != NO_HOST_ACCESS);
        }
        found
    }

    fn preview_own(
        &self,
        trial: &mut Trial,
        domain: &conf::Domain,
        interface: &Interface,
        target: &Target,
        notes: &mut Vec<String>,
    ) -> std::result::Result<Found, Refused> {
        let settings = Settings::own(interface);
        let (wanted, preparation) = self.connection(domain, interface, target, &settings)?;
        let owner = interface_owner(domain, interface);
        (trial.claim(wanted, &owner)).map_err(|taken| Refused::of_text(&taken.to_string()))?;
        let why = "the interface names it".to_owned();
        self.steps_of(wanted, &owner, &preparation, why, notes)
    }

    fn preview_hostdev(
        &self,
        trial: &mut Trial,
        domain: &conf::Domain,
        hostdev: &HostDevice,
    ) -> Preview {
        let find = |trial: &mut Trial| {
            let address = self.resolve(&hostdev.source)?;
            let wanted = Share::Whole(address.into());
            let owner = host_device_owner(domain, hostdev);
            (trial.claim(wanted, &owner)).map_err(|taken| Refused::of_text(&taken.to_string()))?;
            let preparation = Preparation::Vfio(VfioPreparation {
                managed: hostdev.managed,
                driver: hostdev.driver.clone(),
                network: None,
                profile: None,
            });
            let why = "the guest names it".to_owned();
            self.steps_of(wanted, &owner, &preparation, why, &mut Vec::new())
        };
        Preview {
            network: None,
            outcome: find(trial),
            notes: Vec::new(),
        }
    }

    /// The PF and number of a VF, whether a network lends it or not.
    fn vf_of(&self, device: DeviceId) -> Option<(String, u16)> {
        self.lender.place_of(device).or_else(|| {
            let vf = self.host.virtual_function(device.pci()?).ok()?;
            Some((vf.pf_netdev, vf.number))
        })
    }

    fn steps_of(
        &self,
        wanted: Share,
        owner: &assign::Owner,
        preparation: &Preparation,
        why: String,
        notes: &mut Vec<String>,
    ) -> std::result::Result<Found, Refused> {
        let steps = self
            .lender
            .steps(wanted, owner, preparation)
            .map_err(|obstacle| Refused {
                error: fault::chain(&obstacle),
                advice: obstacle.advice(),
                rows: Vec::new(),
            })?;
        let steps = steps.iter().map(ToString::to_string).collect();
        let (kind, device) = match (preparation, wanted) {
            (Preparation::Vfio(_), Share::Whole(device)) => (
                LentKind::Hostdev,
                match self.vf_of(device) {
                    Some((pf, number)) => format!("VF {number} of {pf} ({device})"),
                    None => device.to_string(),
                },
            ),
            (Preparation::Macvtap(macvtap), _) => {
                if macvtap.mode != DirectMode::Passthrough {
                    notes.push(NO_HOST_ACCESS.to_owned());
                }
                (
                    LentKind::Macvtap,
                    format!(
                        "macvtap on {} in {} mode",
                        macvtap.lower,
                        conf::xml::Keyword::word(macvtap.mode)
                    ),
                )
            }
            (Preparation::Tap(tap), _) => (
                LentKind::Tap,
                match &tap.bridge {
                    Some(bridge) => format!("tap in {bridge}"),
                    None => "tap".to_owned(),
                },
            ),
            (Preparation::Vfio(_), _) => (LentKind::Hostdev, "host device".to_owned()),
        };
        let pci_address = match wanted {
            Share::Whole(device) => device.pci().map(|address| address.to_string()),
            Share::Part(_) | Share::Tap => None,
        };
        Ok(Found {
            chosen: ChosenDevice {
                kind,
                device,
                pci_address,
                why,
            },
            steps,
        })
    }
}

/// A passthrough network that lists a PF by its name lends the PF itself, which is seldom meant.
fn lone_pf(daemon: &Daemon, network: &Network) -> Option<String> {
    let forward = network.forward.as_ref()?;
    let PoolMembers::Interfaces(names) = &forward.members else {
        return None;
    };
    let [name] = names.as_slice() else {
        return None;
    };
    let pf = daemon.host.physical_function(name).ok()?;
    (pf.max_vfs > 0 && network.default_direct_mode() == Some(DirectMode::Passthrough)).then(|| {
        format!("<interface dev='{name}'/> is the PF itself; <pf dev='{name}'/> would lend its VFs")
    })
}

fn report(
    element: &str,
    kind: &str,
    interface: Option<&Interface>,
    preview: Option<Preview>,
) -> PlannedDevice {
    let (network, outcome, notes) = match preview {
        Some(preview) => (preview.network, Some(preview.outcome), preview.notes),
        None => (None, None, Vec::new()),
    };
    let (choice, steps) = match outcome {
        Some(Ok(found)) => (PlannedChoice::Device(found.chosen), found.steps),
        Some(Err(refused)) => (
            PlannedChoice::Refused(PlanRefusal {
                error: refused.error,
                advice: refused.advice,
                rows: refused.rows,
            }),
            Vec::new(),
        ),
        None => (
            PlannedChoice::None("QEMU plays it alone".to_owned()),
            Vec::new(),
        ),
    };
    PlannedDevice {
        element: element.to_owned(),
        r#type: kind.to_owned(),
        mac: interface.map(|interface| interface.mac.to_string()),
        alias: interface.and_then(|interface| interface.info.alias.clone()),
        network,
        choice,
        steps,
        notes,
    }
}

impl Refused {
    /// An error in one text: what is wrong, and in the lines after it what to do.
    fn of_text(text: &str) -> Self {
        match text.split_once('\n') {
            Some((error, advice)) => Self {
                error: error.to_owned(),
                advice: Some(advice.to_owned()),
                rows: Vec::new(),
            },
            None => Self {
                error: text.to_owned(),
                advice: None,
                rows: Vec::new(),
            },
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::of_text(error.detail())
    }
}
