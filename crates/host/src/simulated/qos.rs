//! Shaping, counters, abilities and port profiles of the simulated host.

use std::collections::{BTreeMap, HashMap, HashSet};

use conf::{Bandwidth, MacAddress, PciAddress};

use super::state::{Place, State, Stop, Target};
use super::{Effect, SimulatedHost};
use crate::{
    Counters, HostError, HostEvent, Netdev, NicAbility, Operation, PhysicalFunction, PortAction,
    PortProfile, PortRequest, VirtualFunction,
};

#[derive(Debug, Default)]
pub(super) struct Qos {
    /// By the device's index; without those that are not shaped.
    pub(super) bandwidths: BTreeMap<u32, Bandwidth>,
    /// PFs whose new VFs get no driver.
    pub(super) without_autoprobe: HashSet<u16>,
    /// What was last agreed for a guest's MAC.
    pub(super) profiles: BTreeMap<MacAddress, PortRequest>,
    abilities: HashMap<String, NicAbility>,
    counters: HashMap<PciAddress, Counters>,
    answer: PortAnswer,
}

impl Qos {
    /// A network device is gone, and its shaping with it.
    pub(super) fn netdev_gone(&mut self, ifindex: u32) {
        self.bandwidths.remove(&ifindex);
    }

    /// What a boot does not leave.
    pub(super) fn reboot(&mut self) {
        self.bandwidths.clear();
        self.without_autoprobe.clear();
        self.profiles.clear();
        self.counters.clear();
    }
}

/// What the simulated switch, or the agent that speaks to it, says to port profiles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PortAnswer {
    /// Success.
    #[default]
    Accept,
    /// A refusal with those words.
    Refuse(String),
    /// Nothing, within the time that one waits; that time is not spent.
    Silence,
    /// The card has no port profiles, or no agent runs.
    Unsupported,
}

impl SimulatedHost {
    /// What a network device that is neither a PF's nor a VF's can do; unless told, it is plain
    /// Ethernet.
    pub fn set_nic_ability(&self, netdev: &str, ability: NicAbility) {
        let mut state = self.lock();
        state.qos.abilities.insert(netdev.to_owned(), ability);
    }

    /// What went through a VF, from its point of view.
    pub fn set_vf_counters(&self, vf: PciAddress, counters: Counters) {
        self.lock().qos.counters.insert(vf, counters);
    }

    /// How requests for port profiles are answered from now on.
    pub fn set_port_answer(&self, answer: PortAnswer) {
        self.lock().qos.answer = answer;
    }

    /// The port profiles that are associated or announced now, by the guest's MAC.
    #[must_use]
    pub fn port_profiles(&self) -> BTreeMap<MacAddress, PortRequest> {
        self.lock().qos.profiles.clone()
    }

    /// How a network device is shaped now; the default: it is not.
    #[must_use]
    pub fn bandwidth(&self, ifindex: u32) -> Bandwidth {
        let state = self.lock();
        state
            .qos
            .bandwidths
            .get(&ifindex)
            .cloned()
            .unwrap_or_default()
    }

    /// The agent was told by the switch that a guest's port profile holds no longer.
    pub fn disassociate_port(&self, mac: MacAddress) {
        let mut state = self.lock();
        let Some(request) = state.qos.profiles.remove(&mac) else {
            return;
        };
        let instance = match request.profile {
            PortProfile::Qbg { instance_id, .. } => Some(instance_id),
            PortProfile::Qbh { .. } => None,
        };
        let event = HostEvent::PortDisassociated { mac, instance };
        state.watchers.send(&event);
    }

