//! Virtual port profiles (802.1Qbg, 802.1Qbh, Open vSwitch, MidoNet).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::xml::{Base, Element, FromXml, Keyword, ToXml, Writer, keywords};
use crate::{Error, ErrorKind, Faults};

/// A port profile; which parameters a type needs and refuses is `behaviour` of libvirt's format:
/// <https://libvirt.org/formatnetwork.html>.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualPort {
    /// The protocol; port groups and interfaces of a network may leave it open.
    pub kind: Option<VirtualPortKind>,
    /// 802.1Qbg: VSI manager, 0–255.
    pub manager_id: Option<u8>,
    /// 802.1Qbg: VSI type, 0–0xffffff.
    pub type_id: Option<u32>,
    /// 802.1Qbg: version of the VSI type, 0–255.
    pub type_id_version: Option<u8>,
    /// 802.1Qbg: the VSI instance.
    pub instance_id: Option<Uuid>,
    /// Open vSwitch and MidoNet: the interface.
    pub interface_id: Option<Uuid>,
    /// 802.1Qbh and Open vSwitch: the profile's name, at most 39 bytes.
    pub profile_id: Option<String>,
}

/// The protocol of a port profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtualPortKind {
    /// VEPA with VDP, through lldpad.
    #[serde(rename = "802.1Qbg")]
    Qbg,
    /// VN-Link, through the kernel and the card.
    #[serde(rename = "802.1Qbh")]
    Qbh,
    /// An Open vSwitch port.
    #[serde(rename = "openvswitch")]
    OpenVSwitch,
    /// A MidoNet port.
    #[serde(rename = "midonet")]
    MidoNet,
}

/// How much a `<virtualport>` must say where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtualPortRules {
    /// Everything is optional: port groups, interfaces of a network, ports.
    Open,
    /// The type is needed: networks.
    Typed,
    /// The type and all its parameters are needed: interfaces of other types.
    Complete,
}

keywords!(VirtualPortKind {
    Qbg = "802.1Qbg",
    Qbh = "802.1Qbh",
    OpenVSwitch = "openvswitch",
    MidoNet = "midonet",
});

/// The longest profile name, bytes: `PORT_PROFILE_MAX` of the kernel's `if_link.h`, less its NUL.
const MAX_PROFILE: usize = 39;

impl VirtualPort {
    /// Reads `<virtualport>` where `rules` hold. Ids that libvirt makes up where they are missing
    /// are not made up here: see [`VirtualPort::generate_missing`].
    ///
    /// # Errors
    /// Unknown types, parameters out of range, and those that the type needs or forbids.
    pub fn parse(element: Element<'_>, rules: VirtualPortRules) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let kind = element.keyword_or(ErrorKind::ConfigUnsupported, "type");
        let kind = kind.and_then(|kind| match kind {
            None if rules != VirtualPortRules::Open => Err(element.missing(ErrorKind::Xml, "type")),
            kind => Ok(kind),
        });
        let kind = faults.or_default(kind);
        let parameters = element.child("parameters").map(Self::parameters);
        let port = Self {
            kind,
            ..faults.or_default(parameters.unwrap_or_else(|| Ok(Self::default())))
        };
        faults.finish()?;
        port.check_nothing_extra()
            .and_then(|()| match rules {
                VirtualPortRules::Complete => port.check_complete(true),
                _ => Ok(()),
            })
            .map_err(|error| element.error(error.kind, error.message))?;
        Ok(port)
    }

    fn parameters(element: Element<'_>) -> Result<Self, Error> {
        let profile_id = element
            .attribute_string("profileid")
            .filter(|profile| !profile.is_empty());
        let mut faults = Faults::default();
        if profile_id.as_ref().is_some_and(|p| p.len() > MAX_PROFILE) {
            faults.push(element.invalid(
                ErrorKind::Xml,
                "profileid",
                format_args!("at most {MAX_PROFILE} bytes"),
            ));
        }
        let port = Self {
            kind: None,
            manager_id: faults.or_default(element.number_in("managerid", Base::Any, 0xff)),
            type_id: faults.or_default(element.number_in("typeid", Base::Any, 0xff_ffff)),
            type_id_version: faults.or_default(element.number_in("typeidversion", Base::Any, 0xff)),
            instance_id: faults.or_default(element.uuid(ErrorKind::Xml, "instanceid")),
            interface_id: faults.or_default(element.uuid(ErrorKind::Xml, "interfaceid")),
            profile_id,
        };
        faults.finish()?;
        Ok(port)
    }

    /// Whether no parameter is given.
    fn has_no_parameters(&self) -> bool {
        Self {
            kind: None,
            ..self.clone()
        } == Self::default()
    }

