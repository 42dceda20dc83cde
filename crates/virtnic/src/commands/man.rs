//! `virtnic man`.

use std::fmt::Write as _;

use clap::{Args, CommandFactory as _};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

/// Write the man page, of virtnic or of one of its commands, to standard output
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The command whose page is wanted
    #[arg(value_name = "COMMAND", value_parser = known)]
    of: Option<String>,
}

impl Man {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let command = match &self.of {
            Some(name) => subcommand(name).unwrap_or_else(root),
            None => root(),
        };
        let closing = command
            .get_after_long_help()
            .or(command.get_after_help())
            .map(ToString::to_string);
        let page = clap_mangen::Man::new(
            command
                .after_help(None::<&str>)
                .after_long_help(None::<&str>),
        );
        // Into memory first: a closed pipe is then seen in one place.
        let mut text = Vec::new();
        page.render(&mut text).map_err(Failure::Output)?;
        for lines in closing.iter().flat_map(|closing| closing.split("\n\n")) {
            text.extend(section(lines).into_bytes());
        }
        output::write(&text)
    }
}

/// The command with the options that all subcommands have.
fn root() -> clap::Command {
    let mut root = Cli::command();
    root.build();
    root
}

fn subcommand(name: &str) -> Option<clap::Command> {
    root().find_subcommand(name).cloned()
}

fn known(name: &str) -> Result<String, &'static str> {
    match subcommand(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err("there is no such command"),
    }
}

/// A section with lines from the end of a help text, as they are; the first is its title.
fn section(lines: &str) -> String {
    let (title, rest) = lines.split_once(":\n").unwrap_or(("Notes", lines));
    let mut page = format!(".SH {}\n.nf\n", roff(&title.to_uppercase()));
    for line in rest.lines() {
        // A line that starts with a point would be taken for a request.
        let _ = writeln!(page, "\\&{}", roff(line));
    }
    page.push_str(".fi\n");
    page
}

fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_help_keeps_its_lines() {
        assert_eq!(
            section("Exit status:\n  0  fine\n.x \\ -y"),
            ".SH EXIT STATUS\n.nf\n\\&  0  fine\n\\&.x \\e \\-y\n.fi\n"
        );
    }
}
