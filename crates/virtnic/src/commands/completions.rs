//! `virtnic completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(shell: Shell) -> Result<(), Failure> {
    // Straight to standard output, a closed pipe would be a panic.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "virtnic", &mut text);
    output::write(&text)
}
