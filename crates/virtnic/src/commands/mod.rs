//! The subcommands, one module each: its arguments, and what it does.

mod completions;
pub(crate) mod drain;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod net;
pub(crate) mod nics;
pub(crate) mod pair;
pub(crate) mod plan;
mod pool;
pub(crate) mod reconcile;
pub(crate) mod status;
pub(crate) mod who;

use std::process::ExitCode;
use std::time::Duration;

use rpc::Procedure;

use crate::cli::{Cli, Command, DaemonArgs};
use crate::connect::{self, Intent, Places};
use crate::failure::Failure;

/// How long a question to the daemon may take, opening included.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a change may take: a driver takes its time for each device.
const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(600);

/// Carries out the command line, and tells its exit status.
pub(crate) fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    match &cli.command {
        Command::Plan(plan) => return plan.run(&cli.daemon),
        Command::Reconcile(reconcile) => return reconcile.run(&cli.daemon),
        Command::Promote(promote) => return promote.run(&cli.daemon),
        Command::Demote(demote) => return demote.run(&cli.daemon),
        Command::Drain(drain) => return drain.run(&cli.daemon),
        Command::MigrateCheck(check) => return check.run(&cli.daemon),
        Command::MigrateResolve(resolve) => resolve.run(&cli.daemon),
        Command::Undrain(undrain) => undrain.run(&cli.daemon),
        Command::Who(who) => who.run(&cli.daemon),
        Command::Net(net) => net.run(&cli.daemon),
        Command::Nics(nics) => nics.run(&cli.daemon),
        Command::Status(status) => status.run(&cli.daemon),
        Command::Completions { shell } => completions::run(*shell),
        Command::Man(man) => man.run(),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Asks the daemon one thing that changes nothing.
fn ask<P: Procedure>(daemon: &DaemonArgs, question: &P) -> Result<P::Reply, Failure> {
    call(daemon, Intent::Look, question)
}

/// Makes one call to the daemon.
fn call<P: Procedure>(
    daemon: &DaemonArgs,
    intent: Intent,
    question: &P,
) -> Result<P::Reply, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let places = connect::places(daemon, intent);
    let patience = match intent {
        Intent::Look => PATIENCE,
        Intent::Change => PATIENCE_FOR_CHANGES,
    };
    runtime.block_on(answer(&places, patience, question))
}

async fn answer<P: Procedure>(
    places: &Places,
    patience: Duration,
    question: &P,
) -> Result<P::Reply, Failure> {
    let asked = async {
        let client = connect::open(places).await?;
        Ok(client.call(question).await?)
    };
    tokio::time::timeout(patience, asked)
        .await
        .unwrap_or(Err(Failure::Silent(patience)))
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
        let places = connect::places(&daemon, Intent::Look);
        let failure = answer(&places, PATIENCE, &rpc::VirtnicStatus {})
            .await
            .unwrap_err();
        assert_eq!(
            failure.to_string(),
            "the daemon does not answer within 30 s"
        );
    }
}
