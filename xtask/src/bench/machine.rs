//! The part on this machine: both daemons in the lab's Debian root, in namespaces of their own.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use super::report::Sample;
use super::{BenchError, Lines};
use crate::lab::session::Sink;
use crate::lab::setup::{Lab, build_programs};
use crate::run::privileged;

/// Makes the root writable, in memory, and goes into it. Everything goes with the namespaces.
const ENTER: &str = "root=$1 programs=$2 checkout=$3; shift 3
    mount -t tmpfs bench \"$root/lab\"
    mkdir \"$root/lab/upper\" \"$root/lab/work\" \"$root/lab/new\"
    new=$root/lab/new
    mount -t overlay bench -o \"lowerdir=$root,upperdir=$root/lab/upper,workdir=$root/lab/work\" \"$new\"
    mount -t proc proc \"$new/proc\"
    mount -t sysfs sysfs \"$new/sys\"
    mount --rbind /dev \"$new/dev\"
    mount -t tmpfs -o mode=755 run \"$new/run\"
    mount -t tmpfs -o mode=1777 tmp \"$new/tmp\"
    mount --bind \"$programs\" \"$new/lab/run\"
    mount --bind \"$checkout\" \"$new/checkout\"
    chroot \"$new\" ip link set lo up
    exec chroot \"$new\" env -i HOME=/root LANG=C.UTF-8 PATH=/lab/run:/usr/sbin:/usr/bin:/sbin:/bin \"$@\"";

/// Ports and memory.
pub(super) fn ports(lab: &Lab, quick: bool) -> Result<Vec<Sample>, BenchError> {
    let (ports, kept) = if quick {
        ("400", "300")
    } else {
        ("4000", "600")
    };
    run(lab, &["machine.py", ports, kept])
}

/// Pools of all sizes.
pub(super) fn pools(lab: &Lab, quick: bool) -> Result<Vec<Sample>, BenchError> {
    if quick {
        run(lab, &["pools.py", "200", "16,1024,32768", "16,256"])
    } else {
        let sizes = "16,64,256,1024,4096,16384,32768";
        run(lab, &["pools.py", "2000", sizes, "16,256,1024"])
    }
}

/// A writer beside hostile readers.
pub(super) fn readers(lab: &Lab, quick: bool) -> Result<Vec<Sample>, BenchError> {
    let calls = if quick { "500" } else { "5000" };
    run(lab, &["readers.py", "200", calls])
}

/// Node devices, of a simulated host.
pub(super) fn devices(lab: &Lab) -> Result<Vec<Sample>, BenchError> {
    run(lab, &["devices.py", "simulated"])
}

/// Clients beside each other, and a restart.
pub(super) fn owners(lab: &Lab, quick: bool) -> Result<Vec<Sample>, BenchError> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["run", "--quiet", "--release", "--package", "virtnicd"])
        .args(["--example", "owners", "--"])
        .args(quick.then_some("--quick"))
        .current_dir(&lab.checkout);
    samples(cargo)
}

/// Runs one of the scripts in `lab/bench`, with its arguments, to its end.
fn run(lab: &Lab, script: &[&str]) -> Result<Vec<Sample>, BenchError> {
    let programs = build_programs(&["virtnicd", "virtnic"], true)?;
    let programs = programs
        .iter()
        .find(|program| program.ends_with("virtnicd"))
        .and_then(|program| program.parent())
        .ok_or(BenchError::NoProgram)?;
    let mut command = privileged("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--mount", "--net", "--uts", "--ipc", "--pid"])
        .args(["--fork", "--kill-child", "sh", "-ec", ENTER, "sh"])
        .args([&lab.root, programs, &lab.checkout] as [&Path; 3])
        .args(["env", "--chdir=/checkout/lab/bench", "python3", "-B"])
        .args(script);
    samples(command)
}

/// Runs a program to its end that says what it measured.
fn samples(mut command: Command) -> Result<Vec<Sample>, BenchError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(BenchError::Start)?;
    let mut lines = Lines::default();
    if let Some(output) = &mut child.stdout {
        take(output, &mut lines).map_err(BenchError::Start)?;
    }
    let status = child.wait().map_err(BenchError::Start)?;
    if status.success() {
        Ok(lines.samples)
    } else {
        Err(BenchError::Machine(status))
    }
}

fn take(output: &mut impl Read, lines: &mut Lines) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match output.read(&mut bytes)? {
            0 => return Ok(()),
            length => lines.out(&bytes[..length])?,
        }
    }
}
