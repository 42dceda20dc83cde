//! The command line.

use std::net;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use host::SimulatedShape;
use rpc::tls::AllowPattern;

use crate::paths::Paths;

/// Lends SR-IOV virtual functions to guests; virsh is its client.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "virtnicd",
    version,
    after_help = "\
Files (below --root):
  etc/virtnic/         definitions of networks and guests, as XML; and tls-allow:
                       who may come by TLS, as for --tls-allow, one a line
  etc/pki/             for TLS, as libvirt: CA/cacert.pem, CA/cacrl.pem (if there),
                       libvirt/servercert.pem, libvirt/private/serverkey.pem
  run/virtnic/         sockets, live state and the journal of lent devices
  var/log/virtnic/     the output of each guest's QEMU

Signals:
  TERM, INT            stop; guests go on and are found again at the next start (simulated ones end)
  HUP                  read definitions that were added to etc/virtnic; and for TLS,
                       certificates and tls-allow again

Exit status:
  0  stopped as asked
  1  could not start, or failed; the last lines of the log say why, and what to do
  2  the command line is wrong"
)]
pub struct Options {
    /// Keep everything below this directory, so that several run side by side
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Run on a simulated host, such as pfs=2,vfs=64, with simulated guests
    #[arg(long, value_name = "SHAPE")]
    pub simulate: Option<SimulatedShape>,

    /// Also listen where libvirt's clients look, usually in /run/libvirt
    #[arg(long, value_name = "DIR")]
    pub libvirt_sockets: Option<PathBuf>,

    /// Let this group use the read-write socket [default: libvirt, where there is such a group]
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,

    /// Also listen for clients of other hosts, by TLS; they show certificates of the same CA, may do whatever root may, and have to be named: see --tls-allow [default: port 16514 of every address]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = EVERYWHERE_TLS
    )]
    pub listen_tls: Option<net::SocketAddr>,

    /// Let the client of this name in by TLS: a subject such as C=GB,O=Example,CN=client1, where * stands for any text of a value, or a DNS name; may be given again
    #[arg(long, value_name = "NAME", requires = "listen_tls")]
    pub tls_allow: Vec<AllowPattern>,

    /// Read certificates for TLS from this directory: cacert.pem, cacrl.pem (if there), servercert.pem, serverkey.pem [default: as libvirt, see below]
    #[arg(long, value_name = "DIR", requires = "listen_tls")]
    pub tls_dir: Option<PathBuf>,

    /// Also listen for clients by TCP as it is: nobody is asked who they are, whoever reaches the port may do whatever root may, and whoever is in between reads along. For a network that nobody else is on
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen_tcp_without_encryption: Option<net::SocketAddr>,

    /// Run QEMU as this user; as root, each guest's could open what is lent to another [default: libvirt-qemu, or else qemu; where there is neither, one has to be named]
    #[arg(long, value_name = "USER")]
    pub qemu_user: Option<String>,

    /// How long a guest that is to be moved may take to let its VFs go; then it stays
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub unplug_patience: u32,

    /// What to log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Where TLS is listened for if no address is named.
const EVERYWHERE_TLS: &str = "[::]:16514";

/// Longest path of a socket, in bytes: what the kernel's `sockaddr_un` holds, less a NUL.
const LONGEST_SOCKET: usize = 107;

/// An option names a place where no daemon can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// What is there is something else.
    #[error("{option} {} is not a directory", .path.display())]
    NotDirectory {
        /// The option.
        option: &'static str,
        /// What it names.
        path: PathBuf,
    },
    /// The kernel takes no such name for a socket.
    #[error(
        "the socket {} would have a path of {} bytes, and the kernel takes {LONGEST_SOCKET}; choose a \
         shorter directory for {option}",
        .path.display(),
        .path.as_os_str().len()
    )]
    TooLong {
        /// The option.
        option: &'static str,
        /// The socket.
        path: PathBuf,
    },
}

impl Options {
    /// Checks what the named places are, before anything is made there.
    ///
    /// # Errors
    /// A file where a directory should be; a directory too deep for sockets.
    pub fn check_places(&self) -> Result<(), PlaceError> {
        let own = Paths::below(&self.root).read_only_socket();
        check_place("--root", &self.root, own)?;
        match &self.libvirt_sockets {
            None => Ok(()),
            // The longest of their names.
            Some(dir) => check_place("--libvirt-sockets", dir, dir.join("virtnetworkd-sock-ro")),
        }
    }
}

fn check_place(option: &'static str, dir: &Path, longest: PathBuf) -> Result<(), PlaceError> {
    let path = dir.to_owned();
    match dir.metadata() {
        Ok(found) if !found.is_dir() => Err(PlaceError::NotDirectory { option, path }),
        _ => match SocketAddr::from_pathname(&longest) {
            Ok(_) => Ok(()),
            Err(_) => Err(PlaceError::TooLong {
                option,
                path: longest,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(root: &Path, libvirt: Option<&Path>) -> Result<(), String> {
        let options = Options {
            root: root.to_owned(),
            libvirt_sockets: libvirt.map(Path::to_owned),
            ..Options::parse_from(["virtnicd"])
        };
        options.check_places().map_err(|error| error.to_string())
    }

    #[test]
    fn a_place_for_no_daemon_is_told_by_its_option() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let said = format!("{} is not a directory", file.display());
        assert_eq!(check(&file, None), Err(format!("--root {said}")));
        let told = check(dir.path(), Some(&file));
        assert_eq!(told, Err(format!("--libvirt-sockets {said}")));
        let missing = dir.path().join("missing");
        assert_eq!(check(&missing, Some(&missing)), Ok(()));
    }

    #[test]
    fn a_place_too_deep_for_sockets_is_told_with_the_length_that_fits() {
        let deep = |bytes: usize| PathBuf::from(format!("/{}", "d".repeat(bytes - 1)));
        let fits = LONGEST_SOCKET - "/run/virtnic/virtnic-sock-ro".len();
        assert_eq!(check(&deep(fits), None), Ok(()));
        let told = check(&deep(fits + 1), None).unwrap_err();
        assert!(
            told.contains("108 bytes, and the kernel takes 107"),
            "{told}"
        );
        assert!(!told.contains("SUN_LEN"), "{told}");
        assert!(
            check(Path::new("/"), Some(&deep(100)))
                .unwrap_err()
                .contains("--libvirt-sockets")
        );
    }
}
