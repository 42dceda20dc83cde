//! A `<device>` that is read is written so that it reads alike.
#![no_main]

use conf::NodeDevice;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(device) = NodeDevice::parse(text) else {
        return;
    };
    let _ = device.capability_names();
    let xml = device.to_xml();
    assert_eq!(NodeDevice::parse(&xml), Ok(device), "{xml}");
});
