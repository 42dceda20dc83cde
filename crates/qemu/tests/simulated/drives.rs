//! Media of drives, and what a disk's files have to be.

use std::fs::File;
use std::os::fd::OwnedFd;

use conf::{Disk, DiskSource};
use qemu::{ControlError, Faults, LaunchError, Leftovers, Plugged, Unplug, open_disk};

use crate::{Bench, Started, deleted, next};

/// A drive with a medium.
const DRIVE: &str = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
       <source file='/media/first.iso'/><target dev='sda' bus='sata'/><readonly/></disk>";

const ALIAS: &str = "sata0-0-0";

impl Started {
    /// The drive, with another medium or none.
    fn drive(&self, path: Option<&str>) -> Disk {
        let mut disk = self.domain.devices.disks[0].clone();
        assert_eq!(disk.info.alias.as_deref(), Some(ALIAS));
        disk.source = path.map(|path| DiskSource::File(path.to_owned()));
        disk
    }

    async fn change(&self, path: Option<&str>, force: bool) -> Result<(), ControlError> {
        let files = path.map(|_| File::open("/dev/null").unwrap().into());
        let files: Vec<OwnedFd> = files.into_iter().collect();
        self.guest
            .change_medium(&self.drive(path), files, force)
            .await
    }

    fn medium(&self) -> Option<String> {
        self.beside.medium(ALIAS)
    }
}

#[tokio::test]
async fn a_medium_is_changed_and_taken_out_and_the_old_one_leaves_nothing() {
    let bench = Bench::new();
    let web = bench.start_with(DRIVE).await;
    assert_eq!(web.medium().unwrap(), "sata0-0-0-storage");
    for _ in 0..10 {
        web.change(Some("/media/second.iso"), false).await.unwrap();
        assert_eq!(web.beside.nodes(), [web.medium().unwrap()]);
        assert_eq!(web.beside.descriptor_sets().len(), 1);
    }
    web.change(None, false).await.unwrap();
    assert_eq!(web.medium(), None);
    assert!(web.beside.nodes().is_empty() && web.beside.descriptor_sets().is_empty());
    web.change(None, false).await.unwrap();
    web.change(Some("/media/third.iso"), false).await.unwrap();
    assert_eq!(web.medium().unwrap(), "sata0-0-0-storage");
}

#[tokio::test]
async fn a_tray_that_the_guest_holds_stays_shut_unless_it_is_forced() {
    let bench = Bench::new();
    let web = bench.start_with(DRIVE).await;
    web.beside.lock_tray(ALIAS, true);
    let error = web
        .change(Some("/media/second.iso"), false)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("'sda' locked") && text.contains("try again"),
        "{text}"
    );
    assert_eq!(web.beside.nodes(), ["sata0-0-0-storage"]);
    assert!(web.beside.descriptor_sets().is_empty());
    web.change(Some("/media/second.iso"), true).await.unwrap();
    assert_eq!(web.medium().unwrap(), "sata0-0-0-storage1");
    web.beside.lock_tray(ALIAS, false);
    web.change(None, false).await.unwrap();
}

