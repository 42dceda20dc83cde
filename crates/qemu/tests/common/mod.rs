//! A stand-in for QEMU: a shell script that becomes this test program's `stand_in`, which serves
//! QMP on the listening socket that it was given.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use conf::Domain;
use qemu::LaunchSpec;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with an emulator in it.
pub(crate) struct Bench {
    directory: TempDir,
    emulator: PathBuf,
}

impl Bench {
    /// An emulator that is this script. `$MONITOR` is the number of the monitor's descriptor.
    pub(crate) fn with_script(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let emulator = directory.path().join("qemu-stand-in");
        let text = format!(
            "#!/bin/bash\n\
             MONITOR=$(printf '%s\\n' \"$@\" | sed -n 's/.*id=charmonitor,fd=\\([0-9]*\\).*/\\1/p')\n\
             {script}\n"
        );
        std::fs::write(&emulator, text).unwrap();
        std::fs::set_permissions(&emulator, PermissionsExt::from_mode(0o755)).unwrap();
        Self {
            directory,
            emulator,
        }
    }

    /// An emulator that serves QMP as QEMU would.
    pub(crate) fn serving() -> Self {
        let program = std::env::current_exe().unwrap();
        Self::with_script(&format!(
            "echo $$ >\"${{0%/*}}/pid\"\n\
             exec 0<&\"$MONITOR\"\n\
             cd \"${{0%/*}}\"\n\
             exec '{}' --ignored --exact stand_in --nocapture >/dev/null",
            program.display()
        ))
    }

    /// An emulator that is silent from that command on, and makes a file `muted` then.
    pub(crate) fn serving_muted_after(command: &str) -> Self {
        let bench = Self::serving();
        std::fs::write(bench.path("mute"), command).unwrap();
        bench
    }

    pub(crate) fn spec(&self) -> LaunchSpec {
        self.spec_with("")
    }

    /// A start of a guest with these elements more.
    pub(crate) fn spec_with(&self, more: &str) -> LaunchSpec {
        let xml = format!(
            "<domain type='qemu'>
               <name>web</name>
               <uuid>1ccfd97d-5eb4-478a-bbe6-88d254c16db7</uuid>
               <memory>131072</memory>
               <currentMemory>131072</currentMemory>
               <vcpu>1</vcpu>
               <os><type arch='x86_64' machine='q35'>hvm</type></os>
               <clock offset='utc'/>
               {more}
               <devices>
                 <emulator>{}</emulator>
                 <controller type='pci' index='0' model='pcie-root'>
                   <alias name='pcie.0'/>
                 </controller>
                 <serial type='pty'>
                   <target type='isa-serial' port='0'/><alias name='serial0'/>
                 </serial>
                 <memballoon model='none'/>
               </devices>
             </domain>",
            self.emulator.display()
        );
        let domain = Domain::parse_status(&xml).unwrap();
        let root = self.directory.path();
        LaunchSpec::new(domain, root.join("run"), self.log())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("web.log")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Whether a process runs: not gone, and not waiting to be collected.
pub(crate) fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let (_, rest) = stat.rsplit_once(')').unwrap();
        !rest.trim_start().starts_with('Z')
    })
}

/// The number that a script wrote to a file, once it has.
pub(crate) fn pid_in(path: &Path) -> u32 {
    std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// Waits until a process has ended.
pub(crate) fn wait_for_end(pid: u32) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return; // and was collected
    };
    let soon = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&soon)).unwrap();
    assert_eq!(ended, 1, "process {pid:?} goes on");
}

/// Serves one connection after the other on the listening socket that is our standard input.
pub(crate) fn serve() {
    // A test that fails leaves its guest alone, which is not to outlive the tests by much.
    std::thread::spawn(|| {
        let (_kept, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv_timeout(std::time::Duration::from_secs(120));
        std::process::exit(9);
    });
    let listener = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let listener = UnixListener::from(listener);
    let mut guest = Guest {
        status: "prelaunch",
        vcpus: [parked_thread(), parked_thread()],
    };
    for connection in listener.incoming() {
        guest.converse(connection.unwrap());
    }
}

/// A thread that does nothing, by its number.
fn parked_thread() -> i32 {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(rustix::thread::gettid());
        loop {
            std::thread::park();
        }
    });
    receiver.recv().unwrap().as_raw_nonzero().get()
}

struct Guest {
    status: &'static str,
    vcpus: [i32; 2],
}

