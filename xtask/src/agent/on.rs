//! Commands run in the other of two emulated hosts: the frames of the lab's wire, over the management network.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use super::command;
use super::host::Pf;
use crate::lab::wire::{Frame, Job};

/// Where a host takes commands, on its management address.
pub(crate) const PORT: u16 = 16510;

/// Why there is no exit status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OnError {
    /// The host could not be reached, or not any more.
    #[error("the connection to {address} failed")]
    Connection {
        /// Where that is.
        address: String,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// It ended the connection before the command ended.
    #[error("the host at {0} has gone")]
    Gone(String),
    /// This process's own output does not take what the command said.
    #[error("can't write the command's output")]
    Output(#[source] io::Error),
}

/// Runs a command there with this process's input and outputs; returns its status.
pub(crate) fn run(address: &str, command: Vec<String>) -> Result<u8, OnError> {
    let failed = |source| OnError::Connection {
        address: address.to_owned(),
        source,
    };
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let words = serde_json::to_vec(&command).map_err(|error| failed(error.into()))?;
    Frame::Job(words).write(&mut stream).map_err(failed)?;
    let mut input = stream.try_clone().map_err(failed)?;
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let length = io::stdin().read(&mut bytes).unwrap_or(0);
            // A command that has ended takes no more; this process ends then, too.
            let taken = Frame::Input(bytes[..length].to_vec()).write(&mut input);
            if length == 0 || taken.is_err() {
                break;
            }
        }
    });
    loop {
        match Frame::read(&mut stream).map_err(failed)? {
            Some(Frame::Out(bytes)) => {
                let mut out = io::stdout().lock();
                out.write_all(&bytes)
                    .and_then(|()| out.flush())
                    .map_err(OnError::Output)?;
            }
            Some(Frame::Err(bytes)) => {
                io::stderr().write_all(&bytes).map_err(OnError::Output)?;
            }
            Some(Frame::Exit(code)) => return Ok(code),
            Some(_) => {}
            None => return Err(OnError::Gone(address.to_owned())),
        }
    }
}

/// Runs what it is asked for, as long as this process lives; a command ends with its client.
pub(crate) fn serve(listener: TcpListener, job: &Job, pfs: &[Pf]) {
    let job = Job {
        input: true,
        timeout: None,
        terminal: None,
        ..job.clone()
    };
    let pfs = pfs.to_vec();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut job, pfs) = (job.clone(), pfs.clone());
            std::thread::spawn(move || {
                // Answers are short and waited for.
                let _ = stream.set_nodelay(true);
                let mut port = File::from(OwnedFd::from(stream));
                let Ok(Some(Frame::Job(words))) = Frame::read(&mut port) else {
                    return;
                };
                let Ok(command) = serde_json::from_slice(&words) else {
                    return;
                };
                job.command = command;
                if let Ok(code) = command::run(&mut port, &job, &pfs) {
                    // The client may have gone.
                    let _ = Frame::Exit(code).write(&mut port);
                }
            });
        }
    });
}
