//! Everything that a run of the lab needs, made once and kept.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::accel::{self, Accel, AccelError};
use super::cache::{Cache, CacheError, Kept};
use super::{debian, early, guest};
use crate::ui::Step;

/// Why the lab could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// Something cached could not be made.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// KVM or emulation?
    #[error(transparent)]
    Accel(#[from] AccelError),
    /// Cargo could not be run.
    #[error("can't run cargo")]
    Cargo(#[source] io::Error),
    /// The project's programs did not build; cargo has said why.
    #[error("the programs for the lab don't build")]
    Build,
}

/// What every run uses.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) cache: Cache,
    /// The Debian root.
    pub(crate) root: Kept,
    /// Kernel and initial file system of the emulated host.
    pub(crate) early_dir: Kept,
    /// Kernel and initial file system of the guest.
    pub(crate) guest_dir: Kept,
    /// This checkout.
    pub(crate) checkout: PathBuf,
    /// KVM or emulation.
    pub(crate) accel: Accel,
}

impl Lab {
    /// Makes what is missing.
    pub(crate) fn set_up() -> Result<Self, SetupError> {
        let cache = Cache::open()?;
        let checkout = checkout();
        let root = debian::host_root(&cache)?;
        let early_dir = early::early(&cache, &root)?;
        let guest_dir = guest::guest(&cache, &checkout)?;
        let mut lab = Self {
            cache,
            root,
            early_dir,
            guest_dir,
            checkout,
            accel: Accel::Tcg,
        };
        lab.accel = accel::choose(&lab)?;
        Ok(lab)
    }
}

/// The directory of the workspace.
pub(crate) fn checkout() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Builds the project's programs; returns where they are.
pub(crate) fn build_programs(packages: &[&str], release: bool) -> Result<Vec<PathBuf>, SetupError> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let step = Step::start(format!("Building {}", packages.join(" and ")));
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--message-format=json-render-diagnostics",
            "--quiet",
        ])
        .current_dir(checkout())
        .stderr(std::process::Stdio::inherit());
    for package in packages {
        cargo.args(["--package", package]);
    }
    if release {
        cargo.arg("--release");
    }
    let output = cargo.output().map_err(SetupError::Cargo)?;
    step.clear();
    if !output.status.success() {
        return Err(SetupError::Build);
    }
    Ok(executables(&output.stdout))
}

/// The programs that a build made, by cargo's messages.
pub(crate) fn executables(messages: &[u8]) -> Vec<PathBuf> {
    let lines = messages.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_slice(line).ok()?;
            Some(message["executable"].as_str()?.into())
        })
        .collect()
}
