//! Reading `<forward>`.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use super::extension::vf_count;
use super::{Nat, PfVfs};
use crate::xml::{Base, Element, FromXml, Keyword, parse_unsigned};
use crate::{Error, ErrorKind, Faults, Forward, ForwardMode, PciAddress, PoolMembers};

/// Reads `<forward>`; none for `mode='none'`. The second part is what its PFs say of their VFs.
pub(super) fn parse(element: Element<'_>) -> Result<(Option<Forward>, Vec<PfVfs>), Error> {
    let mut faults = Faults::default();
    let mode = match element.attribute("mode") {
        None | Some("") => Some(ForwardMode::Nat),
        Some("none") => match element.child("nat") {
            None => return Ok((None, Vec::new())),
            Some(nat) => {
                let message = "<nat> needs mode='nat', not 'none'";
                return Err(nat.error(ErrorKind::Xml, message));
            }
        },
        Some(word) => {
            let mode = ForwardMode::from_word(word);
            if mode.is_none() {
                let expected = format!("none, {}", ForwardMode::expected());
                faults.push(element.invalid(ErrorKind::ConfigUnsupported, "mode", expected));
            }
            mode
        }
    };
    let nat = mode.and_then(|mode| faults.or_default(nat(element, mode)));
    let (members, vfs) = faults.or_default(members(element, mode));
    let forward = Forward {
        mode: mode.unwrap_or(ForwardMode::Nat),
        // A pair's VF comes and goes while its guest runs: nobody else could bind it each time.
        managed: match (mode, element.attribute("managed")) {
            (Some(ForwardMode::HostdevHybrid), None) => true,
            _ => faults.or_default(super::read::lenient_yes_no(element, "managed")),
        },
        driver: (faults.or_default(element.parse_child("driver")))
            .filter(|driver| *driver != crate::HostDriver::default()),
        nat,
        members,
    };
    faults.finish()?;
    Ok((Some(forward), vfs))
}

/// The devices, and what is said of PFs' VFs. Which of them go together is told by the mode alone.
fn members(
    forward: Element<'_>,
    mode: Option<ForwardMode>,
) -> Result<(PoolMembers, Vec<PfVfs>), Error> {
    let mut faults = Faults::default();
    let interfaces = faults.or_default(interfaces(forward));
    let addresses = super::read::all(forward, "address", address, &mut faults);
    let (pfs, vfs) = faults.or_default(physical_functions(forward));
    faults.finish()?;
    let Some(mode) = mode else {
        return Ok((PoolMembers::None, vfs));
    };
    let kinds = [
        ("interface", !interfaces.is_empty()),
        ("address", !addresses.is_empty()),
        ("pf", !pfs.is_empty()),
    ];
    // Beside its PFs a running network shows the devices that they turned out to have; that says
    // nothing about the next start.
    let shown = match mode {
        ForwardMode::Hostdev | ForwardMode::HostdevHybrid => Some("address"),
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open => None,
        // One that is named by forward/@dev was not shown there.
        _ => Some("interface").filter(|name| forward.child(name).is_some()),
    };
    let counts = |name: &str| pfs.is_empty() || Some(name) != shown;
    let mut given = kinds.iter().filter(|(name, given)| *given && counts(name));
    if let (Some((one, _)), Some((other, _))) = (given.next(), given.next()) {
        return Err(forward.error(
            ErrorKind::Xml,
            format!("<forward> has both <{one}> and <{other}>: give one kind of device"),
        ));
    }
    Error::all([
        distinct(forward, "interface", &interfaces),
        distinct(forward, "address", &addresses),
        distinct(forward, "pf", &pfs),
    ])?;
    let members = if !pfs.is_empty() {
        PoolMembers::PhysicalFunctions(pfs)
    } else if !interfaces.is_empty() {
        PoolMembers::Interfaces(interfaces)
    } else if !addresses.is_empty() {
        PoolMembers::Addresses(addresses)
    } else {
        PoolMembers::None
    };
    Ok((members, vfs))
}

/// The `<interface>`s; `forward/@dev` is another name for the first.
fn interfaces(forward: Element<'_>) -> Result<Vec<String>, Error> {
    let mut faults = Faults::default();
    let name = |interface| device_name(interface).map(str::to_owned);
    let mut names = super::read::all(forward, "interface", name, &mut faults);
    faults.finish()?;
    if let Some(dev) = forward.attribute("dev").filter(|dev| !dev.is_empty()) {
        match names.first() {
            None => names.push(dev.to_owned()),
            Some(first) if first == dev => {}
            Some(first) => {
                return Err(forward.attribute_error(
                    ErrorKind::Xml,
                    "dev",
                    format!("dev='{dev}' on <forward> is not its first <interface>, '{first}'"),
                ));
            }
        }
    }
    Ok(names)
}

