//! The monitor of a simulated guest: QMP, as QEMU speaks it.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use super::{Machine, commands};
use crate::qmp::Descriptors;

/// Serves a connection until it ends, or the guest does, or a newer one comes.
/// Descriptors come beside the stream, in the order of their commands.
pub(super) async fn serve(
    machine: Arc<Machine>,
    (stream, descriptors): (DuplexStream, Descriptors),
    number: u64,
) {
    let (from, mut to) = tokio::io::split(stream);
    let mut lines = BufReader::with_capacity(4 << 10, from).lines();
    let mut changes = machine.changes();
    tokio::select! {
        () = machine.is_ready() => {}
        _ = machine.ended() => return,
    }
    let version = json!({ "qemu": { "major": 10, "minor": 0, "micro": 0 } });
    let greeting = json!({ "QMP": { "version": version, "capabilities": ["oob"] } });
    if to
        .write_all(format!("{greeting}\r\n").as_bytes())
        .await
        .is_err()
    {
        return;
    }
    loop {
        let next_to_go = machine.let_due_go();
        changes.borrow_and_update();
        let has_ended = machine.exit().is_some();
        while has_ended || !machine.is_mute() {
            match machine.next_line(number) {
                Ok(Some(line)) => {
                    if to.write_all(line.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(()) => return,
            }
        }
        if has_ended {
            return;
        }
        let due = async {
            match next_to_go {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return };
                let Ok(command) = serde_json::from_str::<Value>(&line) else { continue };
                let name = command["execute"].as_str().unwrap_or_default();
                tokio::select! {
                    () = async { machine.is_talking().await; machine.think(name).await } => {}
                    _ = machine.ended() => continue,
                }
                let fd = commands::TAKE_ONE.contains(&name).then(|| descriptors.take()).flatten();
                machine.in_turn(number, || {
                    if machine.swallows(name) {
                        commands::carry_out(&machine, &command, fd);
                    } else {
                        commands::answer(&machine, number, &command, fd);
                    }
                });
            }
            changed = changes.changed() => if changed.is_err() { return },
            () = due => {}
        }
    }
}
