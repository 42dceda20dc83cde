//! What runs the emulated host: the processor's own virtualisation where that works, emulation elsewhere.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use super::boot::{base_arguments, end, qemu_command};
use super::early::PROBE_ANSWER;
use super::setup::Lab;
use crate::ui::Step;

/// A way to run an emulated host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    /// Linux's KVM.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

/// The choice can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccelError {
    /// The environment asks for something unknown.
    #[error("VIRTNIC_LAB_ACCEL is {0:?}: it may be \"kvm\" or \"tcg\"")]
    Unknown(String),
    /// The probe could not be carried out.
    #[error("can't find out whether KVM works")]
    Probe(#[source] io::Error),
}

impl Accel {
    /// QEMU's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Kvm, Self::Tcg]
            .into_iter()
            .find(|accel| accel.name() == text)
    }
}

/// How long a working KVM may take from power-on to the first program. It takes about a second.
const PATIENCE: Duration = Duration::from_secs(15);

/// What ends a QEMU whose console shares standard input with its monitor: Ctrl-A, x.
const QUIT: &[u8] = b"\x01x";

/// Chooses: what `VIRTNIC_LAB_ACCEL` says, else KVM if a host starts with it. The answer is kept until the next boot of
/// this machine, for `/dev/kvm` may be there and yet unable to run an ordinary kernel.
pub(crate) fn choose(lab: &Lab) -> Result<Accel, AccelError> {
    if let Some(wanted) = std::env::var_os("VIRTNIC_LAB_ACCEL") {
        let wanted = wanted.to_string_lossy();
        return Accel::parse(&wanted).ok_or_else(|| AccelError::Unknown(wanted.into_owned()));
    }
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accel::Tcg);
    }
    // What was tried: this kernel and initial file system, on this boot of the machine.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(AccelError::Probe)?;
    let tried = format!("{} {}", lab.early_dir.display(), boot.trim());
    let kept = lab.cache.dir().join("accel");
    let found = fs::read_to_string(&kept).ok().and_then(|text| {
        let (accel, of) = text.split_once(' ')?;
        (of == tried).then(|| Accel::parse(accel)).flatten()
    });
    if let Some(accel) = found {
        return Ok(accel);
    }
    let step = Step::start("Trying KVM");
    let accel = if starts_with_kvm(lab).map_err(AccelError::Probe)? {
        Accel::Kvm
    } else {
        Accel::Tcg
    };
    step.clear();
    crate::ui::say(&format!(
        "The lab runs with {} on this machine",
        accel.name()
    ));
    fs::write(&kept, format!("{} {tried}", accel.name())).map_err(AccelError::Probe)?;
    Ok(accel)
}

fn starts_with_kvm(lab: &Lab) -> io::Result<bool> {
    let arguments = base_arguments(Accel::Kvm, 512, "mon:stdio", "lab.probe");
    let mut qemu = qemu_command(lab, None, &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (answered, answer) = mpsc::channel();
    let output = qemu.stdout.take();
    let reader = std::thread::spawn(move || {
        let lines = output
            .into_iter()
            .flat_map(|output| BufReader::new(output).lines());
        let found = lines
            .map_while(Result::ok)
            .any(|line| line.contains(PROBE_ANSWER));
        // The other end has gone if it lost its patience.
        let _ = answered.send(found);
    });
    let works = answer.recv_timeout(PATIENCE).unwrap_or(false);
    end(&mut qemu, QUIT);
    // QEMU's end closed the pipe, so the reader is done.
    let _ = reader.join();
    Ok(works)
}
