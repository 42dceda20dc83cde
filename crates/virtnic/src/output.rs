//! What people and scripts get to see.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, presets};
use serde::Serialize;

use crate::failure::Failure;

const BAD: Style = AnsiColor::Red.on_default().bold();
const HEADER: Style = Style::new().bold();
/// What stands where there is no value.
const NOTHING: &str = "-";

/// Writes to standard output. A reader that has seen enough is no failure.
pub(crate) fn write(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::Output),
    }
}

/// Writes a value as JSON, for scripts.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::Output(error.into()))?;
    write(format!("{text}\n").as_bytes())
}

/// Writes a table, its header in bold on a terminal.
pub(crate) fn table(table: &Table) -> Result<(), Failure> {
    let mut text = table.to_string();
    if coloured(&io::stdout())
        && let Some((header, rows)) = text.split_once('\n')
    {
        text = format!("{HEADER}{header}{HEADER:#}\n{rows}");
    }
    write(text.as_bytes())
}

/// Says something on standard error that is no failure.
pub(crate) fn remark(text: String) {
    // There is nobody to tell if this fails.
    let _ = writeln!(io::stderr(), "{}", plain(&text));
}

/// Tells of a failure, and what to do about it.
pub(crate) fn complain(failure: &Failure) {
    let stderr = io::stderr();
    let style = if coloured(&stderr) { BAD } else { Style::new() };
    let mut text = format!("{style}virtnic:{style:#} {}\n", plain(&failure.to_string()));
    if let Some(advice) = failure.advice() {
        text += &format!("{}\n", plain(&advice));
    }
    let _ = stderr.lock().write_all(text.as_bytes());
}

/// Whether colours are wanted there.
fn coloured(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused
}

/// Text from elsewhere, with what would steer the terminal made visible.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => plain.push(c),
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.push(c),
        }
    }
    plain
}

/// A line below a heading: a label of at most 8 letters, and what there is to say, whose further
/// lines stand below its first.
pub(crate) fn labelled(label: &str, said: &str) -> String {
    let mut text = String::new();
    let mut lines = said.lines();
    let first = lines.next().unwrap_or_default();
    text += format!("  {label:<9}{first}").trim_end();
    text.push('\n');
    for line in lines {
        text += format!("{:11}{line}", "").trim_end();
        text.push('\n');
    }
    text
}

/// Columns with a header, aligned with blanks alone.
#[derive(Debug)]
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// A table without rows.
    pub(crate) fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// Numbers stand right, so that their digits are below each other.
    pub(crate) fn align_right(&mut self, columns: impl IntoIterator<Item = usize>) {
        for column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }

    /// Adds a row; none is shown as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Option<String>>) {
        self.0.add_row(cells.into_iter().map(|cell| {
            let text = cell.unwrap_or_else(|| NOTHING.to_owned());
            // A line feed would make two lines of the row.
            Cell::new(plain(&text).replace('\n', "\\n"))
        }));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .lines()
            .try_for_each(|line| writeln!(f, "{}", line.trim_end()))
    }
}

/// A time span as people say it: in its largest whole unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// A span of seconds; below zero, as after the clock was set back, there are none.
    pub(crate) fn of_seconds(seconds: i64) -> Self {
        Self(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        match self.0.as_secs() {
            seconds @ ..MINUTE => write!(f, "{seconds} s"),
            seconds @ ..HOUR => write!(f, "{} min", seconds / MINUTE),
            seconds @ ..DAY => write!(f, "{} h", seconds / HOUR),
            seconds => write!(f, "{} d", seconds / DAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_largest_whole_unit() {
        let said = |seconds| Span::of_seconds(seconds).to_string();
        assert_eq!(said(-5), "0 s");
        assert_eq!(said(59), "59 s");
        assert_eq!(said(60), "1 min");
        assert_eq!(said(3_599), "59 min");
        assert_eq!(said(3_600), "1 h");
        assert_eq!(said(86_399), "23 h");
        assert_eq!(said(5 * 86_400 + 1), "5 d");
    }

    #[test]
    fn what_steers_a_terminal_is_shown_instead() {
        assert_eq!(plain("a\u{1b}[31mb\tc\nd"), "a\\u{1b}[31mb\\tc\nd");
        let mut table = Table::new(["A", "B"]);
        table.row([Some("x\ny".to_owned()), None]);
        assert_eq!(table.to_string(), "A     B\nx\\ny  -\n");
    }
}
