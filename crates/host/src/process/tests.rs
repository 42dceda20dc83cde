use std::fs::File;
use std::io::Seek;
use std::path::Path;

use rustix::process::{Resource, WaitId, WaitIdOptions};

use super::*;
use crate::{GuestGroup, own_cpus};

/// Nothing but the program.
fn plain(program: &str) -> Spawn {
    Spawn {
        program: program.into(),
        args: Vec::new(),
        environment: Vec::new(),
        output: tempfile::tempfile().unwrap().into(),
        inherited: Vec::new(),
        memory_lock: None,
        cpus: None,
        memory_policy: None,
        run_as: None,
    }
}

/// Runs a shell script, and returns what it printed and its exit status.
fn shell(script: &str, change: impl FnOnce(&mut Spawn)) -> (String, i32) {
    let output = tempfile::tempfile().unwrap();
    let mut spawn = plain("/bin/sh");
    spawn.args = vec!["-c".into(), script.into()];
    spawn.environment = vec![("PATH".into(), "/usr/bin:/bin".into())];
    spawn.output = output.try_clone().unwrap().into();
    change(&mut spawn);
    let spawned = spawn.spawn().unwrap();
    let status = wait(&spawned);
    (read(output), status)
}

fn wait(spawned: &Spawned) -> i32 {
    // The descriptor is non-blocking, so wait until it is readable first.
    let mut fds = [rustix::event::PollFd::new(
        &spawned.pidfd,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, None).unwrap();
    rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap()
        .exit_status()
        .unwrap()
}

fn read(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn the_environment_is_only_what_was_given() {
    let (text, status) = shell("echo $FRUIT; env | wc -l; pwd; exit 7", |spawn| {
        spawn.environment.push(("FRUIT".into(), "apple".into()));
    });
    // PATH, FRUIT, and PWD, which the shell makes itself.
    assert_eq!(text, "apple\n3\n/\n");
    assert_eq!(status, 7);
}

#[test]
fn it_leads_its_own_session() {
    let (text, _) = shell("cut -d' ' -f1,6 /proc/$$/stat", |_| {});
    let (pid, session) = text.trim().split_once(' ').unwrap();
    assert_eq!(pid, session);
}

#[test]
fn only_the_intended_descriptors_are_inherited() {
    let kept = tempfile::tempfile().unwrap();
    let number = kept.as_raw_fd();
    // One that somebody forgot to mark, with a number that no shell gives to its pipes.
    let leaked = tempfile::tempfile().unwrap();
    let leaked = rustix::io::fcntl_dupfd_cloexec(&leaked, 100).unwrap();
    rustix::io::fcntl_setfd(&leaked, FdFlags::empty()).unwrap();

    let copy = kept.try_clone().unwrap();
    // A shell need not know descriptors above 9 by number.
    let script = format!("echo written >/proc/$$/fd/{number}; ls /proc/$$/fd | tr '\\n' ' '");
    let (listing, _) = shell(&script, |spawn| spawn.inherited.push(kept.into()));

    assert_eq!(read(copy), "written\n");
    let open: Vec<RawFd> = listing
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    assert!(open.contains(&number), "{listing}");
    assert!(!open.contains(&leaked.as_raw_fd()), "{listing}");
}

#[test]
fn a_missing_program_is_said_to_be_missing() {
    let error = plain("/nonexistent/qemu").spawn().unwrap_err();
    assert_eq!(error.step, SpawnStep::Execute);
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        "starting /nonexistent/qemu failed while executing the program"
    );
}

#[test]
fn the_memory_lock_limit_rises_and_never_falls() {
    let now = rustix::process::getrlimit(Resource::Memlock).current;
    let (text, _) = shell("ulimit -l", |spawn| {
        spawn.memory_lock = Some(MemoryLock::AtLeast(1));
    });
    let unchanged = now.map_or("unlimited".to_owned(), |bytes| (bytes / 1024).to_string());
    assert_eq!(text.trim(), unchanged);

    let capabilities = rustix::thread::capabilities(None).unwrap().effective;
    if !capabilities.contains(CapabilitySet::SYS_RESOURCE) {
        eprintln!("SKIPPED: raising a hard limit needs CAP_SYS_RESOURCE");
        return;
    }
    let (text, _) = shell("ulimit -l", |spawn| {
        spawn.memory_lock = Some(MemoryLock::Unlimited);
    });
    assert_eq!(text.trim(), "unlimited");
}

#[test]
fn another_identity_has_no_capability_left() {
    if !is_root() {
        eprintln!("SKIPPED: changing identity needs root");
        return;
    }
    let script = "id -u; id -g; id -G; grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    for uid in [64321, 0] {
        let (text, _) = shell(script, |spawn| {
            spawn.run_as = Some(RunAs {
                uid,
                gid: 64322,
                groups: vec![64323],
            });
        });
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(uid.to_string().as_str()));
        assert_eq!(lines.next(), Some("64322"));
        assert_eq!(lines.next(), Some("64322 64323"));
        let bounding = text.lines().find(|l| l.starts_with("CapBnd")).unwrap();
        assert!(bounding.ends_with("0000000000000000"), "{text}");
        let effective = text.lines().find(|l| l.starts_with("CapEff")).unwrap();
        assert!(effective.ends_with("0000000000000000"), "{text}");
        assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    }
}