    /// The parameters that are given, by their names in XML.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("managerid", self.manager_id.is_some()),
            ("typeid", self.type_id.is_some()),
            ("typeidversion", self.type_id_version.is_some()),
            ("instanceid", self.instance_id.is_some()),
            ("interfaceid", self.interface_id.is_some()),
            ("profileid", self.profile_id.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
    }

    /// Checks that no parameter is given which the type has no use for.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] naming type and parameter.
    pub fn check_nothing_extra(&self) -> Result<(), Error> {
        let Some(kind) = self.kind else {
            return Ok(());
        };
        // libvirt checks nothing for midonet.
        if kind == VirtualPortKind::MidoNet {
            return Ok(());
        }
        match self.given().find(|name| !kind.uses(name)) {
            None => Ok(()),
            Some(name) => Err(Error::new(
                ErrorKind::Xml,
                format!("<virtualport type='{}'> has no '{name}'", kind.word()),
            )),
        }
    }

    /// Checks that all parameters are given which the type needs. The ids that
    /// [`VirtualPort::generate_missing`] makes up may be missing if `may_generate`.
    ///
    /// # Errors
    /// [`ErrorKind::Xml`] naming type and parameter.
    pub fn check_complete(&self, may_generate: bool) -> Result<(), Error> {
        let Some(kind) = self.kind else {
            return Ok(());
        };
        let (needed, generated): (&[&str], &[&str]) = match kind {
            VirtualPortKind::Qbg => (&["managerid", "typeid", "typeidversion"], &["instanceid"]),
            VirtualPortKind::Qbh => (&["profileid"], &[]),
            VirtualPortKind::OpenVSwitch => (&[], &["interfaceid"]),
            VirtualPortKind::MidoNet => (&["interfaceid"], &[]),
        };
        let generated = if may_generate { &[] } else { generated };
        let missing = needed
            .iter()
            .chain(generated)
            .find(|&&name| !self.given().any(|given| given == name));
        match missing {
            None => Ok(()),
            Some(name) => Err(Error::new(
                ErrorKind::Xml,
                format!("<virtualport type='{}'> needs '{name}'", kind.word()),
            )),
        }
    }

    /// Makes up the ids that an interface's profile lacks: the instance for 802.1Qbg, the interface
    /// for Open vSwitch, both where the type is still open.
    pub fn generate_missing(&mut self) {
        if matches!(self.kind, None | Some(VirtualPortKind::Qbg)) {
            self.instance_id.get_or_insert_with(Uuid::new_v4);
        }
        if matches!(self.kind, None | Some(VirtualPortKind::OpenVSwitch)) {
            self.interface_id.get_or_insert_with(Uuid::new_v4);
        }
    }
}

impl VirtualPortKind {
    /// Whether a parameter means something to this type.
    pub(crate) fn uses(self, parameter: &str) -> bool {
        match self {
            Self::Qbg => matches!(
                parameter,
                "managerid" | "typeid" | "typeidversion" | "instanceid"
            ),
            Self::Qbh => parameter == "profileid",
            Self::OpenVSwitch => matches!(parameter, "interfaceid" | "profileid"),
            Self::MidoNet => parameter == "interfaceid",
        }
    }
}

impl FromXml for VirtualPort {
    /// With [`VirtualPortRules::Open`].
    fn from_xml(element: Element<'_>) -> Result<Self, Error> {
        Self::parse(element, VirtualPortRules::Open)
    }
}

impl ToXml for VirtualPort {
    /// Nothing, where it says nothing.
    fn write_xml(&self, writer: &mut Writer) {
        if self.kind.is_none() && self.has_no_parameters() {
            return;
        }
        let shown = |name| self.kind.is_none_or(|kind| kind.uses(name));
        writer.element("virtualport", |w| {
            w.optional_keyword("type", self.kind);
            w.element_unless_empty("parameters", |w| {
                let ids = self.manager_id.filter(|_| shown("managerid"));
                w.optional_attribute("managerid", ids);
                w.optional_attribute("typeid", self.type_id.filter(|_| shown("typeid")));
                let version = self.type_id_version.filter(|_| shown("typeidversion"));
                w.optional_attribute("typeidversion", version);
                let instance = self.instance_id.filter(|_| shown("instanceid"));
                w.optional_attribute("instanceid", instance);
                let interface = self.interface_id.filter(|_| shown("interfaceid"));
                w.optional_attribute("interfaceid", interface);
                let profile = self.profile_id.as_deref().filter(|_| shown("profileid"));
                w.optional_attribute("profileid", profile);
            });
        });
    }
}
