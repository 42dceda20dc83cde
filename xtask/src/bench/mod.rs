//! `cargo xtask bench`: how long virtnicd takes and how much memory it has, beside libvirtd in the same run.
//!
//! The measuring is done by the scripts in `lab/bench`, through libvirt-python and `virsh`; this runs them and sums up.

mod machine;
mod report;

use std::io;
use std::process::{ExitCode, ExitStatus};

use clap::{Args, ValueEnum};

use self::report::{Report, Sample};
use crate::documents::{self, DocumentsError};
use crate::lab::HostOptions;
use crate::lab::session::{self, Outcome, Passthrough, SessionError, Sink};
use crate::lab::setup::{Lab, SetupError};
use crate::ui::{print, say};

/// Seconds that the emulated host's part may take.
const PATIENCE: u64 = 1800;

/// `cargo xtask bench …`
#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Take fewer samples
    #[arg(long)]
    quick: bool,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
    /// Measure this only
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Ports and memory on this machine, beside libvirtd
    Machine,
    /// Pools of 16 to 32,768 devices, and many clients at once, on this machine
    Pools,
    /// A writer beside 200 hostile readers, on this machine
    Readers,
    /// Clients beside each other and a restart, on a simulated host in one process
    Owners,
    /// Ports and guests in the emulated SR-IOV host, beside libvirtd and a bare script
    Lab,
    /// Interfaces plugged into and out of running guests in the emulated host, beside libvirtd and a bare script
    Plug,
    /// What a station loses while the VF of a pair goes and comes in the emulated host, beside libvirtd
    Hybrid,
    /// Node devices: 2,048 simulated VFs on this machine, and a device of the emulated host's, beside libvirtd
    Devices,
    /// Reading and writing documents, beside libxml2; not part of --json
    Documents,
}

/// Where something was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    /// This machine: a simulated host for virtnicd, veth interfaces for libvirtd
    Machine,
    /// This machine, with pools of many sizes
    Pools,
    /// This machine, with readers that do what they can
    Readers,
    /// This machine, daemon and clients in one process
    Owners,
    /// The emulated SR-IOV host
    Lab,
}

impl Place {
    fn title(self) -> &'static str {
        match self {
            Self::Machine => "this machine",
            Self::Pools => "pools, on this machine",
            Self::Readers => "hostile readers, on this machine",
            Self::Owners => "owners, on a simulated host",
            Self::Lab => "emulated host",
        }
    }
}

/// Why the bench could not be run. A missed aim is not an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The set-up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The emulated host.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A script failed.
    #[error("the bench in the emulated host failed (status {0}); what it said is above")]
    Script(u8),
    /// The script on this machine could not be run.
    #[error("can't run the bench on this machine")]
    Start(#[source] io::Error),
    /// The script on this machine failed.
    #[error("the bench on this machine failed ({0}); what it said is above")]
    Machine(ExitStatus),
    /// Its programs were not built where they should be.
    #[error("cargo did not say where it put virtnicd")]
    NoProgram,
    /// Documents could not be measured.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The report could not be written as JSON.
    #[error("can't write the report")]
    Json(#[from] serde_json::Error),
}

/// Measures, and prints what was seen.
pub(crate) fn main(options: &BenchOptions) -> Result<ExitCode, BenchError> {
    let lab = Lab::set_up()?;
    let mut report = Report::default();
    let wanted = |part| options.only.is_none_or(|only| only == part);
    if wanted(Part::Machine) {
        for sample in machine::ports(&lab, options.quick)? {
            report.add(Place::Machine, sample);
        }
    }
    if wanted(Part::Pools) {
        for sample in machine::pools(&lab, options.quick)? {
            report.add(Place::Pools, sample);
        }
    }
    if wanted(Part::Readers) {
        for sample in machine::readers(&lab, options.quick)? {
            report.add(Place::Readers, sample);
        }
    }
    if wanted(Part::Owners) {
        for sample in machine::owners(&lab, options.quick)? {
            report.add(Place::Owners, sample);
        }
    }
    if wanted(Part::Devices) {
        for sample in machine::devices(&lab)? {
            report.add(Place::Machine, sample);
        }
    }
    let (ports, guests, plugs, switches) = if options.quick {
        ("100", "3", "3", "3")
    } else {
        ("400", "12", "12", "10")
    };
    let scripts: [(Part, &[&str]); 4] = [
        (Part::Lab, &["host.py", ports, guests]),
        (Part::Plug, &["plug.py", plugs]),
        (Part::Hybrid, &["hybrid.py", switches]),
        (Part::Devices, &["devices.py", "lab"]),
    ];
    for (part, script) in scripts {
        if wanted(part) {
            for sample in in_lab(&lab, script)? {
                report.add(Place::Lab, sample);
            }
        }
    }
    if options.json {
        print(&serde_json::to_string_pretty(&report.summary())?);
        return Ok(ExitCode::SUCCESS);
    }
    if options.only != Some(Part::Documents) {
        print(&report.to_string());
    }
    if wanted(Part::Documents) {
        documents::measure(&lab.root)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One of the scripts in `lab/bench`, with its arguments, in an emulated host of its own.
fn in_lab(lab: &Lab, script: &[&str]) -> Result<Vec<Sample>, BenchError> {
    let mut host = HostOptions::new(1);
    host.release = true;
    let mut command = vec!["python3".to_owned(), "-B".to_owned()];
    if let Some((name, arguments)) = script.split_first() {
        command.push(format!("lab/bench/{name}"));
        command.extend(arguments.iter().map(|word| (*word).to_owned()));
    }
    let plan = host.plan(command, Some(PATIENCE));
    let mut lines = Lines::default();
    let Outcome { code } = session::run(lab, &plan, &mut lines)?;
    match code {
        0 => Ok(lines.samples),
        code => Err(BenchError::Script(code)),
    }
}

/// Takes samples from a script's standard output, a line each, and passes everything else on.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    samples: Vec<Sample>,
}

impl Sink for Lines {
    fn out(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            match serde_json::from_slice(&line) {
                Ok(sample) => self.samples.push(sample),
                Err(_) => say(&String::from_utf8_lossy(&line)),
            }
        }
        Ok(())
    }

    fn err(&mut self, bytes: &[u8]) -> io::Result<()> {
        Passthrough.err(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_however_the_lines_are_cut() {
        let mut lines = Lines::default();
        let text =
            br#"{"what":"port create","who":"virtnicd","unit":"ms","size":16,"samples":[1.5,2]}"#;
        lines.out(&text[..20]).unwrap();
        lines.out(&text[20..]).unwrap();
        assert!(lines.samples.is_empty());
        lines.out(b"\n").unwrap();
        assert_eq!(lines.samples[0].samples, [1.5, 2.0]);
        assert_eq!(lines.samples[0].size, Some(16));
    }
}
