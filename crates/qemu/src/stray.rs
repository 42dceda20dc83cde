//! A QEMU that nobody has a record of: its daemon died between starting and recording it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use conf::Uuid;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;

use crate::process::watched;

/// The variable that marks a QEMU as ours: where its own directory is.
pub(crate) const MARK: &str = "HOME";

/// Its value. The directory is there.
pub(crate) fn mark(run_dir: &Path) -> OsString {
    resolved(run_dir).into_os_string()
}

/// Ends the QEMU of that guest, if there is one, and returns when it is gone.
///
/// It is known by the guest's identity on its command line, and by the directory that was made for
/// it below ours: another one's process, with whatever command line, and another daemon's guest
/// don't have that. The caller must be sure that the guest has no process that is wanted.
pub(crate) async fn kill(guest: Uuid, run_dir: &Path) -> io::Result<()> {
    let mark = mark(run_dir);
    let is_it = |pid| is_of(pid, guest, &mark);
    for pid in all(is_it)? {
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => continue,
            Err(error) => return Err(error.into()),
        };
        // Asked again, now that the number can't be another process's any more.
        if !is_it(pid) {
            continue;
        }
        match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let _ended = watched(pidfd, Interest::READABLE)?.readable().await?;
    }
    Ok(())
}

/// A process that may be that guest's: one with its identity on the command line, whoever started it.
/// Nothing is done to it; whoever asks wants to be sure that there is none, and the QEMU of an earlier
/// release has no mark.
pub(crate) fn find(guest: Uuid) -> io::Result<Option<u32>> {
    let found = all(|pid| has_command_line_of(pid, guest))?;
    let first = found.first().map(|pid| pid.as_raw_nonzero().get());
    Ok(first.and_then(|pid| pid.try_into().ok()))
}

/// The processes that daemons started for guests in directories below that one, by the guests'
/// identities.
pub(crate) fn below(guests: &Path) -> io::Result<Vec<(Uuid, u32)>> {
    let guests = resolved(guests);
    let of = |pid| {
        let environ = read_of(pid, "environ").ok()?;
        let mut variables = environ.split(|byte| *byte == 0);
        let home = variables.find_map(|one| one.strip_prefix(format!("{MARK}=").as_bytes()))?;
        let home = Path::new(std::ffi::OsStr::from_bytes(home));
        let guest: Uuid = home.strip_prefix(&guests).ok()?.to_str()?.parse().ok()?;
        has_command_line_of(pid, guest).then_some(guest)
    };
    let pids = all(|pid| of(pid).is_some())?.into_iter();
    let found =
        pids.filter_map(|pid| Some((of(pid)?, pid.as_raw_nonzero().get().try_into().ok()?)));
    Ok(found.collect())
}

/// One spelling of a path, whatever way led there.
fn resolved(path: &Path) -> PathBuf {
    let there = fs::canonicalize(path).or_else(|_| {
        // It may be gone already, and then its parent says enough.
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or_default();
        fs::canonicalize(parent).map(|parent| parent.join(name))
    });
    there.unwrap_or_else(|_| path.to_owned())
}

fn all(is_it: impl Fn(Pid) -> bool) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|pid| is_it(*pid)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A process that is gone by now is nobody's.
fn is_of(pid: Pid, guest: Uuid, mark: &OsString) -> bool {
    has_command_line_of(pid, guest)
        && read_of(pid, "environ").is_ok_and(|environ| is_marked(&environ, mark))
}

fn has_command_line_of(pid: Pid, guest: Uuid) -> bool {
    read_of(pid, "cmdline").is_ok_and(|cmdline| names(&cmdline, guest))
}

fn read_of(pid: Pid, what: &str) -> io::Result<Vec<u8>> {
    fs::read(format!("/proc/{}/{what}", pid.as_raw_nonzero()))
}

fn is_marked(environ: &[u8], mark: &OsString) -> bool {
    let mut variables = environ.split(|byte| *byte == 0);
    variables.any(|variable| {
        variable
            .strip_prefix(MARK.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|value| value == mark.as_bytes())
    })
}

/// Whether a command line has `-uuid` and then the guest's.
fn names(cmdline: &[u8], guest: Uuid) -> bool {
    let uuid = guest.to_string();
    let mut args = cmdline.split(|byte| *byte == 0);
    args.any(|arg| arg == b"-uuid") && args.next() == Some(uuid.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_command_line_names_its_guest() {
        let guest = Uuid::from_u128(7);
        let line = |uuid: Uuid| format!("qemu\0-S\0-uuid\0{uuid}\0-m\0").into_bytes();
        assert!(names(&line(guest), guest));
        assert!(!names(&line(Uuid::from_u128(8)), guest));
        assert!(!names(b"qemu\0-uuid", guest));
    }

    #[tokio::test]
    async fn the_stray_of_that_guest_is_ended_and_no_innocent_of_the_same_words() {
        let guest = Uuid::new_v4();
        let root = tempfile::tempdir().unwrap();
        let run_dir = root.path().join(guest.to_string());
        fs::create_dir(&run_dir).unwrap();
        let start = |uuid: Uuid, home: &Path| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "echo; read line", "qemu", "-uuid", &uuid.to_string()]);
            shell.env(MARK, home);
            shell.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut shell = shell.spawn().unwrap();
            // A process has its command line some moments after its start: it runs when it speaks.
            let mut speech = BufReader::new(shell.stdout.as_mut().unwrap());
            speech.read_line(&mut String::new()).unwrap();
            shell
        };
        let mut stray = start(guest, &run_dir);
        let innocent = start(guest, Path::new("/root"));
        let of_another_daemon = start(guest, &Path::new("/elsewhere").join(guest.to_string()));
        let of_another_guest = start(Uuid::new_v4(), &run_dir);

        // However the daemon spells its directory.
        let spelling = run_dir.join("..").join(guest.to_string());
        assert!(find(guest).unwrap().is_some());
        kill(guest, &spelling).await.unwrap();
        assert_eq!(stray.wait().unwrap().signal(), Some(9));
        // Whether those others are the guest nobody here can tell, so it is not said to be gone.
        assert!(find(guest).unwrap().is_some());
        for mut other in [innocent, of_another_daemon, of_another_guest] {
            // It ends only when its input does.
            drop(other.stdin.take());
            assert_eq!(other.wait().unwrap().signal(), None);
        }
        assert_eq!(find(guest).unwrap(), None);
        kill(guest, &root.path().join("gone")).await.unwrap();
    }
}
