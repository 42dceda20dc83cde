//! A QEMU that nobody has a record of: its daemon died between starting and recording it.

use std::fs;
use std::io;

use conf::Uuid;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;

use crate::process::watched;

/// Ends the QEMU of that guest, if there is one, and returns when it is gone.
///
/// It is known by the guest's identity on its command line, so the caller must be sure that the
/// guest has no process that is wanted.
pub async fn kill_stray(guest: Uuid) -> io::Result<()> {
    for pid in find(guest)? {
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => continue,
            Err(error) => return Err(error.into()),
        };
        // Asked again, now that the number can't be another process's any more.
        if !is_of(pid, guest) {
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

fn find(guest: Uuid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|pid| is_of(*pid, guest)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A process that is gone by now is nobody's.
fn is_of(pid: Pid, guest: Uuid) -> bool {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    fs::read(path).is_ok_and(|cmdline| names(&cmdline, guest))
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
    async fn the_stray_of_that_guest_is_ended_and_no_other() {
        let guest = Uuid::new_v4();
        let start = |uuid: Uuid| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "echo; read line", "qemu", "-uuid", &uuid.to_string()]);
            shell.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut shell = shell.spawn().unwrap();
            // A process has its command line some moments after its start: it runs when it speaks.
            let mut speech = BufReader::new(shell.stdout.as_mut().unwrap());
            speech.read_line(&mut String::new()).unwrap();
            shell
        };
        let (mut stray, mut other) = (start(guest), start(Uuid::new_v4()));
        kill_stray(guest).await.unwrap();
        assert_eq!(stray.wait().unwrap().signal(), Some(9));
        // It ends only when its input does.
        drop(other.stdin.take());
        assert_eq!(other.wait().unwrap().signal(), None);
    }
}