fn physical_functions(forward: Element<'_>) -> Result<(Vec<String>, Vec<PfVfs>), Error> {
    let (mut names, mut vfs) = (Vec::new(), Vec::new());
    let mut faults = Faults::default();
    faults.each(forward.children_named("pf"), |pf| {
        let mut faults = Faults::default();
        let name = faults.or_default(device_name(pf)).to_owned();
        if let Some(count) = faults.or_default(vf_count(pf)) {
            vfs.push(PfVfs {
                pf: name.clone(),
                count,
            });
        }
        names.push(name);
        faults.finish()
    });
    faults.finish()?;
    Ok((names, vfs))
}

pub(super) fn device_name(element: Element<'_>) -> Result<&str, Error> {
    match element.attribute("dev") {
        None | Some("") => Err(element.missing(ErrorKind::Xml, "dev")),
        Some(name) => Ok(name),
    }
}

fn address(element: Element<'_>) -> Result<PciAddress, Error> {
    match element.attribute("type") {
        Some("pci") => PciAddress::from_xml(element),
        None => Err(element.missing(ErrorKind::Xml, "type")),
        Some("netdev" | "none") => Err(element.invalid(ErrorKind::Xml, "type", "pci")),
        Some(_) => Err(element.invalid(ErrorKind::ConfigUnsupported, "type", "pci")),
    }
}

fn distinct<T: Eq + Hash + Display>(
    forward: Element<'_>,
    name: &str,
    devices: &[T],
) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let Some(index) = devices.iter().position(|device| !seen.insert(device)) else {
        return Ok(());
    };
    let place = forward.children_named(name).nth(index).unwrap_or(forward);
    let message = format!("<forward> names the <{name}> {} twice", devices[index]);
    Err(place.error(ErrorKind::Xml, message))
}

fn nat(forward: Element<'_>, mode: ForwardMode) -> Result<Option<Nat>, Error> {
    let mut elements = forward.children_named("nat");
    let Some(element) = elements.next() else {
        return Ok(None);
    };
    if let Some(second) = elements.next() {
        return Err(second.error(ErrorKind::Xml, "<forward> has more than one <nat>"));
    }
    if mode != ForwardMode::Nat {
        let message = format!("<nat> needs mode='nat', not '{}'", mode.word());
        return Err(element.error(ErrorKind::Xml, message));
    }
    let mut faults = Faults::default();
    let addresses = one(element, "address").and_then(|one| one.map(nat_addresses).transpose());
    let ports = one(element, "port").and_then(|one| one.map(nat_ports).transpose());
    let nat = Nat {
        ipv6: faults.or_default(element.yes_no("ipv6")),
        addresses: faults.or_default(addresses).flatten(),
        ports: faults.or_default(ports).flatten(),
    };
    faults.finish()?;
    Ok((nat != Nat::default()).then_some(nat))
}

/// The child of that name, of which there may be one.
fn one<'d>(nat: Element<'d>, name: &str) -> Result<Option<Element<'d>>, Error> {
    let mut children = nat.children_named(name);
    let first = children.next();
    match children.next() {
        None => Ok(first),
        Some(second) => {
            Err(second.error(ErrorKind::Xml, format!("<nat> has more than one <{name}>")))
        }
    }
}

fn nat_addresses(element: Element<'_>) -> Result<Option<(String, String)>, Error> {
    let address = |name| match super::ip::address(element, ErrorKind::Xml, name)? {
        Some(address) if address.is_ipv6() => {
            Err(element.invalid(ErrorKind::Xml, name, "an IPv4 address"))
        }
        address => Ok(address),
    };
    let mut faults = Faults::default();
    let (start, end) = (
        faults.or_default(address("start")),
        faults.or_default(address("end")),
    );
    faults.finish()?;
    match (start, end) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(element.missing(ErrorKind::Xml, "start")),
        (Some(start), end) => {
            let end = end.unwrap_or(start);
            if end < start {
                let expected = format!("an address not before {start}");
                return Err(element.invalid(ErrorKind::Internal, "end", expected));
            }
            Ok(Some((start.to_string(), end.to_string())))
        }
    }
}

fn nat_ports(element: Element<'_>) -> Result<Option<(u16, u16)>, Error> {
    let port = |name| {
        let Some(text) = element.attribute(name) else {
            return Err(element.missing(ErrorKind::XmlDetail, name));
        };
        parse_unsigned(text, Base::Ten)
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| element.invalid(ErrorKind::XmlDetail, name, "a port from 0 to 65535"))
    };
    let mut faults = Faults::default();
    let (start, end) = (
        faults.or_default(port("start")),
        faults.or_default(port("end")),
    );
    faults.finish()?;
    if start > end {
        let expected = format!("a port not below {start}");
        return Err(element.invalid(ErrorKind::XmlDetail, "end", expected));
    }
    Ok(((start, end) != (0, 0)).then_some((start, end)))
}
