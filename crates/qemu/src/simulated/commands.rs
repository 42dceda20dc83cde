//! What a simulated guest's monitor does when it is told to.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde_json::{Value, json};

use super::devices::no_device;
use super::{Machine, Refusal, lock};
use crate::RunState;

/// Commands that come with a descriptor.
pub(super) const TAKE_ONE: [&str; 2] = ["getfd", "add-fd"];

/// Does what it is told, and says so.
pub(super) fn answer(
    machine: &Arc<Machine>,
    connection: u64,
    command: &Value,
    fd: Option<OwnedFd>,
) {
    let mut answer = match obey(machine, command, fd) {
        Ok(value) => json!({ "return": value }),
        Err((class, text)) => json!({ "error": { "class": class, "desc": text } }),
    };
    if let Some(id) = command.get("id") {
        answer["id"] = id.clone();
    }
    machine.answer(connection, &answer);
}

/// Does what it is told, and says nothing.
pub(super) fn carry_out(machine: &Arc<Machine>, command: &Value, fd: Option<OwnedFd>) {
    let _ = obey(machine, command, fd);
}

fn obey(machine: &Arc<Machine>, command: &Value, fd: Option<OwnedFd>) -> Result<Value, Refusal> {
    let name = command["execute"].as_str().unwrap_or_default();
    let arguments = &command["arguments"];
    let text = |member: &str| arguments[member].as_str().unwrap_or_default();
    if let Some(refusal) = machine.refuses(name) {
        return Err(refusal);
    }
    match name {
        "qmp_capabilities" | "balloon" => {}
        "getfd" => machine.take_descriptor(text("fdname"), fd),
        "closefd" => {
            if !machine.close_descriptor(text("fdname")) {
                let text = format!("File descriptor named '{}' not found", text("fdname"));
                return Err(("GenericError", text));
            }
        }
        "netdev_add" => machine.add_netdev(arguments)?,
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
        "query-chardev" => return Ok(json!([])),
        "query-cpus-fast" => {
            let cpu = json!({ "cpu-index": 0, "thread-id": 0, "qom-path": "/machine/unattached/device[0]" });
            let cpus = machine.faults().cpu_features.map(|_| cpu);
            return Ok(cpus.into_iter().collect());
        }
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
        "migrate-set-capabilities" => machine.set_capabilities(arguments),
        "migrate-set-parameters" => machine.set_parameters(arguments),
        "query-migrate" => return Ok(machine.migration()),
        "migrate" => machine.migrate(text("uri"))?,
        "migrate-incoming" => machine.listen_for_migration(text("uri"))?,
        "migrate_cancel" => machine.cancel_migration(),
        "announce-self" => lock(&machine.state).migration.announced += 1,
        "qom-get" if text("property") == "feature-words" => {
            return machine.faults().cpu_features.ok_or_else(|| {
                let text = "Property 'cpu.feature-words' not found";
                ("GenericError", text.to_owned())
            });
        }
        "qom-get" => return machine.property(text("path"), text("property")),
        "x-query-virtio-status" => return machine.virtio_status(text("path")),
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
        "device_add" => machine.plug(arguments)?,
        "device_del" => machine.unplug(text("id"))?,
        "add-fd" => return Ok(lock(&machine.state).drives.add_fd(arguments, fd)),
        "remove-fd" => lock(&machine.state).drives.remove_fd(arguments)?,
        "query-fdsets" => return Ok(lock(&machine.state).drives.sets()),
        "blockdev-add" => lock(&machine.state).drives.add_node(arguments)?,
        "blockdev-del" => machine.remove_node(text("node-name"))?,
        "query-named-block-nodes" => {
            return Ok(lock(&machine.state).drives.shown());
        }
        "query-block" => return Ok(machine.block_devices()),
        "blockdev-open-tray" => {
            let force = arguments["force"].as_bool().unwrap_or_default();
            machine.open_tray(text("id"), force)?;
        }
        "blockdev-close-tray" => machine.close_tray(text("id"))?,
        "blockdev-remove-medium" => machine.change_medium(text("id"), None)?,
        "blockdev-insert-medium" => {
            machine.change_medium(text("id"), Some(text("node-name")))?;
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
