//! What must hold of any text at all, for each root element: nothing panics, and what is read is written so that it reads
//! alike. The fuzz targets and a bounded test in `conf` share these.

use conf::{Domain, Form, HostDevice, Interface, Network, NetworkPort, NodeDevice};

/// A `<network>`.
pub(crate) fn network(text: &str) {
    let _ = conf::grammar::unread(text);
    let Ok(network) = Network::parse(text) else {
        return;
    };
    let _ = network.validate();
    let xml = network.to_xml(Form::Inactive);
    assert_eq!(Network::parse(&xml), Ok(network), "{xml}");
}

/// A `<networkport>`.
pub(crate) fn networkport(text: &str) {
    let Ok(port) = NetworkPort::parse(text) else {
        return;
    };
    let xml = port.to_xml();
    assert_eq!(NetworkPort::parse(&xml), Ok(port), "{xml}");
}

/// A node `<device>`.
pub(crate) fn nodedev(text: &str) {
    let Ok(device) = NodeDevice::parse(text) else {
        return;
    };
    let _ = device.capability_names();
    let xml = device.to_xml();
    assert_eq!(NodeDevice::parse(&xml), Ok(device), "{xml}");
}

/// A `<domain>`, as it was read, and filled in.
pub(crate) fn domain(text: &str) {
    let Ok(mut domain) = Domain::parse(text) else {
        return;
    };
    domain_again(&domain);
    let _ = domain.unsupported();
    domain.fill_defaults();
    if domain.assign_addresses(&|_| true).is_ok() {
        domain.assign_usb_addresses();
        domain_again(&domain);
        defined_again(&domain);
        shown_again(&mut domain);
    }
}

/// What is shown of the running guest defines the same guest, and its record is the same again.
fn shown_again(domain: &mut Domain) {
    let defined = domain.to_xml_with_secrets(Form::Inactive);
    domain.id = Some(1);
    domain.assign_aliases();
    let live = domain.to_xml_with_secrets(Form::Live);
    let again = Domain::parse(&live).unwrap_or_else(|error| panic!("{error}: {live}"));
    assert_eq!(again.to_xml_with_secrets(Form::Inactive), defined);
    let status = domain.to_status_xml();
    let again = Domain::parse_status(&status).unwrap_or_else(|error| panic!("{error}: {status}"));
    assert_eq!(again.to_status_xml(), status);
}

/// What was defined, defined again, is the same.
fn defined_again(domain: &Domain) {
    let xml = domain.to_xml(Form::Inactive);
    let Ok(mut again) = Domain::parse(&xml) else {
        return; // told already
    };
    again.fill_defaults();
    if let Err(error) = again.assign_addresses(&|_| true) {
        panic!("{error}: {xml}");
    }
    again.assign_usb_addresses();
    assert_eq!(again.to_xml(Form::Inactive), xml);
}

fn domain_again(domain: &Domain) {
    let xml = domain.to_xml_with_secrets(Form::Inactive);
    let again = Domain::parse(&xml).unwrap_or_else(|error| panic!("{error}: {xml}"));
    assert_eq!(again.to_xml_with_secrets(Form::Inactive), xml);
}

/// An `<interface>`.
pub(crate) fn interface(text: &str) {
    let Ok(interface) = Interface::parse(text) else {
        return;
    };
    let xml = interface.to_xml(Form::Inactive);
    let again = Interface::parse(&xml).unwrap_or_else(|error| panic!("{error}: {xml}"));
    assert_eq!(again.to_xml(Form::Inactive), xml);
}

/// A `<hostdev>`.
pub(crate) fn hostdev(text: &str) {
    let Ok(device) = HostDevice::parse(text) else {
        return;
    };
    let xml = device.to_xml(Form::Inactive);
    let again = HostDevice::parse(&xml).unwrap_or_else(|error| panic!("{error}: {xml}"));
    assert_eq!(again.to_xml(Form::Inactive), xml);
}
