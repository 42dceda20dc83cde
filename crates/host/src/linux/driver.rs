//! Binding a device to a driver, and giving it back.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use conf::PciAddress;

use super::sysfs::Reading;
use super::uevent::UeventSocket;
use super::{LinuxHost, is_vfio};
use crate::{HostError, Operation};

/// How long a network device may take to appear after its driver has the VF. Most drivers make it
/// within the bind; some (iavf) only when the PF has answered.
const NETDEV_PATIENCE: Duration = Duration::from_secs(5);
/// Drivers that take network cards and make no network devices.
const WITHOUT_NETDEV: [&str; 5] = [
    "pci-stub",
    "pciback",
    "uio_pci_generic",
    "igb_uio",
    "xen-pciback",
];
const CLASS_NETWORK: u32 = 0x02;

impl LinuxHost {
    pub(super) fn bind_to(&self, address: PciAddress, driver: &str) -> Result<(), HostError> {
        let target = address.to_string();
        let writing = Reading {
            operation: Operation::Bind,
            target: &target,
        };
        let directory = self.sysfs.existing(address)?;
        let driver = self.available_driver(driver)?;
        let holder = self.sysfs.driver(address)?;
        if holder.as_deref() == Some(driver.as_str()) {
            return Ok(());
        }
        writing.write(&directory.join("driver_override"), &driver)?;
        self.take_from(address, holder.as_deref(), writing)?;
        self.probe(address, &driver, writing)
    }

    pub(super) fn give_back(
        &self,
        address: PciAddress,
        expect: Option<&str>,
    ) -> Result<(), HostError> {
        // No vfio driver takes a device unasked.
        if let Some(driver) = expect.filter(|driver| is_vfio(driver)) {
            return self.bind_to(address, driver);
        }
        let target = address.to_string();
        let writing = Reading {
            operation: Operation::Unbind,
            target: &target,
        };
        let directory = self.sysfs.existing(address)?;
        // A lone newline clears it; an empty write would not reach the kernel.
        writing.write(&directory.join("driver_override"), "\n")?;
        let holder = self.sysfs.driver(address)?;
        if holder.as_deref() == expect {
            return Ok(());
        }
        self.take_from(address, holder.as_deref(), writing)?;
        let Some(expect) = expect else {
            return Ok(());
        };
        let events = UeventSocket::open().map_err(|error| writing.refused(error))?;
        self.probe(address, expect, writing)?;
        if self.makes_netdev(address, expect)? {
            self.await_netdev(address, &events, writing)?;
        }
        Ok(())
    }

    /// Gives the function to the driver that the kernel chooses.
    pub(super) fn give_to_host(&self, address: PciAddress) -> Result<Option<String>, HostError> {
        let target = address.to_string();
        let writing = Reading {
            operation: Operation::Unbind,
            target: &target,
        };
        let directory = self.sysfs.existing(address)?;
        writing.write(&directory.join("driver_override"), "\n")?;
        let holder = self.sysfs.driver(address)?;
        self.take_from(address, holder.as_deref(), writing)?;
        let events = UeventSocket::open().map_err(|error| writing.refused(error))?;
        let file = self.sysfs.pci_bus().join("drivers_probe");
        let probed = writing.write(&file, &address.to_string());
        let Some(taker) = self.sysfs.driver(address)? else {
            // Refused, or no driver wants it, which is no fault.
            return probed.map(|()| None);
        };
        if self.makes_netdev(address, &taker)? {
            self.await_netdev(address, &events, writing)?;
        }
        Ok(Some(taker))
    }

