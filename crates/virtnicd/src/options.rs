//! The command line.

use std::path::PathBuf;

use clap::Parser;
use host::SimulatedShape;

/// Lends SR-IOV virtual functions to guests; virsh is its client.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "virtnicd",
    version,
    after_help = "\
Files (below --root):
  etc/virtnic/         definitions of networks and guests, as XML
  run/virtnic/         sockets, live state and the journal of lent devices
  var/log/virtnic/     the output of each guest's QEMU

Signals:
  TERM, INT            stop; guests go on and are found again at the next start
  HUP                  read definitions that were added to etc/virtnic

Exit status:
  0  stopped as asked
  1  could not start, or failed; the reason is the last line of the log
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

    /// Run QEMU as this user [default: libvirt-qemu, or else qemu; where there is neither, one has to be named]
    #[arg(long, value_name = "USER")]
    pub qemu_user: Option<String>,

    /// What to log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}
