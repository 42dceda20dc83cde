//! Finding the daemon.

use std::fmt;
use std::path::{Path, PathBuf};

use rpc::client::{Client, OpenError};

use crate::cli::DaemonArgs;
use crate::failure::Failure;

/// The daemon's sockets below its root. Commands that only look are content with the first, which
/// any user may use.
const SOCKETS: [&str; 2] = ["run/virtnic/virtnic-sock-ro", "run/virtnic/virtnic-sock"];

/// Where a daemon may be, in the order in which to look; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    sockets: Vec<PathBuf>,
    /// The root that was named, for the advice on how to start a daemon there.
    root: Option<PathBuf>,
}

/// The places that the command line, or else the defaults, name.
pub(crate) fn places(daemon: &DaemonArgs) -> Places {
    let below = |root: &Path| SOCKETS.map(|socket| root.join(socket)).to_vec();
    let sockets = match (&daemon.root, &daemon.socket) {
        (Some(root), _) => below(root),
        (None, Some(socket)) => vec![socket.clone()],
        (None, None) => below(Path::new("/")),
    };
    Places {
        sockets,
        root: daemon.root.clone(),
    }
}

/// Connects, only to look, to the first of the places where somebody listens.
pub(crate) async fn open(places: &Places) -> Result<Client, Failure> {
    let mut tried = Vec::new();
    for socket in &places.sockets {
        match Client::open(socket, "", true).await {
            Ok((client, _events)) => return Ok(client),
            Err(OpenError::Connect { path, source }) => tried.push((path, source)),
            Err(OpenError::Authentication) => return Err(Failure::Authentication),
            Err(OpenError::Call(error)) => return Err(error.into()),
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
    /// What a person can do about it.
    pub(crate) fn advice(&self) -> String {
        let denied = |(_, error): &(PathBuf, std::io::Error)| {
            error.kind() == std::io::ErrorKind::PermissionDenied
        };
        if self.tried.iter().any(denied) {
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
        f.write_str("no daemon answers:")?;
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

    fn sockets(args: &DaemonArgs) -> Vec<String> {
        let places = places(args);
        let text = |path: &PathBuf| path.display().to_string();
        places.sockets.iter().map(text).collect()
    }

    #[test]
    fn the_read_only_socket_comes_first() {
        assert_eq!(
            sockets(&args(None, None)),
            ["/run/virtnic/virtnic-sock-ro", "/run/virtnic/virtnic-sock"]
        );
    }

    #[test]
    fn a_named_socket_is_the_only_place_and_a_root_stands_over_it() {
        assert_eq!(sockets(&args(Some("/x/y"), None)), ["/x/y"]);
        assert_eq!(
            sockets(&args(Some("/x/y"), Some("/r"))),
            [
                "/r/run/virtnic/virtnic-sock-ro",
                "/r/run/virtnic/virtnic-sock"
            ]
        );
    }
}