#[tokio::test]
async fn a_change_that_fails_leaves_the_old_medium() {
    let bench = Bench::new();
    let web = bench.start_with(DRIVE).await;
    for step in [
        "query-block",
        "query-named-block-nodes",
        "add-fd",
        "blockdev-add",
        "blockdev-open-tray",
        "blockdev-remove-medium",
        "blockdev-insert-medium",
    ] {
        web.beside.set_faults(Faults::default().refuse(step));
        let error = web
            .change(Some("/media/second.iso"), false)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(step), "{error}");
        assert_eq!(web.medium().unwrap(), "sata0-0-0-storage", "{step}");
        assert_eq!(web.beside.nodes(), ["sata0-0-0-storage"], "{step}");
        assert!(web.beside.descriptor_sets().is_empty(), "{step}");
    }
    // The tray won't close: the old one is in again, and it closes then.
    web.beside
        .set_faults(Faults::default().refuse("blockdev-close-tray"));
    web.change(Some("/media/second.iso"), false)
        .await
        .unwrap_err();
    assert_eq!(web.medium().unwrap(), "sata0-0-0-storage");
    assert_eq!(web.beside.nodes(), ["sata0-0-0-storage"]);
    // The new one is in, and what the old one had is cleared later.
    web.beside
        .set_faults(Faults::default().refuse("blockdev-del"));
    web.change(Some("/media/second.iso"), false).await.unwrap();
    assert_eq!(web.beside.nodes().len(), 2);
    let cleared = web.guest.clear_leftovers(ALIAS, Plugged::Medium).await;
    assert_eq!(cleared.unwrap(), Leftovers::None);
    assert_eq!(web.beside.nodes(), [web.medium().unwrap()]);
    assert_eq!(web.beside.descriptor_sets().len(), 1, "the medium's own");
}

#[tokio::test]
async fn what_a_drive_uses_is_not_cleared_below_it() {
    let bench = Bench::new();
    let mut web = bench
        .start_with(
            "<controller type='scsi' index='0' model='virtio-scsi'/>
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
           <source file='/i.qcow2'/><target dev='sda' bus='scsi'/></disk>",
        )
        .await;
    let alias = "scsi0-0-0-0";
    web.beside.set_faults(Faults {
        unplug: Unplug::WhenReleased,
        ..Faults::default()
    });
    let nodes = web.beside.nodes();
    assert_eq!(nodes.len(), 2);
    let left = web.guest.clear_leftovers(alias, Plugged::Disk).await;
    assert!(matches!(left.unwrap(), Leftovers::Device(_)));
    web.guest.remove_drive(alias).await.unwrap();
    assert_eq!(web.beside.nodes(), nodes);
    web.beside.release(alias);
    assert_eq!(next(&mut web.events).await, deleted(alias));
    web.guest.remove_drive(alias).await.unwrap();
    assert!(web.beside.nodes().is_empty());
    web.guest.remove_drive(alias).await.unwrap();
}

#[tokio::test]
async fn a_disk_on_a_bus_that_takes_none_is_refused_in_qemus_words() {
    let bench = Bench::new();
    let web = bench.start_with(DRIVE).await;
    let mut disk = web.drive(Some("/i.img"));
    disk.device = "disk".to_owned();
    disk.info.alias = Some("sata0-0-3".to_owned());
    let error = web.guest.plug_disk(&web.domain, &disk, Vec::new()).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("does not support hotplugging"), "{text}");
    assert_eq!(web.beside.nodes(), ["sata0-0-0-storage"]);
}

#[test]
fn the_files_of_a_disk_are_opened_as_at_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let xml = format!(
        "<domain type='qemu'><name>d</name><memory>131072</memory>
           <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
           <disk type='file' device='disk'><driver name='qemu' type='raw'/>
             <source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
        path.display()
    );
    let mut disk = conf::Domain::parse(&xml).unwrap().devices.disks.remove(0);
    let error = open_disk(&disk, true).unwrap_err();
    assert!(matches!(error, LaunchError::Prepare { .. }), "{error}");
    std::fs::write(&path, "").unwrap();
    assert_eq!(
        open_disk(&disk, true).unwrap().len(),
        2,
        "to look at, and to write to"
    );
    assert!(
        open_disk(&disk, false).unwrap().is_empty(),
        "QEMU opens it itself"
    );
    disk.read_only = true;
    assert_eq!(open_disk(&disk, true).unwrap().len(), 1);
    disk.source = Some(DiskSource::File("/dev".to_owned()));
    let error = open_disk(&disk, false).unwrap_err();
    assert!(matches!(error, LaunchError::NoFile { .. }), "{error}");
    disk.source = None;
    assert!(open_disk(&disk, true).unwrap().is_empty());
}
