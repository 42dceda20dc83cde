//! The project's own commands: `cargo xtask lab`, and what is built on it.

mod agent;
mod bench;
mod demo;
mod documents;
mod lab;
mod run;
mod test;
mod ui;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// virtnic's own commands
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the main job, step by step, in an emulated host
    Demo,
    /// Emulated SR-IOV hosts
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Run all tests that this machine allows
    Test(test::TestOptions),
    /// Measure virtnicd beside libvirtd
    Bench(bench::BenchOptions),
    /// Run the fuzz targets of the documents for a bounded time
    Fuzz(documents::FuzzOptions),
    /// The lab tier's runner, inside an emulated host
    #[command(hide = true)]
    LabTests {
        /// The tests
        names: Vec<String>,
    },
    /// Runs a command in the other of two emulated hosts
    #[command(hide = true)]
    LabOn {
        /// Where that listens
        address: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// The first program of an emulated host; of no use elsewhere
    #[command(hide = true)]
    LabAgent {
        /// The second process, which does the work
        #[arg(long)]
        worker: bool,
    },
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Lab(#[from] lab::LabError),
    #[error(transparent)]
    Test(#[from] test::TestError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Documents(#[from] documents::DocumentsError),
    #[error(transparent)]
    On(#[from] agent::on::OnError),
}

fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        ui::say(&format!("error: {}", agent::with_sources(&error)));
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode, Error> {
    Ok(match command {
        Command::Demo => demo::main()?,
        Command::Lab(command) => lab::main(command)?,
        Command::Test(options) => test::main(&options)?,
        Command::Bench(options) => bench::main(&options)?,
        Command::Fuzz(options) => documents::fuzz(&options)?,
        Command::LabTests { names } => {
            match agent::tests::run(&names).map_err(test::TestError::from)? {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Command::LabOn { address, command } => ExitCode::from(agent::on::run(&address, command)?),
        Command::LabAgent { worker: false } => agent::init(),
        Command::LabAgent { worker: true } => {
            agent::work();
            ExitCode::SUCCESS
        }
    })
}
