//! Who has a vfio group open.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use conf::PciAddress;
use rustix::io::Errno;

use super::{LinuxHost, access};
use crate::{HostError, NodeAccess, Operation, VfioHolder};

impl LinuxHost {
    /// Who may open the group's node.
    pub(super) fn access_to_group(&self, group: u32) -> Result<Option<NodeAccess>, HostError> {
        match access::read(&self.vfio_node(group)) {
            Ok(access) => Ok(Some(access)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused_vfio(Operation::ReadInventory, group, error)),
        }
    }

    /// Sets that.
    pub(super) fn give_access_to_group(
        &self,
        group: u32,
        access: NodeAccess,
    ) -> Result<(), HostError> {
        access::set(&self.vfio_node(group), access)
            .map_err(|error| self.refused_vfio(Operation::GrantVfio, group, error))
    }

    fn vfio_node(&self, group: u32) -> PathBuf {
        self.paths.dev.join(format!("vfio/{group}"))
    }

    fn refused_vfio(&self, operation: Operation, group: u32, source: io::Error) -> HostError {
        HostError::Kernel {
            operation,
            target: self.vfio_node(group).display().to_string(),
            source,
        }
    }

    /// Who holds the function's vfio group.
    pub(super) fn holder_of_group(
        &self,
        address: PciAddress,
    ) -> Result<Option<VfioHolder>, HostError> {
        let Some(group) = self.sysfs.iommu_group(address)? else {
            return Ok(None);
        };
        let group = group.number;
        let file = self.vfio_node(group);
        // The kernel lets one process at a time open a group.
        match OpenOptions::new().read(true).write(true).open(&file) {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                let process = process_with(&self.paths.proc, &file);
                Ok(Some(VfioHolder { group, process }))
            }
            Err(source) => Err(HostError::Kernel {
                operation: Operation::ReadUsage,
                target: format!("vfio group {group} ({address})"),
                source,
            }),
        }
    }
}

/// The process that has the file open, as far as it is to be seen. Processes come and go meanwhile.
fn process_with(proc: &Path, file: &Path) -> Option<u32> {
    let names = fs::read_dir(proc)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name());
    let mut processes = names.filter_map(|name| name.to_str()?.parse::<u32>().ok());
    processes.find(|process| {
        let open = fs::read_dir(proc.join(format!("{process}/fd")));
        let mut open = open.into_iter().flatten().flatten();
        open.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == file))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_has_a_file_open_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("12");
        let proc = Path::new("/proc");
        fs::write(&file, "").unwrap();
        assert_eq!(process_with(proc, &file), None);
        let _open = fs::File::open(&file).unwrap();
        assert_eq!(process_with(proc, &file), Some(std::process::id()));
    }
}
