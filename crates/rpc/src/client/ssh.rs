//! Through the system's ssh, whose input and output are the connection.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connect::{ConnectError, Connecting, open as open_on};
use super::{CallError, Client, Events, OpenError};
use crate::bridge;
use crate::uri::{Proxy, Ssh, Uri};

/// How many of the last lines that ssh printed are kept, and how much of each, in bytes.
const LINES: usize = 5;
const LINE: u64 = 512;
/// For ssh to end by itself when the connection has.
const FAREWELL: Duration = Duration::from_secs(5);

/// The daemon's sockets over there.
const VIRTNIC: &str = "/run/virtnic/virtnic-sock";
const LIBVIRT: &str = "/run/libvirt/libvirt-sock";

pub(super) async fn open(
    ssh: &Ssh,
    uri: &Uri,
    how: &Connecting,
) -> Result<(Client, Events), ConnectError> {
    let program = ssh.command.as_deref().unwrap_or("ssh");
    let mut child = Command::new(program)
        .args(arguments(ssh, uri, how))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ConnectError::NoSsh {
            command: program.to_owned(),
            source,
        })?;
    let (ours, other) = UnixStream::pair().map_err(ConnectError::SetUp)?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        let source = std::io::Error::other("its input and output are not at hand");
        return Err(ConnectError::SetUp(source));
    };
    let said = Said::default();
    let (ending, mut ended) = watch::channel(());
    let lines = said.clone();
    tokio::spawn(async move {
        // Its words are read to the end: it must never wait for that.
        let words = tokio::spawn(lines.listen(stderr));
        bridge::join(other, tokio::io::join(stdout, stdin)).await;
        see_off(child, words).await;
        drop(ending);
    });
    match open_on(ours, uri, how, &ssh.host.to_string()).await {
        // It hung up: what it printed says why.
        Err(ConnectError::Open(source @ OpenError::Call(CallError::Disconnected))) => {
            // The sender is dropped at the end.
            let _ = timeout(how.time, ended.changed()).await;
            Err(ConnectError::Ssh {
                place: ssh.host.to_string(),
                said: said.lines(),
                source,
            })
        }
        opened => opened,
    }
}

/// Waits for ssh to end, for so long, and for its last words.
async fn see_off(mut child: Child, words: tokio::task::JoinHandle<()>) {
    match timeout(FAREWELL, child.wait()).await {
        Ok(Ok(status)) => tracing::debug!(%status, "ssh has ended"),
        Ok(Err(error)) => tracing::debug!(%error, "nobody knows how ssh ended"),
        Err(_) => {
            tracing::debug!("ssh does not end; it is killed");
            // It may have ended in that moment.
            let _ = child.kill().await;
        }
    }
    // A process that it left behind may still have the pipe.
    let _ = timeout(Duration::from_secs(1), words).await;
}

/// The last lines that ssh printed.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<VecDeque<String>>>);

impl Said {
    async fn listen(self, stderr: ChildStderr) {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut stderr).take(LINE).read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(1..)) {
                return;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let text = text.escape_debug().to_string();
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(text);
        }
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

/// What ssh is told. Nobody is there to be asked for a password.
fn arguments(ssh: &Ssh, uri: &Uri, how: &Connecting) -> Vec<String> {
    let text = |text: &str| text.to_owned();
    let seconds = how.time.as_secs().max(1);
    let mut arguments = vec![
        text("-T"),
        text("-e"),
        text("none"),
        text("-o"),
        text("BatchMode=yes"),
        text("-o"),
        format!("ConnectTimeout={seconds}"),
    ];
    let mut option = |letter: &str, value: Option<String>| {
        arguments.extend(value.into_iter().flat_map(|value| [text(letter), value]));
    };
    option("-p", ssh.port.map(|port| port.to_string()));
    option("-l", ssh.user.as_ref().map(|user| text(user.as_str())));
    option("-i", ssh.key_file.as_ref().map(|path| text(path.as_str())));
    arguments.extend([text("--"), ssh.host.to_string()]);
    arguments.push(format!(
        "sh -c {}",
        quoted(&script(ssh, uri, how.read_only))
    ));
    arguments
}

