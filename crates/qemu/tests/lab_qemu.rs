//! The same life with a real QEMU: what it is told, it understands. Runs in the lab.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "lab_qemu/failover.rs"]
mod failover;
#[path = "lab_qemu/plugging.rs"]
mod plugging;

use std::path::{Path, PathBuf};
use std::time::Duration;

use conf::Domain;
use qemu::{
    DEFAULT_EMULATOR, ExitReason, GuestEvent, GuestEvents, GuestState, LaunchError, LaunchSpec,
    Launched, Launcher, PauseReason, Unplugging,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(60);

/// A guest of that machine type with one of each device.
fn domain(machine: &str, root: &str, devices: &str, image: &Path) -> Domain {
    let xml = format!(
        "<domain type='qemu'>
           <name>all, of it</name>
           <uuid>1ccfd97d-5eb4-478a-bbe6-88d254c16db7</uuid>
           <memory>131072</memory>
           <currentMemory>65536</currentMemory>
           <vcpu current='1'>2</vcpu>
           <os><type arch='x86_64' machine='{machine}'>hvm</type><boot dev='hd'/></os>
           <features><acpi/><vmport state='off'/></features>
           <cpu mode='custom' match='exact' check='none'>
             <model fallback='forbid'>qemu64</model>
             <topology sockets='1' dies='1' clusters='1' cores='2' threads='1'/>
             <feature policy='disable' name='svm'/>
           </cpu>
           <clock offset='utc'>
             <timer name='rtc' tickpolicy='catchup'/><timer name='pit' tickpolicy='delay'/>
             <timer name='hpet' present='no'/>
           </clock>
           <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
           <devices>
             <emulator>{DEFAULT_EMULATOR}</emulator>
             {root}
             <disk type='file' device='disk'>
               <driver name='qemu' type='raw' cache='none' discard='unmap'/>
               <source file='{image}'/>
               <target dev='sda' bus='sata'/>
               <alias name='sata1-0-0'/>
               <address type='drive' controller='1' bus='0' target='0' unit='0'/>
             </disk>
             <interface type='user'>
               <mac address='52:54:00:09:a4:37'/><model type='virtio'/>
               <driver><host csum='off'/></driver>
               <link state='down'/>
               <alias name='net0'/>{nic}
             </interface>
             <serial type='pty'>
               <target type='isa-serial' port='0'/><alias name='serial0'/>
             </serial>
             <serial type='file'>
               <source path='{image}.log'/>
               <target type='isa-serial' port='1'/><alias name='serial1'/>
             </serial>
             {devices}
           </devices>
         </domain>",
        image = image.display(),
        nic = if machine == "q35" {
            "<address type='pci' bus='1' slot='0'/>"
        } else {
            "<address type='pci' bus='0' slot='3'/>"
        },
    );
    Domain::parse_status(&xml).unwrap()
}

fn q35(image: &Path) -> Domain {
    let port = |index: u32, function: u32, more: &str| {
        format!(
            "<controller type='pci' index='{index}' model='pcie-root-port'>
               <target chassis='{index}' port='{}'/><alias name='pci.{index}'/>
               <address type='pci' bus='0' slot='2' function='{function}'{more}/>
             </controller>",
            format_args!("{:#x}", 16 + function)
        )
    };
    let root = [
        "<controller type='pci' index='0' model='pcie-root'><alias name='pcie.0'/></controller>",
        &port(1, 0, " multifunction='on'"),
        &port(2, 1, ""),
        &port(3, 2, ""),
        &port(4, 3, ""),
        &port(5, 4, ""),
        "<controller type='usb' index='0' model='qemu-xhci'><alias name='usb'/>
           <address type='pci' bus='2' slot='0'/></controller>
         <controller type='sata' index='0'><alias name='ide'/>
           <address type='pci' bus='0' slot='31' function='2'/></controller>
         <controller type='sata' index='1'><alias name='sata1'/>
           <address type='pci' bus='0' slot='4'/></controller>
         <controller type='virtio-serial' index='0'><alias name='virtio-serial0'/>
           <address type='pci' bus='5' slot='0'/></controller>",
    ]
    .concat();
    let devices = "<memballoon model='virtio'><alias name='balloon0'/>
           <address type='pci' bus='3' slot='0'/></memballoon>
         <rng model='virtio'><rate bytes='1024' period='500'/>
           <backend model='random'>/dev/urandom</backend>
           <alias name='rng0'/><address type='pci' bus='4' slot='0'/></rng>
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>
           <alias name='channel0'/>
           <address type='virtio-serial' controller='0' bus='0' port='1'/></channel>
         <input type='tablet' bus='usb'><alias name='input0'/>
           <address type='usb' bus='0' port='1'/></input>
         <input type='mouse' bus='usb'><alias name='input1'/></input>";
    domain("q35", &root, devices, image)
}

fn pc(image: &Path) -> Domain {
    let root =
        "<controller type='pci' index='0' model='pci-root'><alias name='pci.0'/></controller>
         <controller type='usb' index='0' model='piix3-uhci'><alias name='usb'/>
           <address type='pci' bus='0' slot='1' function='2'/></controller>
         <controller type='ide' index='0'><alias name='ide'/>
           <address type='pci' bus='0' slot='1' function='1'/></controller>
         <controller type='sata' index='1'><alias name='sata1'/>
           <address type='pci' bus='0' slot='4'/></controller>
         <controller type='pci' index='1' model='pci-bridge'><target chassisNr='1'/>
           <alias name='pci.1'/><address type='pci' bus='0' slot='5'/></controller>";
    let devices = "<memballoon model='virtio'><alias name='balloon0'/>
           <address type='pci' bus='1' slot='1'/></memballoon>";
    domain("pc", root, devices, image)
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn every_device_is_understood() {
    for make in [q35, pc] {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk, one.img");
        std::fs::write(&image, vec![0; 1 << 20]).unwrap();
        let run = directory.path().join("r".repeat(120));
        let mut spec = LaunchSpec::new(make(&image), run, directory.path().join("log"));
        spec.paused = true;
        let has_channel = !spec.domain.devices.others.is_empty();
        let agent = qemu::channel_path(&spec.run_dir, "channel0");
        let Launched { guest, ptys, .. } = Launcher::Qemu.launch(spec).await.unwrap();
        assert_eq!(guest.state(), GuestState::Paused(PauseReason::Starting));
        assert_eq!(agent.exists(), has_channel);

        let qmp = guest.qmp().unwrap();
        assert_eq!(qmp.status().await.unwrap().to_string(), "prelaunch");
        let network = qmp.human("info network", SOON).await.unwrap();
        assert!(network.contains("52:54:00:09:a4:37"), "{network}");
        guest.resume().await.unwrap();
        assert_eq!(guest.state(), GuestState::Running);

        let mut console = qemu::open_console(Path::new(&ptys["serial0"])).unwrap();
        console.write_all(b"nobody reads this").await.unwrap();

        let exit = guest.destroy().await.unwrap();
        assert_eq!(exit.reason, ExitReason::Destroyed);
        // The terminal ends with the guest.
        let mut rest = Vec::new();
        console.read_to_end(&mut rest).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn its_own_words_explain_a_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.img");
    let log = directory.path().join("log");
    let spec = LaunchSpec::new(q35(&missing), directory.path().join("run"), log);
    let error = Launcher::Qemu.launch(spec).await.unwrap_err().to_string();
    assert!(
        error.starts_with("QEMU refused to start (exit status 1): "),
        "{error}"
    );
    assert!(error.contains("missing.img': No such file"), "{error}");
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn a_qemu_of_another_user_is_handed_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let log = directory.path().join("log");
    let mut spec = LaunchSpec::new(q35(&image), directory.path().join("run"), log);
    spec.run_as = Some(host::RunAs {
        uid: 64321,
        gid: 64321,
        groups: vec![64322],
    });
    let group = host::GuestGroup::draw();
    spec.own_group = Some(group);
    let guest = Launcher::Qemu.launch(spec).await.unwrap().guest;
    let pid = guest.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.contains("Uid:\t64321\t64321\t64321\t64321"),
        "{status}"
    );
    assert!(status.contains("CapPrm:\t0000000000000000"), "{status}");
    let groups = format!("Groups:\t64322 {}", group.gid());
    assert!(status.contains(&groups), "{status}");
    assert_eq!(guest.record().own_group, Some(group));
    guest.destroy().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn its_threads_and_memory_are_where_they_are_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let cpus = host::own_cpus().unwrap();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let mut domain = q35(&image);
    let place = &mut domain.placement;
    place.emulator_pin = conf::NumberSet::of([first]);
    place.vcpu_pins = conf::NumberSet::of([last])
        .map(|set| (0, set))
        .into_iter()
        .collect();
    place.memory = Some(conf::NumaMemory {
        mode: conf::NumaMode::Strict,
        nodes: conf::NumberSet::of([0]),
    });
    let log = directory.path().join("log");
    let spec = LaunchSpec::new(domain, directory.path().join("run"), log);
    let guest = Launcher::Qemu.launch(spec).await.unwrap().guest;

    let pid = guest.pid().unwrap();
    // QEMU gives its threads names.
    let mut seen = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap();
        let wanted = if name.starts_with("CPU 0/") {
            last
        } else {
            first
        };
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let line = format!("Cpus_allowed_list:\t{wanted}\n");
        assert!(status.contains(&line), "{name}: {status}");
        seen.push(name);
    }
    assert!(
        seen.iter().any(|name| name.starts_with("CPU 0/")),
        "{seen:?}"
    );
    let maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    assert!(maps.contains(" bind:0"), "{maps}");
    guest.destroy().await.unwrap();
}

/// A disk whose boot sector is these instructions.
fn bootable(directory: &Path, code: &[u8]) -> PathBuf {
    let mut image = vec![0; 1 << 20];
    image[..code.len()].copy_from_slice(code);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = directory.join("disk.img");
    std::fs::write(&path, image).unwrap();
    path
}

/// `mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt`: off, by ACPI.
const POWER_OFF: [u8; 8] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4];

