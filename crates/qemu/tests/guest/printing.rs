//! What a guest's process prints, over the lives of several daemons; with a stand-in for QEMU.

use std::os::unix::fs::MetadataExt;

use qemu::Launcher;
use serde_json::json;

use crate::common::Bench;
use crate::{SOON, in_a_daemon_s_life};

#[test]
fn what_qemu_prints_reaches_the_log_whichever_daemon_is_there() {
    let bench = Bench::serving();
    let print = |text: &str| json!({ "text": text });
    let record = in_a_daemon_s_life(async {
        let guest = Launcher::Qemu.launch(bench.spec()).await.unwrap().guest;
        let qmp = guest.qmp().unwrap();
        let said = qmp.execute("print", print("to the first"), Vec::new(), SOON);
        said.await.unwrap();
        guest.record().clone()
    });
    // Nobody reads now: neither the words nor the guest are lost.
    let monitor = crate::common::Monitor::connect(&record.monitor);
    monitor.command("print", &print("to nobody"));
    drop(monitor);
    in_a_daemon_s_life(async {
        let (guest, _events) = Launcher::Qemu.reconnect(&record, SOON).await.unwrap();
        let qmp = guest.qmp().unwrap();
        let said = qmp.execute("print", print("to the second"), Vec::new(), SOON);
        said.await.unwrap();
        guest.destroy().await.unwrap();
    });
    let log = std::fs::read_to_string(bench.log()).unwrap();
    let words: Vec<_> = log.lines().filter(|line| line.starts_with("to ")).collect();
    assert_eq!(words, ["to the first", "to nobody", "to the second"]);
    let metadata = std::fs::metadata(bench.log()).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
}

#[test]
fn a_guest_of_an_earlier_release_without_a_pipe_is_taken_up() {
    let bench = Bench::serving();
    let mut record = in_a_daemon_s_life(async {
        let guest = Launcher::Qemu.launch(bench.spec()).await.unwrap().guest;
        guest.record().clone()
    });
    record.output = None;
    in_a_daemon_s_life(async {
        let (guest, _events) = Launcher::Qemu.reconnect(&record, SOON).await.unwrap();
        guest.destroy().await.unwrap();
    });
}

#[tokio::test]
async fn a_process_can_not_reach_its_log() {
    let bench = Bench::with_script(
        "ls -l /proc/$$/fd >\"${0%/*}/fds\"\n\
         head -c 100000000 /dev/zero | tr '\\0' x >&2\n\
         exit 1",
    );
    let error = Launcher::Qemu.launch(bench.spec()).await.unwrap_err();
    assert!(error.to_string().len() < 10_000);
    let fds = std::fs::read_to_string(bench.path("fds")).unwrap();
    assert!(!fds.contains("web.log"), "{fds}");
    let size = std::fs::metadata(bench.log()).unwrap().len();
    assert!(size < 100_000, "{size}");
}
