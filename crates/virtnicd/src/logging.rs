//! Logs: to the journal when started by systemd, else to standard error.

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
#[error("'{text}' is no log filter: {source}")]
pub struct LogError {
    text: String,
    source: ParseError,
}

/// Starts logging what the filter lets through, for the whole process.
///
/// # Errors
/// The text is no filter.
pub fn start(filter: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LogError {
            text: filter.to_owned(),
            source,
        })?;
    let registry = tracing_subscriber::registry().with(filter);
    // systemd says where standard error goes; a journal that does not answer is no reason to stop.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => {
            let colours = rustix::termios::isatty(std::io::stderr());
            let terminal = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(colours)
                .with_target(false);
            registry.with(terminal).init();
        }
    }
    Ok(())
}
