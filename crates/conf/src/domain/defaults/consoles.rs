//! Serial ports and consoles: the first console of a PC is its first serial port.

use crate::domain::{CharDevice, Domain};

impl Domain {
    pub(super) fn fill_consoles(&mut self) {
        let devices = &mut self.devices;
        number_ports(&mut devices.serials);
        number_ports(&mut devices.consoles);
        for serial in &mut devices.serials {
            let kind = serial
                .target_type
                .get_or_insert_with(|| "isa-serial".to_owned());
            let model = match kind.as_str() {
                "isa-serial" => Some("isa-serial"),
                "pci-serial" => Some("pci-serial"),
                "usb-serial" => Some("usb-serial"),
                "isa-debug" => Some("isa-debugcon"),
                _ => None,
            };
            if let Some(model) = model {
                serial.target_model.get_or_insert_with(|| model.to_owned());
            }
        }
        for console in &mut devices.consoles {
            console
                .target_type
                .get_or_insert_with(|| "serial".to_owned());
        }
        match (devices.serials.first(), devices.consoles.first_mut()) {
            (Some(serial), None) if serial.target_type.as_deref() == Some("isa-serial") => {
                let console = mirror(serial);
                devices.consoles.push(console);
            }
            (None, Some(console)) if console.target_type.as_deref() == Some("serial") => {
                let serial = CharDevice {
                    target_type: Some("isa-serial".to_owned()),
                    target_port: Some(0),
                    target_model: Some("isa-serial".to_owned()),
                    ..console.clone()
                };
                *console = mirror(&serial);
                devices.serials.push(serial);
            }
            (Some(serial), Some(console)) if console.target_type.as_deref() == Some("serial") => {
                *console = CharDevice {
                    info: console.info.clone(),
                    ..mirror(serial)
                };
            }
            _ => {}
        }
    }
}

/// A device without a port gets the one after the highest.
fn number_ports(devices: &mut [CharDevice]) {
    let highest = devices.iter().filter_map(|device| device.target_port).max();
    let mut next = highest.map_or(0, |port| port.saturating_add(1));
    for device in devices {
        if device.target_port.is_none() {
            device.target_port = Some(next);
            next = next.saturating_add(1);
        }
    }
}

/// The console that stands for a serial port, with its terminal where the guest runs.
fn mirror(serial: &CharDevice) -> CharDevice {
    CharDevice {
        backend: serial.backend.clone(),
        target_type: Some("serial".to_owned()),
        target_port: serial.target_port,
        target_model: None,
        info: crate::DeviceInfo::default(),
        unused: serial.unused.clone(),
    }
}

#[cfg(test)]
mod tests {
    use crate::Domain;
    use crate::domain::CharBackend;

    #[test]
    fn a_running_guests_console_keeps_its_terminal() {
        let mut domain = Domain::parse(
            "<domain type='kvm'><name>g1</name><memory>65536</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices><serial type='pty'/></devices></domain>",
        )
        .unwrap();
        domain.fill_defaults();
        let there = CharBackend::Pty(Some("/dev/pts/7".to_owned()));
        domain.devices.serials[0].backend = there.clone();
        domain.devices.consoles[0].backend = there.clone();
        domain.fill_defaults();
        assert_eq!(domain.devices.consoles[0].backend, there);
    }
}
