//! What a person sees: progress of long steps on standard error, as a spinner on a terminal and as plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One long step, from its first line to its last.
#[derive(Debug)]
pub(crate) struct Step {
    title: String,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Says what begins.
    pub(crate) fn start(title: impl Into<String>) -> Self {
        let title = title.into();
        let bar = if io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            Some(bar)
        } else {
            say(&format!("{title} …"));
            None
        };
        Self {
            title,
            start: Instant::now(),
            bar,
        }
    }

    /// Shows where the step is now; on a terminal only, where it costs no line.
    pub(crate) fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Says that the step is done, and how long it took.
    pub(crate) fn done(self) {
        let line = format!(
            "{}: done in {:.1} s",
            self.title,
            self.start.elapsed().as_secs_f64()
        );
        self.clear();
        say(&line);
    }

    /// Takes the step off the screen without a word.
    pub(crate) fn clear(self) {
        drop(self);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints a line on standard error.
pub(crate) fn say(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints a line on standard output.
pub(crate) fn print(line: &str) {
    // As above.
    let _ = writeln!(io::stdout(), "{line}");
}
