//! Where a guest's threads run, with a stand-in for QEMU.

use qemu::{LaunchError, Launcher};
use serde_json::Value;

use crate::SOON;
use crate::common::{Bench, pid_in, runs};

/// The CPUs that a thread may run on.
fn allowed(pid: u32, thread: &Value) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

#[tokio::test]
async fn each_virtual_cpu_runs_where_it_is_pinned_and_the_rest_where_qemu_is() {
    let cpus = host::own_cpus().unwrap();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let bench = Bench::serving();
    let mut spec = bench.spec_with(&format!(
        "<cputune><vcpupin vcpu='0' cpuset='{last}'/><emulatorpin cpuset='{first}'/></cputune>\
         <numatune><memory mode='strict' nodeset='0'/></numatune>"
    ));
    spec.domain.vcpus = 2;
    let guest = Launcher::Qemu.launch(spec).await.unwrap().guest;

    let pid = guest.pid().unwrap();
    assert_eq!(allowed(pid, &pid.into()), first.to_string());
    let threads = guest
        .qmp()
        .unwrap()
        .execute("query-cpus-fast", Value::Null, Vec::new(), SOON)
        .await
        .unwrap();
    assert_eq!(allowed(pid, &threads[0]["thread-id"]), last.to_string());
    // It has no pin, so it is not where QEMU's own threads are confined to.
    let everywhere = conf::NumberSet::of(cpus).unwrap().to_string();
    assert_eq!(allowed(pid, &threads[1]["thread-id"]), everywhere);
    let maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps"));
    if let Ok(maps) = maps {
        assert!(maps.contains(" bind:0"), "{maps}");
    }
    guest.destroy().await.unwrap();
}

#[tokio::test]
async fn a_virtual_cpu_that_cannot_be_pinned_ends_the_start() {
    let bench = Bench::serving();
    let pin = "<cputune><vcpupin vcpu='0' cpuset='16383'/></cputune>";
    let error = Launcher::Qemu
        .launch(bench.spec_with(pin))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "virtual CPU 0 can't be pinned to the host's CPUs (16383)"
    );
    let LaunchError::Pin { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::InvalidInput);
    assert!(!runs(pid_in(&bench.path("pid"))));
}

#[tokio::test]
async fn cpus_that_qemu_cannot_have_keep_it_from_starting() {
    let bench = Bench::serving();
    let spec = bench.spec_with("<cputune><emulatorpin cpuset='16383'/></cputune>");
    let error = Launcher::Qemu.launch(spec).await.unwrap_err();
    let LaunchError::Spawn(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.step, host::SpawnStep::Affinity);
    assert!(!bench.path("pid").exists());
}
