//! Changing a network's `<dns>`.

use std::collections::HashSet;

use super::{NetworkUpdate, UpdateCommand, added, without};
use crate::network::Network;
use crate::network::dns::{DnsHost, DnsService, DnsText};
use crate::xml::{Document, FromXml};
use crate::{Error, ErrorKind};

impl Network {
    pub(super) fn update_dns_host(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let document = Document::parse(change.xml)?;
        let element = document.plain_named("host")?;
        let (address, names) = DnsHost::search(element)?;
        if address.is_none() && names.is_empty() {
            return Err(element.error(
                ErrorKind::XmlDetail,
                "<host> of <dns> needs the attribute 'ip' or a <hostname>",
            ));
        }
        let names: HashSet<String> = names.into_iter().collect();
        let meets = |host: &DnsHost| {
            address == Some(host.address) || host.names.iter().any(|name| names.contains(name))
        };
        let entries = &self.ip.dns.hosts;
        let entries = match change.command {
            UpdateCommand::Delete => without(entries, self.one_of(entries, meets, "<host>")?),
            _ => {
                self.none_of(entries, meets, "<host>")?;
                let first = change.command == UpdateCommand::AddFirst;
                added(entries, DnsHost::from_xml(element)?, first)
            }
        };
        self.ip.dns.hosts = entries;
        self.dns_enabled()
    }

    pub(super) fn update_dns_text(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let document = Document::parse(change.xml)?;
        let element = document.plain_named("txt")?;
        let (name, value) = (element.attribute("name"), element.attribute("value"));
        let Some(name) = name else {
            return Err(element.missing(ErrorKind::XmlDetail, "name"));
        };
        let entries = &self.ip.dns.texts;
        let entries = match change.command {
            UpdateCommand::Delete => {
                let fits = |text: &DnsText| {
                    text.name == name && value.is_none_or(|value| text.value == value)
                };
                without(entries, self.one_of(entries, fits, "<txt>")?)
            }
            _ => {
                self.none_of(entries, |text| text.name == name, "<txt>")?;
                let first = change.command == UpdateCommand::AddFirst;
                added(entries, DnsText::from_xml(element)?, first)
            }
        };
        self.ip.dns.texts = entries;
        self.dns_enabled()
    }

    pub(super) fn update_dns_service(&mut self, change: &NetworkUpdate<'_>) -> Result<(), Error> {
        self.not_modified(change)?;
        let document = Document::parse(change.xml)?;
        let element = document.plain_named("srv")?;
        let said = |name: &str, own: Option<&str>| {
            let wanted = element.attribute(name);
            wanted.is_none() || wanted == own
        };
        let fits = |service: &DnsService| {
            said("service", Some(&service.service))
                && said("protocol", Some(&service.protocol))
                && said("domain", service.domain.as_deref())
                && said("target", service.target.as_deref())
        };
        let entries = &self.ip.dns.services;
        let entries = match change.command {
            UpdateCommand::Delete => without(entries, self.one_of(entries, fits, "<srv>")?),
            _ => {
                self.none_of(entries, fits, "<srv>")?;
                let first = change.command == UpdateCommand::AddFirst;
                added(entries, DnsService::from_xml(element)?, first)
            }
        };
        self.ip.dns.services = entries;
        self.dns_enabled()
    }

    /// The one entry that fits.
    fn one_of<T>(
        &self,
        entries: &[T],
        fits: impl Fn(&T) -> bool,
        what: &str,
    ) -> Result<usize, Error> {
        let mut fitting = (0..entries.len()).filter(|&index| fits(&entries[index]));
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(self.invalid(format_args!("has no such {what} in its <dns>"))),
            (Some(_), Some(_)) => Err(self.invalid(format_args!(
                "has more than one such {what} in its <dns>; say more of the one that is meant"
            ))),
            (Some(index), None) => Ok(index),
        }
    }

    fn none_of<T>(
        &self,
        entries: &[T],
        meets: impl Fn(&T) -> bool,
        what: &str,
    ) -> Result<(), Error> {
        match entries.iter().any(meets) {
            false => Ok(()),
            true => Err(self.invalid(format_args!(
                "has a {what} in its <dns> already that says some of this"
            ))),
        }
    }

    /// A server that is switched off has no records.
    fn dns_enabled(&self) -> Result<(), Error> {
        match self.ip.dns.is_consistent() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Xml,
                format!("network '{}' has <dns enable='no'>", self.name),
            )),
        }
    }
}