/// What runs over there: it joins its input and output to the daemon's socket.
fn script(ssh: &Ssh, uri: &Uri, read_only: bool) -> String {
    let (flag, suffix) = if read_only { ("-r ", "-ro") } else { ("", "") };
    let helper = format!("exec virt-ssh-helper {flag}{}", quoted(uri.name()));
    if ssh.proxy == Proxy::Native {
        return helper;
    }
    let netcat = quoted(ssh.netcat.as_deref().unwrap_or("nc"));
    // Netcats differ: some have to be told to hand the end of their input on, others do so untold and know
    // no such option.
    let join = format!(
        "case $({netcat} -h 2>&1) in *-N*) exec {netcat} -N -U \"$S\";; *) exec {netcat} -U \"$S\";; esac"
    );
    if let Some(socket) = &ssh.socket {
        return format!("S={}; {join}", quoted(socket.as_str()));
    }
    let ours = format!("if test -S {VIRTNIC}{suffix}; then S={VIRTNIC}{suffix}");
    let theirs = format!("S={LIBVIRT}{suffix}; fi");
    match ssh.proxy {
        Proxy::Netcat => format!("{ours}; else {theirs}; {join}"),
        Proxy::Auto | Proxy::Native => format!(
            "{ours}; elif command -v virt-ssh-helper >/dev/null 2>&1; then {helper}; else {theirs}; {join}"
        ),
    }
}

/// A word for a shell, whatever is in it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uri::Transport;

    fn told(uri: &str, read_only: bool) -> Vec<String> {
        let uri: Uri = uri.parse().unwrap();
        let Transport::Ssh(ssh) = uri.transport() else {
            panic!("{uri}");
        };
        let how = Connecting {
            read_only,
            ..Connecting::default()
        };
        arguments(ssh, &uri, &how)
    }

    #[test]
    fn options_come_before_the_host_and_one_command_after_it() {
        let told = told(
            "qemu+ssh://me@h1:99/system?keyfile=/k&socket=/a%20b&netcat=/bin/nc",
            false,
        );
        let options = "-T -e none -o BatchMode=yes -o ConnectTimeout=30 -p 99 -l me -i /k -- h1";
        assert_eq!(told[..told.len() - 1].join(" "), options);
        let script = told.last().unwrap();
        assert!(
            script.starts_with(r"sh -c 'S='\''/a b'\''; case $(/bin/nc "),
            "{script}"
        );
    }

    #[test]
    fn virtnic_comes_first_then_the_helper_then_libvirt() {
        let auto = told("qemu+ssh://h/system", false).pop().unwrap();
        let at = |part: &str| auto.find(part).unwrap_or_else(|| panic!("{part}: {auto}"));
        assert!(at(VIRTNIC) < at("exec virt-ssh-helper qemu:///system"));
        assert!(at("exec virt-ssh-helper") < at(LIBVIRT));
        let looking = told("qemu+ssh://h/system", true).pop().unwrap();
        assert!(looking.contains("virtnic-sock-ro;") && looking.contains("-helper -r qemu"));
        let netcat = told("qemu+ssh://h/system?proxy=netcat", false)
            .pop()
            .unwrap();
        assert!(!netcat.contains("helper"), "{netcat}");
        let native = told("qemu+ssh://h/system?proxy=native", false)
            .pop()
            .unwrap();
        assert_eq!(native, "sh -c 'exec virt-ssh-helper qemu:///system'");
        let named = told("qemu+ssh://h/system?socket=/s", false).pop().unwrap();
        assert!(
            !named.contains("helper") && named.contains("S=/s;"),
            "{named}"
        );
    }

    #[test]
    fn shells_take_nothing_for_theirs() {
        for word in ["", "a b", "$(x)", "it's", "`x`;\n", "*"] {
            let line = format!("printf %s {}", quoted(word));
            let twice = format!("sh -c {}", quoted(&line));
            let output = std::process::Command::new("sh")
                .args(["-c", &twice])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
