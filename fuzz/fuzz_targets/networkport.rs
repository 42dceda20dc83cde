//! A `<networkport>` that is read is written so that it reads alike.
#![no_main]

use conf::NetworkPort;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(port) = NetworkPort::parse(text) else {
        return;
    };
    let xml = port.to_xml();
    assert_eq!(NetworkPort::parse(&xml), Ok(port), "{xml}");
});
