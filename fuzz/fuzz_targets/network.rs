//! A `<network>` that is read is written so that it reads alike.
#![no_main]

use conf::{Form, Network};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = conf::grammar::unread(text);
    let Ok(network) = Network::parse(text) else {
        return;
    };
    let _ = network.validate();
    let xml = network.to_xml(Form::Inactive);
    assert_eq!(Network::parse(&xml), Ok(network), "{xml}");
});