    /// Unbinds. A write to a vfio driver's `unbind` would block until the group is closed, for
    /// ever if need be: so an open group is an error instead.
    fn take_from(
        &self,
        address: PciAddress,
        holder: Option<&str>,
        writing: Reading<'_>,
    ) -> Result<(), HostError> {
        let Some(holder) = holder else {
            return Ok(());
        };
        if is_vfio(holder) && self.holder_of_group(address)?.is_some() {
            const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
            return Err(writing.refused(io::Error::from_raw_os_error(EBUSY)));
        }
        let file = self.sysfs.device_dir(address).join("driver/unbind");
        match writing.write(&file, &address.to_string()) {
            // It lost its driver before we could take it.
            Err(HostError::Kernel { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Has the kernel look for a driver, which it does within the write, and checks which one it
    /// found.
    fn probe(
        &self,
        address: PciAddress,
        driver: &str,
        writing: Reading<'_>,
    ) -> Result<(), HostError> {
        let file = self.sysfs.pci_bus().join("drivers_probe");
        let probed = writing.write(&file, &address.to_string());
        let holder = self.sysfs.driver(address)?;
        if holder.as_deref() == Some(driver) {
            return Ok(());
        }
        probed?;
        Err(HostError::NotTaken {
            address,
            driver: driver.to_owned(),
            holder,
        })
    }

    /// The driver's name as the kernel has it, its module loaded.
    fn available_driver(&self, name: &str) -> Result<String, HostError> {
        let unavailable = |reason: String| no_driver(name, reason);
        let module = module_of(name)?;
        if let Some(found) = self.registered_driver(name, &module) {
            return Ok(found);
        }
        let loaded = Command::new(&self.paths.modprobe)
            .arg("-b")
            .arg("--")
            .arg(&module)
            .output();
        if let Some(found) = self.registered_driver(name, &module) {
            return Ok(found);
        }
        Err(unavailable(match loaded {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                match said.lines().map(str::trim).find(|line| !line.is_empty()) {
                    Some(line) => line.chars().take(200).collect(),
                    None => format!("module {module} is not there, or is blacklisted"),
                }
            }
            Err(error) => {
                let program = self.paths.modprobe.display();
                format!("module {module} is not loaded, and {program} can't be run: {error}")
            }
        }))
    }

    /// Refuses what [`LinuxHost::available_driver`] would, as far as that can be told without loading a
    /// module.
    pub(super) fn known_driver(&self, name: &str) -> Result<(), HostError> {
        let module = module_of(name)?;
        if self.registered_driver(name, &module).is_some() {
            return Ok(());
        }
        // Where the list can't be read, loading it is what tells.
        let Ok(modules) = fs::read_to_string(self.paths.modules.join("modules.dep")) else {
            return Ok(());
        };
        let is_it = |line: &str| {
            let file = line
                .split(':')
                .next()
                .and_then(|path| path.rsplit('/').next());
            let stem = file.and_then(|file| file.split(".ko").next());
            stem.is_some_and(|stem| stem.replace('-', "_") == module)
        };
        if modules.lines().any(is_it) {
            return Ok(());
        }
        Err(no_driver(name, format!("there is no module {module}")))
    }

    fn registered_driver(&self, name: &str, module: &str) -> Option<String> {
        let drivers = self.sysfs.pci_bus().join("drivers");
        if let Some(found) = [name, module]
            .into_iter()
            .find(|name| drivers.join(name).exists())
        {
            return Some(found.to_owned());
        }
        let of_module = fs::read_dir(self.sysfs.module_dir(module).join("drivers")).ok()?;
        let names = of_module
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_prefix("pci:").map(str::to_owned))
            .min()
    }

    /// Whether that driver makes a network device of that function.
    pub(super) fn makes_netdev(
        &self,
        address: PciAddress,
        driver: &str,
    ) -> Result<bool, HostError> {
        let is_network = self.sysfs.pci_device(address)?.class >> 16 == CLASS_NETWORK;
        Ok(is_network && !is_vfio(driver) && !WITHOUT_NETDEV.contains(&driver))
    }

    /// Waits for the network device, by the kernel's events. If none comes that is no failure of
    /// the driver's: whoever needs the device will see that it is not there.
    fn await_netdev(
        &self,
        address: PciAddress,
        events: &UeventSocket,
        writing: Reading<'_>,
    ) -> Result<(), HostError> {
        let deadline = Instant::now() + NETDEV_PATIENCE;
        while self.sysfs.netdevs(address)?.is_empty() {
            let waited = events
                .wait(deadline)
                .map_err(|error| writing.refused(error))?;
            if !waited {
                tracing::warn!(%address, "its driver made no network device");
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn modalias_driver(&self, address: PciAddress) -> Result<Option<String>, HostError> {
        let target = address.to_string();
        let reading = Reading {
            operation: Operation::ChooseDriver,
            target: &target,
        };
        let directory = self.sysfs.existing(address)?;
        let Some(modalias) = reading.text(&directory.join("modalias"))? else {
            return Ok(None);
        };
        let file: &Path = &self.paths.modules.join("modules.alias");
        let best = self.variants.best(file, &modalias);
        best.map_err(|error| reading.refused(error))
    }
}

fn no_driver(name: &str, reason: String) -> HostError {
    HostError::NoDriver {
        driver: name.chars().take(64).collect(),
        reason,
    }
}

/// The module of a driver.
fn module_of(name: &str) -> Result<String, HostError> {
    let plain = !name.is_empty() && name.len() <= 64 && !name.contains(['/', '\0', '.']);
    if !plain {
        return Err(no_driver(name, String::from("that is no driver's name")));
    }
    Ok(name.replace('-', "_"))
}
