//! The command `virtnic`: what `virsh` has no word for. A client of the daemon like any other.

mod cli;
mod commands;
mod connect;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

use cli::Cli;

fn main() -> ExitCode {
    // Ends here, with status 2, if the command line is wrong.
    let mut cli = Cli::parse();
    if let Err(error) = cli.daemon.check() {
        error.exit();
    }
    match commands::run(&cli) {
        Ok(status) => status,
        Err(failure) => {
            output::complain(&failure);
            failure.exit_code()
        }
    }
}
