//! The daemon's program: its command line, its signals and its log.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use virtnicd::{Options, StartError, Virtnicd};

/// Two serve any number of clients: what blocks goes to threads of its own.
const WORKERS: usize = 2;
/// Most threads that wait for the kernel or a disk at one time.
const BLOCKING: usize = 256;
/// For threads to end that have been waited for already; those that wait for the kernel are left to it.
const FAREWELL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    host::give_memory_back();
    let options = Options::parse();
    if let Err(error) = virtnicd::start_logging(&options.log) {
        // The log is what failed, so this is the one line that goes around it.
        let _ =
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("virtnicd: {error}\n"));
        return ExitCode::from(2);
    }
    if let Err(error) = options.check_places() {
        tracing::error!("{error}");
        return ExitCode::FAILURE;
    }
    // Files are the daemon's alone; what others may use is opened to them one by one.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(&options));
            runtime.shutdown_timeout(FAREWELL);
            outcome
        }
        Err(error) => Err(StartError::Runtime(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", virtnicd::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Serves until it is told to stop.
async fn run(options: &Options) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Runtime)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(StartError::Runtime)?;

    let daemon = tokio::select! {
        started = Virtnicd::start(options) => started?,
        // What was begun is as after a crash: the next one goes on from there.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    // Fails where no service manager asked for it, which is fine.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => {
                daemon.read_certificates();
                tokio::select! {
                    () = daemon.read_new_definitions() => {}
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                }
            }
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.stop().await;
    match options.simulate {
        Some(_) => tracing::info!("stopped; simulated guests end with it"),
        None => tracing::info!("stopped; guests go on"),
    }
    Ok(())
}