#[test]
fn what_is_a_guests_groups_only_its_own_process_opens() {
    if !is_root() || !GuestGroup::can_be_had(Path::new("/proc")) {
        eprintln!("SKIPPED: giving groups away needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    rustix::fs::chmod(directory.path(), Mode::from_raw_mode(0o755)).unwrap();
    let node = directory.path().join("12");
    std::fs::write(&node, "").unwrap();
    let (its, other) = (GuestGroup::draw(), GuestGroup::draw());
    let gid = rustix::fs::Gid::from_raw(its.gid());
    rustix::fs::chown(&node, None, Some(gid)).unwrap();
    rustix::fs::chmod(&node, Mode::from_raw_mode(0o660)).unwrap();
    // All run as one user, and have what all have.
    let opens = |own: Option<GuestGroup>| {
        let script = format!("id -G; : <>{} && echo opened", node.display());
        let (text, status) = shell(&script, |spawn| {
            let own = own.map(GuestGroup::gid);
            spawn.run_as = Some(RunAs {
                uid: 64321,
                gid: 64322,
                groups: [64323].into_iter().chain(own).collect(),
            });
        });
        assert!(text.starts_with("64322 64323"), "{text}");
        (text.ends_with("opened\n"), status)
    };
    assert_eq!(opens(Some(its)), (true, 0));
    assert!(!opens(Some(other)).0);
    assert!(!opens(None).0);
}

#[test]
fn a_refused_identity_names_the_step() {
    if is_root() {
        eprintln!("SKIPPED: root may become anyone");
        return;
    }
    let mut spawn = plain("/bin/true");
    spawn.run_as = Some(RunAs {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    });
    let error = spawn.spawn().unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(1));
}

#[test]
fn it_runs_on_the_cpus_that_were_chosen() {
    let last = *own_cpus().unwrap().last().unwrap();
    let (text, _) = shell("grep Cpus_allowed_list /proc/self/status", |spawn| {
        spawn.cpus = Some(vec![last]);
    });
    assert_eq!(text, format!("Cpus_allowed_list:\t{last}\n"));
}

#[test]
fn its_memory_comes_from_the_nodes_that_were_chosen() {
    if !Path::new("/proc/self/numa_maps").exists() {
        eprintln!("SKIPPED: the kernel knows no NUMA nodes");
        return;
    }
    for (mode, shown) in [
        (MemoryMode::Bind, " bind:0 "),
        (MemoryMode::Preferred, " prefer (many):0 "),
        (MemoryMode::Interleave, " interleave:0 "),
    ] {
        let (text, _) = shell("cat /proc/self/numa_maps", |spawn| {
            let nodes = vec![0];
            spawn.memory_policy = Some(MemoryPolicy { mode, nodes });
        });
        assert!(!text.is_empty());
        let all = text.lines().all(|line| format!("{line} ").contains(shown));
        assert!(all, "{mode:?}: {text}");
    }
}

#[test]
fn cpus_and_nodes_that_the_host_lacks_name_the_step() {
    let refused = |change: fn(&mut Spawn)| {
        let mut spawn = plain("/bin/true");
        change(&mut spawn);
        let error = spawn.spawn().unwrap_err();
        (error.step, error.source.raw_os_error())
    };
    let cpus = refused(|spawn| spawn.cpus = Some(vec![16_383]));
    assert_eq!(cpus, (SpawnStep::Affinity, Some(libc::EINVAL)));
    let nodes = refused(|spawn| {
        spawn.memory_policy = Some(MemoryPolicy {
            mode: MemoryMode::Bind,
            nodes: vec![900],
        });
    });
    assert_eq!(nodes, (SpawnStep::MemoryPolicy, Some(libc::EINVAL)));
}