    pub(super) fn ability_of(&self, netdev: &Netdev) -> Result<NicAbility, HostError> {
        self.call(Operation::ReadNetdev, netdev.pci, |state, _| {
            Ok(match netdev.pci.map(|address| state.place(address)) {
                Some(Ok(Place::Pf(pf))) => NicAbility::SrIov {
                    max_vfs: state.shape.max_vfs(),
                    vfs: state.vf_count(pf),
                },
                Some(Ok(Place::Vf(..))) => NicAbility::VirtualFunction,
                Some(Ok(Place::Plain) | Err(_)) | None => {
                    let told = state.qos.abilities.get(netdev.name.as_str());
                    told.copied().unwrap_or(NicAbility::Ethernet)
                }
            })
        })
    }

    pub(super) fn counters_of(&self, vf: &VirtualFunction) -> Result<Option<Counters>, HostError> {
        self.call(Operation::ReadCounters, Some(vf.address), |state, _| {
            state.vf_place(vf.address)?;
            Ok(state.qos.counters.get(&vf.address).copied())
        })
    }

    pub(super) fn shape(&self, ifindex: u32, bandwidth: &Bandwidth) -> Result<(), HostError> {
        self.on(Operation::SetBandwidth, ifindex, |state, _, _| {
            crate::links::shapeable(bandwidth, || state.netdev_text(ifindex))?;
            if *bandwidth == Bandwidth::default() {
                if state.qos.bandwidths.remove(&ifindex).is_none() {
                    return Ok(());
                }
            } else {
                state.qos.bandwidths.insert(ifindex, bandwidth.clone());
            }
            state.effect(Effect::Bandwidth(ifindex, bandwidth.clone()))
        })
    }

    pub(super) fn autoprobe_of(&self, pf: &PhysicalFunction) -> Result<bool, HostError> {
        self.call(Operation::ReadInventory, Some(pf.address), |state, _| {
            let index = state.pf_place(pf.address)?;
            Ok(!state.qos.without_autoprobe.contains(&index))
        })
    }

    pub(super) fn change_autoprobe(
        &self,
        pf: &PhysicalFunction,
        on: bool,
    ) -> Result<(), HostError> {
        self.call(Operation::SetAutoprobe, Some(pf.address), |state, _| {
            let index = state.pf_place(pf.address)?;
            let off = &mut state.qos.without_autoprobe;
            let changed = if on {
                off.remove(&index)
            } else {
                off.insert(index)
            };
            if changed {
                state.effect(Effect::Autoprobe(pf.address, on))?;
            }
            Ok(())
        })
    }

    pub(super) fn ask_port(&self, request: &PortRequest) -> Result<(), HostError> {
        let link = request.profile.link();
        self.call(Operation::PortProfile, Target::Named(link), |state, _| {
            if state.index_of(link.as_str()).is_none() {
                return Err(HostError::NoNetdev(link.to_string()).into());
            }
            let refused = |reason: String| {
                Err(Stop::Error(HostError::PortProfile {
                    link: link.to_string(),
                    reason,
                }))
            };
            match (&state.qos.answer, request.action) {
                // Nobody waits for that answer.
                (PortAnswer::Refuse(_) | PortAnswer::Silence, PortAction::AssociateAgain)
                | (PortAnswer::Accept, _) => {}
                (PortAnswer::Refuse(reason), _) => return refused(reason.clone()),
                (PortAnswer::Silence, _) => {
                    return refused(String::from("there was no answer within 10 s"));
                }
                (PortAnswer::Unsupported, _) => {
                    return Err(Stop::Error(HostError::Unsupported {
                        target: format!("'{link}'"),
                        reason: String::from("it has no port profiles"),
                    }));
                }
            }
            if request.action == PortAction::Disassociate {
                state.qos.profiles.remove(&request.mac);
            } else {
                state.qos.profiles.insert(request.mac, request.clone());
            }
            state.effect(Effect::PortProfile(Box::new(request.clone())))
        })
    }
}

impl State {
    fn pf_place(&self, address: PciAddress) -> Result<u16, HostError> {
        match self.place(address)? {
            Place::Pf(pf) => Ok(pf),
            Place::Vf(..) | Place::Plain => {
                Err(HostError::NotPhysicalFunction(address.to_string()))
            }
        }
    }
}
