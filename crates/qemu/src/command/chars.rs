//! Serial ports and consoles.

use std::os::fd::RawFd;

use conf::{CharBackend, CharDevice, UnixChannel};

use super::json::Object;
use super::options::OptionList;
use super::{Builder, Problem};

impl Builder<'_> {
    pub(super) fn character_devices(&mut self) {
        for serial in &self.domain.devices.serials {
            let Some(alias) = self.alias(&serial.info, "serial") else {
                continue;
            };
            if self.backend(serial, &alias) {
                let device = self.serial_device(serial, &alias);
                self.device(device);
            }
        }
        for console in &self.domain.devices.consoles {
            // A console of type serial is the serial port, said again.
            match console.target_type.as_deref() {
                None | Some("serial") => {}
                Some(other) => self.refuse(format!("<console> with target type '{other}'")),
            }
        }
    }

    /// Sockets of the host's that are ports in the guest, as a guest agent's.
    pub(super) fn channels(&mut self) {
        for device in &self.domain.devices.others {
            let Some(channel) = device.unix_channel() else {
                continue;
            };
            let Some(alias) = self.alias(&device.info, "channel") else {
                continue;
            };
            match self.channel_device(&channel, &alias) {
                Ok((socket, port)) => {
                    let backend = OptionList::of("socket")
                        .with("id", format_args!("char{alias}"))
                        .with("fd", socket)
                        .with("server", "on")
                        .with("wait", "off");
                    self.option("-chardev", backend);
                    self.option("-device", port);
                }
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    fn channel_device(
        &self,
        channel: &UnixChannel,
        alias: &str,
    ) -> Result<(RawFd, Object), Problem> {
        let index = channel.controller;
        let controller = self
            .controllers_of("virtio-serial")
            .find(|controller| controller.index == index)
            .and_then(|controller| controller.info.alias.as_deref())
            .ok_or_else(|| Problem::NoController {
                device: alias.to_owned(),
                bus: format!("virtio-serial controller {index}"),
            })?;
        let socket = self.resources.channels.get(alias);
        let socket = socket.ok_or_else(|| Problem::NotConnected(alias.to_owned()))?;
        let port = Object::driver("virtserialport")
            .with("bus", format!("{controller}.0"))
            .with("nr", channel.port)
            .with("chardev", format!("char{alias}"))
            .with("id", alias)
            .maybe("name", channel.name.as_deref());
        Ok((*socket, port))
    }

    /// Adds the host's end; `false` if it can't be.
    fn backend(&mut self, device: &CharDevice, alias: &str) -> bool {
        let backend = |kind: &str| OptionList::of(kind).with("id", format_args!("char{alias}"));
        match &device.backend {
            CharBackend::Pty(_) => self.option("-chardev", backend("pty")),
            CharBackend::Null => self.option("-chardev", backend("null")),
            CharBackend::File { path, append } => {
                let set = self.file_set(alias);
                // A file that we opened begins where we say, so QEMU always appends to it.
                let append = set.is_some() || *append == Some(true);
                let file = backend("file")
                    .with("path", set.as_deref().unwrap_or(path))
                    .maybe("append", append.then_some("on"));
                self.option("-chardev", file);
            }
            CharBackend::Other { kind, .. } => {
                self.refuse(format!("<serial type='{kind}'>"));
                return false;
            }
        }
        true
    }

    fn serial_device(&self, serial: &CharDevice, alias: &str) -> Result<Object, Problem> {
        let default = match serial.target_type.as_deref() {
            Some("pci-serial") => "pci-serial",
            Some("usb-serial") => "usb-serial",
            _ => "isa-serial",
        };
        let model = serial.target_model.as_deref().unwrap_or(default);
        let device = Object::driver(model)
            .with("chardev", format!("char{alias}"))
            .with("id", alias);
        match model {
            "isa-serial" => Ok(device.with("index", serial.target_port.unwrap_or(0))),
            "pci-serial" => Ok(device.and(self.pci_address(&serial.info, alias)?)),
            "usb-serial" => Ok(device.and(self.usb_address(&serial.info, alias)?)),
            other => Err(Problem::Unsupported(format!(
                "<serial> with target model '{other}'"
            ))),
        }
    }
}
