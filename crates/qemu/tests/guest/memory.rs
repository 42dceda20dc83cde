//! How much memory QEMU's process may lock.

use qemu::{ControlError, Launcher};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::Bench;

#[tokio::test]
async fn the_limit_of_a_process_that_runs_is_raised_and_never_lowered() {
    let bench = Bench::serving();
    let spec = bench.spec();
    let mut domain = spec.domain.clone();
    let guest = Launcher::Qemu.launch(spec).await.unwrap().guest;
    let pid = i32::try_from(guest.pid().unwrap()).unwrap();
    let limits = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let mut lines = text.lines();
        let line = lines.find(|line| line.contains("locked memory")).unwrap();
        let words: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
        words.join(" ")
    };
    let low = Rlimit {
        current: Some(1 << 20),
        maximum: Some(8 << 20),
    };
    prlimit(Pid::from_raw(pid), Resource::Memlock, low).unwrap();
    // Within what anybody may set.
    domain.memory_hard_limit_kib = Some(4096);
    guest.raise_memory_lock(&domain).unwrap();
    assert_eq!(limits(), "4194304 8388608");
    domain.memory_hard_limit_kib = Some(2048);
    guest.raise_memory_lock(&domain).unwrap();
    assert_eq!(limits(), "4194304 8388608");

    domain.memory_hard_limit_kib = None;
    match guest.raise_memory_lock(&domain) {
        // All of the guest's memory, and a GiB.
        Ok(()) => assert_eq!(limits(), "1207959552 1207959552"),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("1152 MiB") && text.contains("CAP_SYS_RESOURCE"),
                "{text}"
            );
            eprintln!("SKIPPED: raising a hard limit needs CAP_SYS_RESOURCE");
        }
    }
    guest.destroy().await.unwrap();
    let ended = guest.raise_memory_lock(&domain).unwrap_err();
    assert!(matches!(ended, ControlError::Ended { .. }));
}
