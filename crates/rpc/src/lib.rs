//! libvirt's wire protocol, for server and client, with virtnic's own calls beside it.
//!
//! The crate knows frames, calls and events, and not what a network is.
//!
//! # A server
//!
//! [`serve`](server::serve) drives one connection; a [`Service`](server::Service) answers its calls.
//! [`Request`] and [`Reply`] have a variant for each procedure of the table, of the same name.
//! A request holds a structure of its arguments; a reply holds what is given back, as it is.
//!
//! ```
//! use std::sync::Arc;
//! use rpc::server::{Call, Clients, Connection, Limits, Service};
//! use rpc::{Code, Domain, Error, Listing, Net, Reply, Request};
//!
//! struct Daemon { nets: Vec<Net> }
//!
//! impl Service for Daemon {
//!     async fn call(&self, call: Call, request: Request) -> Result<Reply, Error> {
//!         match request {
//!             // Any URI will do; refuse others with `Code::NoConnect`.
//!             Request::ConnectOpen(_) => Ok(Reply::ConnectOpen(())),
//!             // A feature that the connection itself does not know: see below.
//!             Request::ConnectSupportsFeature(_) => Ok(Reply::ConnectSupportsFeature(false)),
//!             Request::ConnectListAllNetworks(args) => Ok(Reply::ConnectListAllNetworks(
//!                 Listing::new(self.nets.clone(), args.need_results),
//!             )),
//!             Request::NetworkLookupByName(args) => self
//!                 .nets
//!                 .iter()
//!                 .find(|net| net.name == args.name)
//!                 .cloned()
//!                 .map(Reply::NetworkLookupByName)
//!                 .ok_or_else(|| {
//!                     let detail = format!("no network with matching name '{}'", args.name);
//!                     Error::new(Code::NoNetwork, Domain::Network, detail)
//!                 }),
//!             // Whatever is not carried out here: clients fall back to another call.
//!             other => Err(other.info().no_support()),
//!         }
//!     }
//!
//!     fn closed(&self, conn: &Arc<Connection>) {
//!         // Forget what was kept for `conn.id()`: autodestroy, a migration that it drives …
//!     }
//! }
//! # async fn accept(daemon: Arc<Daemon>, listener: tokio::net::UnixListener) -> std::io::Result<()> {
//! let clients = Clients::new(Limits::default()); // once, for all connections
//! let (stream, _) = listener.accept().await?;
//! let read_only = false; // true for the "-ro" socket
//! tokio::spawn(rpc::server::serve(daemon, stream, read_only, clients));
//! # Ok(()) }
//! ```
//!
//! The connection itself takes care of:
//! * authentication (none), a call before "open", a second "open", "close", close callbacks;
//! * unknown programs and procedures, those of libvirt's that have no row, arguments that can't be
//!   decoded, wrong frames;
//! * what read-only clients may not do;
//! * features 8, 9, 10, 14, 15 and 16, which are this crate's; the service is asked for the others
//!   (4, 6, 7, 11, 12, 13 are about migration; say no to any other);
//! * pings, also while calls run; calls run side by side, so nothing waits for a long one;
//! * registering and deregistering for events: the service only calls
//!   [`Clients::publish`](server::Clients::publish);
//! * clients that do not read, that send forever, that never finish a frame, and what all clients
//!   that may change nothing take up together: [`Limits`](server::Limits);
//! * panics in the service.
//!
//! A [quick](Pace::Quick) call's future is polled by the connection's reader first, and becomes a task
//! only if it is not ready then. Slow ones are tasks, of which so many run at a time. None may block
//! its thread.
//!
//! A console is a stream: [`Call::open_stream`](server::Call::open_stream) in the call, then pump
//! bytes in a task of one's own; they flow once the call has been answered.
//!
//! # Errors
//!
//! [`Error::new`] takes libvirt's code, the part of the system that speaks, and a detail without
//! the standard prefix of the code, which is added. [`Error::system`] keeps the kernel's number.
//!
//! # A client
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let path = std::path::Path::new("/run/virtnic/virtnic-sock");
//! let (client, mut events) = rpc::client::Client::open(path, "", true).await?;
//! for lent in client.call(&rpc::VirtnicWho { filter: None, counters: false }).await? {
//!     println!("{:?} has {:?}", lent.guest, lent.pci_address);
//! }
//! # Ok(()) }
//! ```
//!
//! # Other hosts
//!
//! [`Client::connect`](client::Client::connect) takes a [URI](uri::Uri) and finds the daemon by unix socket,
//! TLS, ssh or TCP. A server lets clients in through a [`TlsGate`](server::TlsGate), or as
//! [nobody known](server::Remote::unknown), and serves them with [`serve_remote`](server::serve_remote).
//!
//! # Adding a procedure
//!
//! A row in `table.rs`; a structure in `types.rs` if the reply has several fields; its flags in
//! `flags.rs`. For virtnic's own program the structure goes to `virtnic.rs`.

mod bridge;
pub mod client;
mod endpoint;
mod error;
mod event;
pub mod flags;
pub mod frame;
mod macros;
mod outbox;
mod procedure;
pub mod server;
mod socket;
mod table;
pub mod tls;
mod types;
mod unserved;
pub mod uri;
mod virtnic;
pub mod xdr;

pub use error::{Code, Domain, Error, WireError};
pub use event::*;
pub use procedure::{Access, Info, Pace, Procedure, Program};
pub use table::*;
pub use types::*;
pub use virtnic::*;
