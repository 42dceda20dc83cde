//! Logs: to the journal when started by systemd, else to standard error.

use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It can't be read at all.
    #[error("'{text}' is no log filter: {source}")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// A word that is no level. As a filter it would be the name of a part of the program that is
    /// not there, and silence all others.
    #[error(
        "'{0}' is no level: expected error, warn, info, debug, trace or off, or filters for parts of \
         the program, as in info,host=debug"
    )]
    NoLevel(String),
    /// Nothing at all, which would silence all.
    #[error("a log filter is empty: expected error, warn, info, debug, trace or off")]
    Empty,
    /// A part of the program that is not there.
    #[error("'{0}' is no part of this program: expected one of {parts}", parts = PARTS.join(", "))]
    NoPart(String),
}

/// The crates of which this program is made, as filters name them.
const PARTS: [&str; 8] = [
    "virtnicd", "assign", "conf", "host", "lending", "pool", "qemu", "rpc",
];

fn read(text: &str) -> Result<EnvFilter, LogError> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    for word in words.clone() {
        if !word.contains(['=', '[', ']']) && word.parse::<LevelFilter>().is_err() {
            return Err(LogError::NoLevel(word.to_owned()));
        }
        // Whatever is not a level for all, nor for spans alone, begins with a target.
        let target = word.split(['=', '[', ']']).next().unwrap_or_default();
        let part = target.split("::").next().unwrap_or_default();
        if word.contains('=') && !part.is_empty() && !PARTS.contains(&part) {
            return Err(LogError::NoPart(part.to_owned()));
        }
    }
    if words.count() == 0 {
        return Err(LogError::Empty);
    }
    let filter = EnvFilter::builder().parse(text);
    filter.map_err(|source| LogError::Malformed {
        text: text.to_owned(),
        source,
    })
}

/// Starts logging what the filter lets through, for the whole process.
///
/// # Errors
/// The text is no filter.
pub fn start(filter: &str) -> Result<(), LogError> {
    let filter = read(filter)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_part_of_the_program() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,host=debug",
            "host::linux=trace",
            "[{id}]=info",
        ] {
            assert!(read(text).is_ok(), "{text}");
        }
        for (text, word) in [("warm", "warm"), ("info,hots", "hots")] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("'{word}' is no level: expected error, warn")),
                "{error}"
            );
        }
        for text in ["", " , "] {
            assert!(matches!(read(text), Err(LogError::Empty)), "{text}");
        }
        let error = read("info,hyper=trace").unwrap_err().to_string();
        assert!(
            error.starts_with("'hyper' is no part of this program: expected one of virtnicd, "),
            "{error}"
        );
        assert!(matches!(read("host=loud"), Err(LogError::Malformed { .. })));
    }
}
