//! The monitor of a simulated guest: QMP, as QEMU speaks it.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use super::Machine;
use crate::RunState;

/// Serves a connection until it ends, or the guest does, or a newer one comes.
pub(super) async fn serve(machine: Arc<Machine>, stream: DuplexStream, number: u64) {
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
                let Ok(command) = serde_json::from_str(&line) else { continue };
                tokio::select! {
                    () = async { machine.is_talking().await; machine.think().await } => {}
                    _ = machine.ended() => continue,
                }
                answer(&machine, &command);
            }
            changed = changes.changed() => if changed.is_err() { return },
            () = due => {}
        }
    }
}

/// Does what it is told, and says so.
fn answer(machine: &Machine, command: &Value) {
    let mut answer = match obey(machine, command) {
        Ok(value) => json!({ "return": value }),
        Err((class, text)) => json!({ "error": { "class": class, "desc": text } }),
    };
    if let Some(id) = command.get("id") {
        answer["id"] = id.clone();
    }
    machine.write(&answer);
}

fn obey(machine: &Machine, command: &Value) -> Result<Value, (&'static str, String)> {
    let name = command["execute"].as_str().unwrap_or_default();
    let arguments = &command["arguments"];
    let text = |member: &str| arguments[member].as_str().unwrap_or_default();
    let no_device = |alias: &str| ("DeviceNotFound", format!("Device '{alias}' not found"));
    match name {
        refused if machine.refuses(refused) => {
            return Err(("GenericError", format!("'{refused}' is refused by a fault")));
        }
        "qmp_capabilities" | "balloon" | "add-fd" => {}
        "getfd" => {
            machine.hold_descriptor(text("fdname"), true);
        }
        "closefd" => {
            if !machine.hold_descriptor(text("fdname"), false) {
                let text = format!("File descriptor named '{}' not found", text("fdname"));
                return Err(("GenericError", text));
            }
        }
        "netdev_add" => machine.add_netdev(arguments),
        "netdev_del" => {
            if !machine.remove_netdev(text("id")) {
                return Err(no_device(text("id")));
            }
        }
        "query-status" => {
            let status = machine.status();
            let running = status == RunState::Running;
            return Ok(json!({ "status": status.to_string(), "running": running }));
        }
        // It has no terminals, and no threads that could be moved.
        "query-chardev" | "query-cpus-fast" => return Ok(json!([])),
        "query-balloon" => return Ok(json!({ "actual": 128 << 20 })),
        "query-rx-filter" => {
            let alias = arguments["name"].as_str();
            let filters = machine.filters(alias);
            return filters
                .map(Value::Array)
                .ok_or_else(|| no_device(alias.unwrap_or_default()));
        }
        "qom-list" if text("path") == "/machine/peripheral" => {
            let member = |name: &str, kind: &str| json!({ "name": name, "type": kind });
            let mut members = vec![member("type", "string")];
            let devices = machine.devices();
            members.extend(devices.iter().map(|alias| member(alias, "child<device>")));
            return Ok(members.into());
        }
        "cont" => machine.run(),
        "stop" => machine.halt(RunState::Paused),
        "system_reset" => machine.reset(false),
        "system_powerdown" => machine.press_power_button(),
        "set_link" => {
            let up = arguments["up"].as_bool().unwrap_or_default();
            if !machine.set_link(text("name"), up) {
                return Err(no_device(text("name")));
            }
        }
        "device_add" => {
            if !machine.plug(arguments) {
                let text = format!("Duplicate device ID '{}'", text("id"));
                return Err(("GenericError", text));
            }
        }
        "device_del" => {
            if !machine.unplug(text("id")) {
                return Err(no_device(text("id")));
            }
        }
        "human-monitor-command" => {
            return Ok(format!("you said {}\r\n", text("command-line")).into());
        }
        other => {
            let text = format!("The command {other} has not been found");
            return Err(("CommandNotFound", text));
        }
    }
    Ok(json!({}))
}
