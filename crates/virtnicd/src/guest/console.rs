//! A guest's console, as a stream to a client.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use conf::{CharBackend, CharDevice};
use rpc::flags::Console as ConsoleFlags;
use rpc::server::{Call, StreamInput, StreamReader, StreamWriter};
use rpc::{Code, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::{GuestHandle, QEMU};
use crate::daemon::Daemon;
use crate::fault::{self, Result};
use crate::sync::lock;

/// Bytes that are read from a guest at once.
const PIECE: usize = 4096;

/// The sessions on a guest's consoles, one a device.
#[derive(Debug, Default)]
pub(crate) struct Consoles {
    sessions: std::sync::Mutex<Vec<Session>>,
}

#[derive(Debug)]
struct Session {
    pty: String,
    number: u64,
    /// Dropped or changed: the session ends.
    end: watch::Sender<bool>,
}

static SESSIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

impl Daemon {
    /// Joins a client to a console: the first one, or the one of that alias.
    pub(crate) async fn open_console(
        self: &Arc<Self>,
        object: &Arc<GuestHandle>,
        device: Option<&str>,
        flags: ConsoleFlags,
        call: Call,
    ) -> Result<()> {
        let pty = find_pty(&object.run()?.domain, device)?;
        let (number, ended) =
            object
                .consoles
                .begin(&object.name, &pty, flags.contains(ConsoleFlags::FORCE))?;
        let console = match qemu::open_console(Path::new(&pty)) {
            Ok(console) => console,
            Err(error) => {
                object.consoles.end(number);
                return Err(Error::new(Code::InternalError, QEMU, fault::chain(&error)));
            }
        };
        let (reader, writer) = call.open_stream();
        let object = Arc::clone(object);
        tokio::spawn(async move {
            relay(console, reader, writer, ended).await;
            object.consoles.end(number);
        });
        Ok(())
    }
}

impl Consoles {
    fn begin(&self, guest: &str, pty: &str, force: bool) -> Result<(u64, watch::Receiver<bool>)> {
        let mut sessions = lock(&self.sessions);
        if let Some(place) = sessions.iter().position(|session| session.pty == pty) {
            if !force {
                let detail = format!("Active console session exists for domain '{guest}'");
                return Err(Error::new(Code::OperationFailed, QEMU, detail));
            }
            let _ = sessions.swap_remove(place).end.send(true);
        }
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let (end, ended) = watch::channel(false);
        sessions.push(Session {
            pty: pty.to_owned(),
            number,
            end,
        });
        Ok((number, ended))
    }

    fn end(&self, number: u64) {
        lock(&self.sessions).retain(|session| session.number != number);
    }
}

/// The terminal of the console that is meant.
fn find_pty(domain: &conf::Domain, device: Option<&str>) -> Result<String> {
    let mut all = domain
        .devices
        .consoles
        .iter()
        .chain(&domain.devices.serials);
    let found = match device {
        None => all.next(),
        Some(alias) => all.find(|one| one.info.alias.as_deref() == Some(alias)),
    };
    match found {
        Some(CharDevice {
            backend: CharBackend::Pty(Some(path)),
            ..
        }) => Ok(path.clone()),
        Some(_) => {
            let detail = format!(
                "character device {} is not using a PTY",
                device.unwrap_or("<null>")
            );
            Err(Error::new(Code::InternalError, QEMU, detail))
        }
        None => {
            let detail = format!(
                "cannot find character device {}",
                device.unwrap_or("<null>")
            );
            Err(Error::new(Code::InternalError, QEMU, detail))
        }
    }
}

/// Carries bytes both ways until one side ends.
async fn relay(
    console: qemu::Console,
    mut from_client: StreamReader,
    mut to_client: StreamWriter,
    mut ended: watch::Receiver<bool>,
) {
    let (mut output, mut input) = tokio::io::split(console);
    let mut piece = vec![0; PIECE];
    loop {
        tokio::select! {
            read = output.read(&mut piece) => match read {
                Ok(count) if count > 0 => {
                    if to_client.write(&piece[..count]).await.is_err() {
                        return;
                    }
                }
                // The guest is gone.
                _ => {
                    let _ = to_client.finish().await;
                    return;
                }
            },
            typed = from_client.next() => match typed {
                StreamInput::Data(data) => {
                    if input.write_all(&data).await.is_err() {
                        let _ = to_client.finish().await;
                        return;
                    }
                }
                StreamInput::Finished | StreamInput::Aborted | StreamInput::Lost => {
                    let _ = to_client.finish().await;
                    return;
                }
            },
            _ = ended.changed() => {
                let detail = "another client took the console over";
                to_client.fail(&Error::new(Code::OperationFailed, QEMU, detail));
                return;
            }
        }
    }
}
