//! Inputs on USB. Those on PS/2 are the machine's own.

use conf::UsbInput;

use super::Builder;
use super::json::Object;

impl Builder<'_> {
    pub(super) fn inputs(&mut self) {
        for device in &self.domain.devices.others {
            let Some(input) = device.usb_input() else {
                continue;
            };
            let Some(alias) = self.alias(&device.info, "input") else {
                continue;
            };
            let driver = match input {
                UsbInput::Tablet => "usb-tablet",
                UsbInput::Mouse => "usb-mouse",
                UsbInput::Keyboard => "usb-kbd",
            };
            let place = self.usb_address(&device.info, &alias);
            let device = place.map(|place| Object::driver(driver).with("id", alias).and(place));
            self.device(device);
        }
    }
}
