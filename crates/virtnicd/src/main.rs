//! The daemon: libvirt's clients come in by its sockets, guests get their network devices from it.

mod accounts;
mod affect;
mod bandwidth;
mod capabilities;
mod daemon;
mod dispatch;
mod domain;
mod events;
mod fault;
mod interface;
mod lender;
mod listen;
mod logging;
mod metadata;
mod network;
mod nodedev;
mod options;
mod paths;
mod records;
mod registry;
mod restart;
mod store;
mod sync;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use daemon::{Daemon, StartError};
use options::Options;

/// Two serve any number of clients: what blocks goes to threads of its own.
const WORKERS: usize = 2;
/// Most threads that wait for the kernel or a disk at one time: more than slow calls have places
/// (`rpc::server::Limits`), as a runtime without another thread stands still.
const BLOCKING: usize = 192;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = logging::start(&options.log) {
        // The log is what failed, so this is the one line that goes around it.
        let _ =
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("virtnicd: {error}\n"));
        return ExitCode::from(2);
    }
    // Files are the daemon's alone; what others may use is opened to them one by one.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(options)),
        Err(error) => Err(StartError::Runtime(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", fault::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Serves until it is told to stop.
async fn run(options: Options) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Runtime)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(StartError::Runtime)?;

    let daemon = Daemon::open(&options).await?;
    let sockets = daemon.listen(&options)?;
    let room = dispatch::Room::of_this_process();
    let mut accepting = JoinSet::new();
    for socket in sockets {
        accepting.spawn(dispatch::accept(Arc::clone(&daemon), socket, room.clone()));
    }
    daemon.autostart().await;
    // Fails where no service manager asked for it, which is fine.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => daemon.read_new_definitions(),
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    accepting.shutdown().await;
    tracing::info!("stopped; guests go on");
    Ok(())
}