/// `mov al, 0xfe; out 0x64, al; hlt`: reset, by the keyboard controller.
const RESET: [u8; 5] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4];

/// Starts a guest that runs these instructions, with that change of its document.
async fn running(directory: &Path, code: &[u8], change: impl FnOnce(&mut Domain)) -> Launched {
    let mut domain = q35(&bootable(directory, code));
    change(&mut domain);
    let spec = LaunchSpec::new(domain, directory.join("run"), directory.join("log"));
    Launcher::Qemu.launch(spec).await.unwrap()
}

async fn reach(events: &mut GuestEvents, wanted: GuestState) {
    loop {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap();
        if matches!(event.unwrap(), GuestEvent::State { to, .. } if to == wanted) {
            return;
        }
    }
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn a_guest_that_switches_itself_off_ends() {
    let directory = tempfile::tempdir().unwrap();
    let launched = running(directory.path(), &POWER_OFF, |_| {}).await;
    let exit = tokio::time::timeout(SOON, launched.guest.exited())
        .await
        .unwrap();
    assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: true });
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn a_guest_that_is_to_start_anew_does() {
    let directory = tempfile::tempdir().unwrap();
    let restart = |domain: &mut Domain| domain.lifecycle.on_poweroff = "restart".to_owned();
    let Launched {
        guest, mut events, ..
    } = running(directory.path(), &POWER_OFF, restart).await;
    for _ in 0..3 {
        reach(&mut events, GuestState::ShuttingDown).await;
        reach(&mut events, GuestState::Running).await;
    }
    guest.destroy().await.unwrap();
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn a_guest_s_own_reboot_can_be_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let destroy = |domain: &mut Domain| domain.lifecycle.on_reboot = "destroy".to_owned();
    let launched = running(directory.path(), &RESET, destroy).await;
    let exit = tokio::time::timeout(SOON, launched.guest.exited())
        .await
        .unwrap();
    assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: true });

    let Launched {
        guest, mut events, ..
    } = running(directory.path(), &RESET, |_| {}).await;
    loop {
        let event = tokio::time::timeout(SOON, events.recv()).await.unwrap();
        if event == Some(GuestEvent::Rebooted { by_guest: true }) {
            break;
        }
    }
    guest.destroy().await.unwrap();
}

