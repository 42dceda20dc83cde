//! With stand-ins for `busctl` and for `/proc`.

use std::fs;
use std::process::Command as Program;

use tempfile::TempDir;

use super::*;

/// Nobody's number.
const PID: u32 = 4_242_424;

const UNIT: &str = "virtnic-1ccfd97d-5eb4-478a-bbe6-88d254c16db7-4242424.scope";

const OURS: &str = "0::/system.slice/virtnicd.service\n";

/// A host with such a `busctl`, a shell script, whose process is in the daemon's group.
fn host(script: &str) -> (TempDir, Scopes) {
    let dir = tempfile::tempdir().unwrap();
    let busctl = dir.path().join("busctl");
    // By another process: one of ours that is open for writing might reach another test's child,
    // and can't be executed then.
    let written = Program::new("bash")
        .args(["-c", "printf '%s\\n' \"$1\" >\"$0\" && chmod +x \"$0\""])
        .arg(&busctl)
        .arg(format!("#!/bin/sh\nhere=${{0%/*}}\n{script}"))
        .status();
    assert!(written.unwrap().success());
    fs::create_dir(dir.path().join(PID.to_string())).unwrap();
    fs::write(group(&dir), OURS).unwrap();
    let mut scopes = Scopes::under_systemd(dir.path()).unwrap();
    scopes.busctl = busctl;
    scopes.proc = dir.path().to_owned();
    (dir, scopes)
}

/// The file that tells the process's group.
fn group(dir: &TempDir) -> PathBuf {
    dir.path().join(PID.to_string()).join("cgroup")
}

fn scope(name: &str) -> Scope<'_> {
    Scope {
        name,
        uuid: "1ccfd97d-5eb4-478a-bbe6-88d254c16db7".parse().unwrap(),
        pid: PID,
    }
}

#[test]
fn there_are_none_without_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let booted = dir.path().join("run/systemd/system");
    assert!(Scopes::under_systemd(&booted).is_none());
    fs::create_dir_all(&booted).unwrap();
    let scopes = Scopes::under_systemd(&booted).unwrap();
    assert_eq!(scopes.busctl, Path::new("busctl"));
}

#[tokio::test]
async fn systemd_is_called_with_each_argument_as_a_word() {
    let (dir, scopes) = host(&format!(
        "printf '%s\\n' \"$@\" >\"$here/words\"
         env >\"$here/environment\"
         echo 0::/machine.slice/{UNIT} >\"$here/{PID}/cgroup\""
    ));
    // Nothing of it is for a shell, or another option.
    scopes.make(&scope("-q 'a b' $(c); 100%")).await.unwrap();
    let words = fs::read_to_string(dir.path().join("words")).unwrap();
    let expected = format!(
        "--system --quiet --no-pager --allow-interactive-authorization=no -- call \
         org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager \
         StartTransientUnit ssa(sv)a(sa(sv)) {UNIT} fail 7 \
         Description s @ \
         Slice s machine.slice \
         PIDs au 1 {PID} \
         CollectMode s inactive-or-failed \
         TasksMax t 16384 \
         After as 1 virtnicd.service \
         Before as 1 virt-guest-shutdown.target \
         0"
    );
    let description = "guest -q 'a b' $(c); 100% of virtnicd";
    let expected: Vec<&str> = expected
        .split_whitespace()
        .map(|word| if word == "@" { description } else { word })
        .collect();
    assert_eq!(words.lines().collect::<Vec<_>>(), expected);

    // Nor does anything of the daemon's environment choose another bus.
    let environment = fs::read_to_string(dir.path().join("environment")).unwrap();
    let made_by_the_shell = ["PWD", "SHLVL", "_", "OLDPWD"];
    let mut names: Vec<&str> = environment
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .filter(|name| !made_by_the_shell.contains(name))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["LC_ALL", "PATH"]);
}

#[tokio::test]
async fn a_move_that_comes_after_the_answer_is_waited_for() {
    let (dir, scopes) = host("");
    let moved = group(&dir);
    let later = tokio::spawn(async move {
        sleep(Duration::from_millis(100)).await;
        let both = format!("4:memory:/x\n1:name=systemd:/machine.slice/{UNIT}\n0::/\n");
        fs::write(&moved, both).unwrap();
    });
    scopes.make(&scope("g")).await.unwrap();
    later.await.unwrap();
}

#[tokio::test]
async fn a_move_that_never_comes_is_told() {
    let (_dir, mut scopes) = host("");
    scopes.deadline = Duration::from_millis(100);
    let error = scopes.make(&scope("g")).await.unwrap_err().to_string();
    let expected = format!("systemd did not move it into {UNIT} within 0.1 s");
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_process_that_has_ended_needs_no_scope() {
    let (dir, scopes) = host("");
    fs::remove_dir_all(dir.path().join(PID.to_string())).unwrap();
    scopes.make(&scope("g")).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_told_in_systemds_words_and_not_in_all_of_them() {
    let (_dir, scopes) = host("echo 'Call failed: Access denied' >&2; exit 1");
    let error = scopes.make(&scope("g")).await.unwrap_err().to_string();
    let end = "/busctl ended with exit status: 1 and said: Call failed: Access denied";
    assert!(error.ends_with(end), "{error}");

    // One that goes on talking is not heard to its end.
    let (_dir, scopes) = host("while echo x$$$$$$$$$$$$$$$$$$$$$$$$$$$$ >&2; do :; done; exit 1");
    let error = scopes.make(&scope("g")).await.unwrap_err();
    assert!(matches!(error, ScopeError::Refused { .. }), "{error}");
    assert!(error.to_string().len() < 400, "{error}");
}

#[tokio::test]
async fn a_busctl_that_hangs_is_killed_in_time() {
    let (dir, mut scopes) = host("echo $$ >\"$here/pid\"\nexec sleep 1000");
    scopes.deadline = Duration::from_secs(1);
    let error = scopes.make(&scope("g")).await.unwrap_err().to_string();
    assert!(
        error.ends_with("/busctl did not answer within 1 s"),
        "{error}"
    );
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    let gone = async {
        while process.exists() {
            sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
}

#[tokio::test]
async fn a_busctl_that_is_not_there_is_named() {
    let (_dir, mut scopes) = host("");
    scopes.busctl = "/nonexistent/busctl".into();
    let error = scopes.make(&scope("g")).await.unwrap_err().to_string();
    let start = "/nonexistent/busctl can't be run: No such file";
    assert!(error.starts_with(start), "{error}");
}
