//! The lab's small guest: a kernel, this program as `/init`, and nothing else.
//!
//! On the console it prints `READY` once, and a line `NET name mac driver state` for each network card that appears,
//! changes or goes. It brings every card up and gives it the addresses that the kernel command line names for its MAC:
//!
//! ```text
//! ip.52:54:00:aa:bb:01=10.0.0.2/24,fd00::2/64
//! ```
//!
//! The cards of one MAC that the kernel itself joins (a failover pair) get theirs together, on the master. With
//! `bond.MAC` on the command line this program joins them, as `bond0`.
//!
//! Lines typed on the console are commands: see [`console::COMMANDS`]. The ACPI power button powers off. TCP port 7 echoes,
//! port 13 answers as `uptime` does.

mod console;
mod links;
mod netlink;
mod ping;
mod services;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use crate::console::Console;
use crate::links::Links;

fn main() {
    for (kind, dir) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        if let Err(error) = mount(kind, dir, kind, MountFlags::empty(), None) {
            println!("ERROR can't mount {dir}: {error}");
        }
    }
    // A card that comes up says so to its switch, so that nobody keeps sending to its old port.
    let _ = fs::write("/proc/sys/net/ipv4/conf/all/arp_notify", "1");
    if let Err(error) = serve() {
        println!("ERROR {error}");
    }
    power_off();
}

/// Answers events until somebody wants the guest off.
fn serve() -> io::Result<()> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let mut links = Links::open(&cmdline)?;
    let mut console = Console::default();
    let buttons = power_buttons();
    let stdin = io::stdin();
    if let Err(error) = services::start() {
        println!("ERROR can't listen: {error}");
    }
    println!("READY");
    links.refresh_all()?;
    loop {
        let mut fds = vec![
            PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(links.as_fd(), PollFlags::IN),
        ];
        fds.extend(
            buttons
                .iter()
                .map(|button| PollFd::new(button, PollFlags::IN)),
        );
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[1] {
            links.read_events()?;
        }
        if ready[0] && console.read(&mut links)?.is_break() {
            return Ok(());
        }
        for (button, ready) in buttons.iter().zip(&ready[2..]) {
            if *ready && pressed(button)? {
                println!("BUTTON power");
                return Ok(());
            }
        }
    }
}

/// The input devices. The guest has no driver for a keyboard or mouse, so they are the ACPI buttons.
fn power_buttons() -> Vec<File> {
    fs::read_dir("/dev/input")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"event"))
        .filter_map(|entry| File::open(entry.path()).ok())
        .collect()
}

/// Whether one of the waiting input events is the power key going down.
fn pressed(mut button: &File) -> io::Result<bool> {
    /// `struct input_event` on a 64-bit machine: two words of time, then type, code and value.
    const EVENT: usize = 24;
    /// `EV_KEY`, `KEY_POWER` and "down", as they follow the time.
    const POWER_DOWN: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];
    let mut events = [0; 16 * EVENT];
    let length = button.read(&mut events)?;
    Ok(events[..length]
        .chunks_exact(EVENT)
        .any(|event| event[16..] == POWER_DOWN))
}

/// Ends the machine; there is nothing to save.
fn power_off() -> ! {
    println!("OFF");
    let _ = reboot(RebootCommand::PowerOff);
    // Only a kernel without ACPI gets here: a panic with panic=-1 restarts, which ends a QEMU run with -no-reboot.
    let _ = reboot(RebootCommand::Restart);
    std::process::exit(1)
}
