//! Daemons in the test's own process, on a simulated host that the test can slow down, and on which
//! one daemon follows another.

use std::path::Path;
use std::time::Instant;

use clap::Parser as _;
use host::Held;
use virtnicd::{Options, Simulation, Virtnicd};

use crate::harness::*;

/// A root, and the host that daemons on it share.
pub(crate) struct Site {
    pub(crate) root: Root,
    pub(crate) simulation: Simulation,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::on(SHAPE)
    }

    pub(crate) fn on(shape: &str) -> Self {
        Self {
            root: Root::new(),
            simulation: Simulation::new(shape.parse().unwrap()),
        }
    }

    /// A daemon that listens.
    pub(crate) async fn start(&self) -> Virtnicd {
        let root = self.root.path("");
        let options = Options::parse_from(["virtnicd", "--root", root.to_str().unwrap()]);
        Virtnicd::start_on(&options, Some(self.simulation.clone()))
            .await
            .unwrap()
    }

    /// The next daemon, as soon as the last one's work is over.
    pub(crate) async fn start_when_free(&self) -> Virtnicd {
        start_when_free(&self.root.path(""), self.simulation.clone()).await
    }
}

/// A daemon on that root, as soon as no other has it.
pub(crate) async fn start_when_free(root: &Path, simulation: Simulation) -> Virtnicd {
    let options = Options::parse_from(["virtnicd", "--root", root.to_str().unwrap()]);
    let until = Instant::now() + PATIENCE;
    loop {
        match Virtnicd::start_on(&options, Some(simulation.clone())).await {
            Ok(daemon) => return daemon,
            Err(error) if Instant::now() > until => panic!("{error}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Waits until something is so that no event tells.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let asked = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    let so = tokio::time::timeout(PATIENCE, asked).await;
    assert!(so.is_ok(), "it never came to pass: {what}");
}

/// Waits until somebody is at what is held.
pub(crate) async fn reached(held: Held) -> Held {
    let waiting = tokio::task::spawn_blocking(move || {
        held.reached();
        held
    });
    waiting.await.unwrap()
}
