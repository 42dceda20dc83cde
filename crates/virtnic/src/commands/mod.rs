//! The subcommands, one module each: its arguments, and what it does.

mod completions;
pub(crate) mod man;
pub(crate) mod status;
pub(crate) mod who;

use std::time::Duration;

use rpc::Procedure;

use crate::cli::{Cli, Command, DaemonArgs};
use crate::connect::{self, Places};
use crate::failure::Failure;

/// How long a question to the daemon may take, opening included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries out the command line.
pub(crate) fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Who(who) => who.run(&cli.daemon),
        Command::Status(status) => status.run(&cli.daemon),
        Command::Completions { shell } => completions::run(*shell),
        Command::Man(man) => man.run(),
    }
}

/// Asks the daemon one thing that changes nothing.
fn ask<P: Procedure>(daemon: &DaemonArgs, question: &P) -> Result<P::Reply, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let places = connect::places(daemon);
    runtime.block_on(answer(&places, question))
}

async fn answer<P: Procedure>(places: &Places, question: &P) -> Result<P::Reply, Failure> {
    let asked = async {
        let client = connect::open(places).await?;
        Ok(client.call(question).await?)
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or(Err(Failure::Silent(PATIENCE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_not_waited_for_forever() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        // It connects, and nobody ever looks.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let daemon = DaemonArgs {
            socket: Some(socket),
            root: None,
        };
        let places = connect::places(&daemon);
        let failure = answer(&places, &rpc::VirtnicStatus {}).await.unwrap_err();
        assert_eq!(
            failure.to_string(),
            "the daemon does not answer within 30 s"
        );
    }
}