impl Guest {
    fn converse(&mut self, connection: UnixStream) {
        let mut to = connection.try_clone().unwrap();
        let version = json!({ "qemu": { "major": 10, "minor": 0, "micro": 0 } });
        let greeting = json!({ "QMP": { "version": version, "capabilities": ["oob"] } });
        writeln!(to, "{greeting}").unwrap();
        for line in BufReader::new(connection).lines() {
            let Ok(line) = line else { return };
            let command: Value = serde_json::from_str(&line).unwrap();
            if std::fs::read_to_string("mute").is_ok_and(|mute| command["execute"] == mute) {
                std::fs::write("muted", "").unwrap();
                continue;
            }
            let (before, answer, after) = self.obey(&command);
            let mut answer = answer;
            answer["id"] = command["id"].clone();
            let texts = before.iter().chain([&answer]).chain(&after);
            let text: String = texts.map(|message| format!("{message}\r\n")).collect();
            if to.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Events before the answer, the answer, events after it.
    fn obey(&mut self, command: &Value) -> (Vec<Value>, Value, Vec<Value>) {
        let done = json!({ "return": {} });
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let answer = match command["execute"].as_str().unwrap() {
            "qmp_capabilities" | "set_link" => done,
            "query-status" => json!({ "return": { "status": self.status, "running": false } }),
            "query-cpus-fast" => json!({ "return": [
                { "cpu-index": 0, "thread-id": self.vcpus[0], "target": "x86_64" },
                { "cpu-index": 1, "thread-id": self.vcpus[1], "target": "x86_64" },
            ] }),
            "query-chardev" => json!({ "return": [
                { "label": "charmonitor", "filename": "unix:…,server=on", "frontend-open": true },
                { "label": "charserial0", "filename": "pty:/dev/pts/99", "frontend-open": true },
            ] }),
            "cont" => {
                self.status = "running";
                before.push(event("RESUME", json!({})));
                done
            }
            "stop" => {
                self.status = "paused";
                before.push(event("STOP", json!({})));
                done
            }
            "system_reset" => {
                after.push(event("RESET", json!({ "guest": false })));
                done
            }
            "system_powerdown" => {
                after.push(event("POWERDOWN", json!({})));
                after.extend(self.shut_down("guest-shutdown"));
                done
            }
            "shut-down-and-be-told-to-go" => {
                after.extend(self.shut_down("guest-shutdown"));
                let told = json!({ "guest": false, "reason": "host-signal" });
                after.push(event("SHUTDOWN", told));
                done
            }
            "guest-reboots" => {
                after.extend(self.shut_down("guest-reset"));
                done
            }
            "guest-panics" => {
                self.status = "guest-panicked";
                after.push(event("GUEST_PANICKED", json!({ "action": "pause" })));
                after.push(event("STOP", json!({})));
                done
            }
            "disk-fails" => {
                self.status = "io-error";
                after.push(event("BLOCK_IO_ERROR", json!({ "action": "stop" })));
                after.push(event("STOP", json!({})));
                done
            }
            "say-strange-things" => {
                before.push(json!("no object"));
                before.push(json!({ "neither": "nor" }));
                before.push(event("EVENT_OF_TOMORROW", json!({ "strange": [1, 2] })));
                before.push(json!({ "return": "to nobody", "id": 4711 }));
                done
            }
            "print" => {
                let text = command["arguments"]["text"].as_str().unwrap();
                std::io::stderr()
                    .write_all(format!("{text}\n").as_bytes())
                    .unwrap();
                done
            }
            "be-silent" => json!({}),
            "exit" => {
                std::process::exit(command["arguments"]["code"].as_i64().unwrap() as i32);
            }
            "human-monitor-command" => {
                let line = &command["arguments"]["command-line"];
                json!({ "return": format!("you said {}\r\n", line.as_str().unwrap()) })
            }
            other => json!({ "error": {
                "class": "CommandNotFound",
                "desc": format!("The command {other} has not been found"),
            } }),
        };
        (before, answer, after)
    }

    fn shut_down(&mut self, reason: &str) -> [Value; 2] {
        self.status = "shutdown";
        [
            event("SHUTDOWN", json!({ "guest": true, "reason": reason })),
            event("STOP", json!({})),
        ]
    }
}

fn event(name: &str, data: Value) -> Value {
    let time = json!({ "seconds": 1, "microseconds": 2 });
    json!({ "event": name, "data": data, "timestamp": time })
}

/// A connection of somebody else's to a stand-in's monitor.
pub(crate) struct Monitor(UnixStream);

impl Monitor {
    pub(crate) fn connect(path: &Path) -> Self {
        let monitor = Self(UnixStream::connect(path).unwrap());
        monitor.line();
        monitor
    }

    pub(crate) fn command(&self, name: &str, arguments: &Value) {
        let command = json!({ "execute": name, "arguments": arguments, "id": 1 });
        writeln!(&self.0, "{command}").unwrap();
        self.line();
    }

    fn line(&self) {
        // One byte after the other, since nothing may be lost to a buffer.
        let mut byte = [0];
        while byte != *b"\n" {
            std::io::Read::read_exact(&mut &self.0, &mut byte).unwrap();
        }
    }
}