#[test]
#[ignore = "needs the lab: a real QEMU"]
fn the_next_daemon_takes_the_guest_up() {
    let directory = tempfile::tempdir().unwrap();
    let in_a_daemon_s_life = || tokio::runtime::Runtime::new().unwrap();

    let first = in_a_daemon_s_life();
    let code = [0xeb, 0xfe]; // jmp to itself
    let launched = first.block_on(running(directory.path(), &code, |_| {}));
    let record = launched.guest.record().clone();
    first.shutdown_background();

    in_a_daemon_s_life().block_on(async {
        let (guest, _events) = Launcher::Qemu.reconnect(&record, SOON).await.unwrap();
        assert_eq!(guest.state(), GuestState::Running);
        guest.suspend().await.unwrap();
        guest.resume().await.unwrap();
        assert_eq!(guest.destroy().await.unwrap().reason, ExitReason::Destroyed);
    });
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn an_event_of_its_own_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let log = directory.path().join("log");
    let spec = LaunchSpec::new(q35(&image), directory.path().join("run"), log);
    let guest = Launcher::Qemu.launch(spec).await.unwrap().guest;
    guest.qmp().unwrap().human("quit", SOON).await.ok();
    let exit = tokio::time::timeout(SOON, guest.exited()).await.unwrap();
    assert_eq!(exit.reason, ExitReason::Shutdown { by_guest: false });
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn it_tells_what_it_has_and_what_its_cards_let_in() {
    let directory = tempfile::tempdir().unwrap();
    let code = [0xeb, 0xfe]; // jmp to itself
    let Launched { guest, .. } = running(directory.path(), &code, |_| {}).await;
    let devices = guest.device_aliases().await.unwrap();
    for alias in ["net0", "balloon0", "rng0", "channel0", "input1", "serial0"] {
        assert!(devices.contains(alias), "{alias}: {devices:?}");
    }
    assert!(!devices.contains("type"), "a property, and no device");
    let filters = guest.rx_filters().await.unwrap();
    assert_eq!(filters.len(), 1, "{filters:?}");
    assert_eq!(guest.rx_filter("net0").await.unwrap(), filters[0]);
    assert_eq!(filters[0].mac, "52:54:00:09:a4:37".parse().ok());
    assert!(guest.rx_filter("balloon0").await.is_err());
    guest.set_link("net0", true).await.unwrap();
    // No driver is there that would let it go.
    assert_eq!(guest.unplug("rng0").await.unwrap(), Unplugging::Asked);
    assert_eq!(guest.unplug("rng7").await.unwrap(), Unplugging::NotThere);
    guest.destroy().await.unwrap();
    assert!(!directory.path().join("run").exists());
}

#[test]
#[ignore = "needs the lab: a real QEMU"]
fn one_that_hangs_is_taken_up_and_answers_later() {
    let directory = tempfile::tempdir().unwrap();
    let first = tokio::runtime::Runtime::new().unwrap();
    let code = [0xeb, 0xfe]; // jmp to itself
    let launched = first.block_on(running(directory.path(), &code, |_| {}));
    let record = launched.guest.record().clone();
    first.shutdown_background();

    let pid = i32::try_from(record.pid).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    signal(rustix::process::Signal::STOP);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let patience = Duration::from_millis(200);
        let (guest, mut events) = Launcher::Qemu.reconnect(&record, patience).await.unwrap();
        assert_eq!(guest.state(), GuestState::Unknown);
        signal(rustix::process::Signal::CONT);
        reach(&mut events, GuestState::Running).await;
        guest.suspend().await.unwrap();
        guest.destroy().await.unwrap();
    });
}

#[tokio::test]
#[ignore = "needs the lab: a real QEMU"]
async fn a_start_that_is_given_up_leaves_no_qemu() {
    let directory = tempfile::tempdir().unwrap();
    let image = bootable(directory.path(), &POWER_OFF);
    let run_dir = directory.path().join("run");
    let spec = LaunchSpec::new(q35(&image), run_dir.clone(), directory.path().join("log"));
    let is_there = async {
        while !run_dir.join("output").exists() {
            tokio::task::yield_now().await;
        }
    };
    let error = Launcher::Qemu
        .launch_until(spec, is_there)
        .await
        .unwrap_err();
    assert!(matches!(error, LaunchError::GivenUp), "{error}");
    // A start that had made no process yet is not waited for, and cleans up behind itself.
    let is_gone = async {
        while run_dir.exists() {
            tokio::task::yield_now().await;
        }
    };
    let deadline = Duration::from_secs(20);
    tokio::time::timeout(deadline, is_gone).await.unwrap();
    let uuid = q35(&image).uuid;
    assert_eq!(Launcher::Qemu.find_stray(uuid).unwrap(), None);
}
