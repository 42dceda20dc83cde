//! Finding the daemon.

use std::fmt;
use std::path::{Path, PathBuf};

use rpc::client::{Client, OpenError};

use crate::cli::DaemonArgs;
use crate::failure::Failure;

/// The daemon's socket below its root.
const SOCKET: &str = "run/virtnic/virtnic-sock";
/// The one that any user may use, if only to look.
const READ_ONLY_SOCKET: &str = "run/virtnic/virtnic-sock-ro";

/// What a command is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Nothing but look.
    Look,
    /// Change something.
    Change,
}

/// Where a daemon may be, in the order in which to look; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    sockets: Vec<PathBuf>,
    intent: Intent,
    /// The root that was named, for the advice on how to start a daemon there.
    root: Option<PathBuf>,
}

/// The places that the command line, or else the defaults, name.
pub(crate) fn places(daemon: &DaemonArgs, intent: Intent) -> Places {
    let below = |root: &Path| match intent {
        Intent::Look => vec![root.join(READ_ONLY_SOCKET), root.join(SOCKET)],
        Intent::Change => vec![root.join(SOCKET)],
    };
    let sockets = match (&daemon.root, &daemon.socket) {
        (Some(root), _) => below(root),
        (None, Some(socket)) => vec![socket.clone()],
        (None, None) => below(Path::new("/")),
    };
    Places {
        sockets,
        intent,
        root: daemon.root.clone(),
    }
}

/// Connects to the first of the places where somebody listens.
pub(crate) async fn open(places: &Places) -> Result<Client, Failure> {
    let read_only = places.intent == Intent::Look;
    let mut tried = Vec::new();
    for socket in &places.sockets {
        match Client::open(socket, "", read_only).await {
            Ok((client, _events)) => return Ok(client),
            Err(OpenError::Connect { path, source }) => tried.push((path, source)),
            Err(OpenError::Authentication) => return Err(Failure::Authentication),
            Err(OpenError::Call(error)) => return Err(error.into()),
            Err(OpenError::Watch(error)) => return Err(Failure::Runtime(error)),
        }
    }
    Err(Failure::NoDaemon(NoDaemon {
        tried,
        root: places.root.clone(),
    }))
}

/// Nobody listens, or whoever does can't be reached.
#[derive(Debug)]
pub(crate) struct NoDaemon {
    tried: Vec<(PathBuf, std::io::Error)>,
    root: Option<PathBuf>,
}

impl NoDaemon {
    /// Whether there is a socket that this user may not use; behind it, a daemon may well answer.
    fn is_denied(&self) -> bool {
        let mut kinds = self.tried.iter().map(|(_, error)| error.kind());
        kinds.any(|kind| kind == std::io::ErrorKind::PermissionDenied)
    }

    /// What a person can do about it.
    pub(crate) fn advice(&self) -> String {
        if self.is_denied() {
            return "run this as root, or as a user who may use the socket".to_owned();
        }
        match &self.root {
            Some(root) => format!("start one with: virtnicd --root {}", root.display()),
            None => "start one with: virtnicd (or name another place: --root, --socket)".to_owned(),
        }
    }
}

impl fmt::Display for NoDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_denied() {
            true => "the daemon's socket is not open to this user:",
            false => "no daemon answers:",
        })?;
        for (path, error) in &self.tried {
            write!(f, "\n  {}: {}", path.display(), words(error))?;
        }
        Ok(())
    }
}

/// What the kernel said, without its number.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(socket: Option<&str>, root: Option<&str>) -> DaemonArgs {
        DaemonArgs {
            socket: socket.map(PathBuf::from),
            root: root.map(PathBuf::from),
        }
    }

    fn sockets(args: &DaemonArgs, intent: Intent) -> Vec<String> {
        let places = places(args, intent);
        let text = |path: &PathBuf| path.display().to_string();
        places.sockets.iter().map(text).collect()
    }

    #[test]
    fn a_socket_that_may_not_be_used_says_nothing_of_the_daemon() {
        let tried = |kinds: &[std::io::ErrorKind]| NoDaemon {
            tried: kinds
                .iter()
                .map(|kind| (PathBuf::from("/s"), (*kind).into()))
                .collect(),
            root: None,
        };
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        let denied = tried(&[NotFound, PermissionDenied]);
        assert!(
            !denied.to_string().contains("no daemon answers"),
            "{denied}"
        );
        assert!(denied.advice().contains("run this as root"));
        assert!(
            tried(&[NotFound])
                .to_string()
                .starts_with("no daemon answers:")
        );
    }

    #[test]
    fn the_read_only_socket_comes_first() {
        assert_eq!(
            sockets(&args(None, None), Intent::Look),
            ["/run/virtnic/virtnic-sock-ro", "/run/virtnic/virtnic-sock"]
        );
    }

    #[test]
    fn to_change_something_only_the_other_socket_will_do() {
        assert_eq!(
            sockets(&args(None, None), Intent::Change),
            ["/run/virtnic/virtnic-sock"]
        );
    }

    #[test]
    fn a_named_socket_is_the_only_place_and_a_root_stands_over_it() {
        assert_eq!(sockets(&args(Some("/x/y"), None), Intent::Look), ["/x/y"]);
        assert_eq!(
            sockets(&args(Some("/x/y"), Some("/r")), Intent::Look),
            [
                "/r/run/virtnic/virtnic-sock-ro",
                "/r/run/virtnic/virtnic-sock"
            ]
        );
    }
}
