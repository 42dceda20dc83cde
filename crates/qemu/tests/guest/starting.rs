//! A start that is given up, at each of its stages; with a stand-in for QEMU.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use conf::{Disk, DiskSource};
use qemu::{LaunchError, LaunchSpec, Launcher};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::SOON;
use crate::common::{Bench, pid_in, runs, wait_for_end};

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// A start with a disk, whose files are handed over.
fn with_disk(bench: &Bench, image: &Path) -> LaunchSpec {
    let mut spec = bench.spec_with("");
    let xml = format!(
        "<domain type='qemu'><name>d</name><memory>131072</memory>
           <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
           <controller type='sata' index='0'/>
           <disk type='file' device='disk'><driver name='qemu' type='raw'/>
             <source file='{}'/><target dev='sda' bus='sata'/>
             <address type='drive' controller='0' bus='0' target='0' unit='0'/></disk>
           </devices></domain>",
        image.display()
    );
    let mut domain = conf::Domain::parse(&xml).unwrap();
    domain.fill_defaults();
    domain.assign_aliases();
    let disk: Disk = domain.devices.disks.remove(0);
    assert!(matches!(disk.source, Some(DiskSource::File(_))));
    let sata = domain
        .devices
        .controllers
        .into_iter()
        .find(|c| c.kind == "sata");
    spec.domain.devices.controllers.extend(sata);
    spec.domain.devices.disks.push(disk);
    spec
}

#[tokio::test]
async fn a_fifo_is_no_image_whoever_opens_it() {
    let bench = Bench::serving();
    let fifo = bench.path("fifo");
    make_fifo(&fifo);
    for run_as in [
        None,
        Some(host::RunAs {
            uid: 64321,
            gid: 64321,
            groups: Vec::new(),
        }),
    ] {
        let mut spec = with_disk(&bench, &fifo);
        spec.run_as = run_as;
        let starting = Launcher::Qemu.launch(spec);
        let error = tokio::time::timeout(SOON, starting)
            .await
            .unwrap()
            .unwrap_err();
        assert!(matches!(error, LaunchError::NoFile { .. }), "{error}");
        assert!(error.to_string().contains("/fifo is a FIFO\n"), "{error}");
        assert!(!bench.path("pid").exists(), "nothing was started");
        assert!(!bench.path("run").exists());
    }
    let mut spec = bench.spec();
    spec.domain.os.kernel = Some(fifo.display().to_string());
    let error = Launcher::Qemu.launch(spec).await.unwrap_err();
    assert!(matches!(error, LaunchError::NoFile { .. }), "{error}");
}

/// Begins a start, and gives it up once `until` says that it has come so far.
async fn give_up(spec: LaunchSpec, until: impl Future<Output = ()>) {
    {
        let mut starting = pin!(Launcher::Qemu.launch(spec));
        tokio::select! {
            launched = &mut starting => panic!("{launched:?}"),
            () = until => {}
        }
    }
    // It was dropped here, and that did not wait for anything.
}

/// Waits for what no descriptor tells.
async fn eventually(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap();
}

#[tokio::test]
async fn given_up_before_its_process_is_there_none_comes() {
    let bench = Bench::serving();
    // Another start has the directory, so this one waits in the kernel.
    std::fs::create_dir(bench.path("run")).unwrap();
    let directory = std::fs::File::open(bench.path("run")).unwrap();
    let lock = rustix::fs::FlockOperation::LockExclusive;
    rustix::fs::flock(&directory, lock).unwrap();
    let run_dir = bench.path("run");
    let waits = || {
        // Someone else has it open: the start, which is about to wait for the lock.
        let mine = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let opened =
            mine.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == run_dir));
        opened.count() > 1
    };
    give_up(bench.spec(), eventually(waits)).await;
    // With a word it is the same, and so it is for the runtime's end.
    let told = Launcher::Qemu
        .launch_until(bench.spec(), eventually(waits))
        .await;
    assert!(matches!(told, Err(LaunchError::GivenUp)), "{told:?}");
    let spec = bench.spec();
    tokio::task::spawn_blocking(move || {
        let daemon = tokio::runtime::Runtime::new().unwrap();
        daemon.spawn(async move { Launcher::Qemu.launch(spec).await });
        drop(daemon);
    })
    .await
    .unwrap();
    drop(directory);
    eventually(|| !run_dir.exists()).await;
    assert!(
        !bench.path("pid").exists(),
        "it was started though nobody waited"
    );
}

#[tokio::test]
async fn given_up_while_it_is_silent_its_process_ends_and_its_directory_goes() {
    let bench = Bench::with_script("echo $$ >\"${0%/*}/pid\"\nexec sleep 1000");
    let mark = bench.path("pid");
    make_fifo(&mark);
    let (sender, started) = tokio::sync::oneshot::channel();
    // Reading it waits for the script.
    std::thread::spawn(move || sender.send(pid_in(&mark)));
    let mut pid = 0;
    give_up(bench.spec(), async { pid = started.await.unwrap() }).await;
    assert!(!bench.path("run").exists());
    tokio::task::spawn_blocking(move || wait_for_end(pid))
        .await
        .unwrap();
}

#[tokio::test]
async fn given_up_with_a_word_its_process_has_ended_when_that_is_told() {
    for bench in [
        Bench::with_script("echo $$ >\"${0%/*}/pid\"\ntouch \"${0%/*}/muted\"\nexec sleep 1000"),
        Bench::serving_muted_after("query-chardev"),
    ] {
        let is_on_its_way = bench.path("muted");
        let given_up = eventually(|| is_on_its_way.exists());
        let starting = Launcher::Qemu.launch_until(bench.spec(), given_up);
        let error = starting.await.unwrap_err();
        assert!(matches!(error, LaunchError::GivenUp), "{error}");
        assert!(!runs(pid_in(&bench.path("pid"))));
        assert!(!bench.path("run").exists());
    }
}

#[tokio::test]
async fn given_up_after_its_greeting_its_process_ends() {
    // It greets, and then answers nothing.
    let bench = Bench::serving_muted_after("query-chardev");
    let pid_file = bench.path("pid");
    let asked = bench.path("muted");
    give_up(bench.spec(), eventually(|| asked.exists())).await;
    assert!(!bench.path("run").exists());
    let pid = pid_in(&pid_file);
    eventually(|| !runs(pid)).await;
}

#[tokio::test]
async fn an_emulator_that_never_greets_is_dropped_at_once_and_the_guest_starts_again() {
    let silent = Bench::with_script("exec sleep 1000");
    let run_dir = silent.path("run");
    let monitor = run_dir.join("monitor.sock");
    give_up(silent.spec(), eventually(|| monitor.exists())).await;
    // The same directory, at once.
    let bench = Bench::serving();
    let mut spec = bench.spec();
    spec.run_dir = run_dir.clone();
    let guest = Launcher::Qemu.launch(spec).await.unwrap().guest;
    assert!(
        monitor.exists(),
        "the first start took nothing of the second's"
    );
    guest.destroy().await.unwrap();
    assert!(!run_dir.exists(), "it goes with its guest");
}

#[test]
fn a_runtime_that_ends_does_not_wait_for_a_start() {
    let bench = Bench::with_script("echo $$ >\"${0%/*}/pid\"\nexec sleep 1000");
    let mark = bench.path("pid");
    make_fifo(&mark);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let spec = bench.spec();
    runtime.spawn(async move { Launcher::Qemu.launch(spec).await });
    let pid = pid_in(&mark);
    drop(runtime);
    wait_for_end(pid);
}
