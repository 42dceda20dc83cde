//! Which QEMU there is, and what it can be.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// The version of an emulator as libvirt counts it: major × 1,000,000 + minor × 1,000 + micro.
/// `None`: it is not there, or does not say.
pub async fn emulator_version(program: &Path) -> Option<u64> {
    let output = Command::new(program).arg("--version").output().await.ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// The machines that an emulator knows by a short name, and what each stands for now, as `q35` for
/// `pc-q35-10.0`. Blocks until the emulator has answered. Empty: it is not there, or does not say.
#[must_use]
pub fn machine_aliases(program: &Path) -> HashMap<String, String> {
    let mut command = std::process::Command::new(program);
    command.args(["-machine", "help"]).stdin(Stdio::null());
    let text = command.output().map(|output| output.stdout);
    parse_aliases(&String::from_utf8_lossy(&text.unwrap_or_default()))
}

/// `q35      Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)`
fn parse_aliases(text: &str) -> HashMap<String, String> {
    let alias = |line: &str| {
        let short = line.split_whitespace().next()?;
        let full = line.split_once("(alias of ")?.1.split_once(')')?.0;
        Some((short.to_owned(), full.to_owned()))
    };
    text.lines().filter_map(alias).collect()
}

fn parse(text: &str) -> Option<u64> {
    let version = text.strip_prefix("QEMU emulator version ")?;
    let end = version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(version.len());
    let mut numbers = version[..end]
        .split('.')
        .map(|number| number.parse::<u64>().ok());
    let major = numbers.next()??;
    let minor = numbers.next()??;
    let micro = numbers.next().flatten().unwrap_or(0);
    Some(major * 1_000_000 + minor * 1_000 + micro)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_of_machines_are_read() {
        let aliases = parse_aliases(
            "Supported machines are:\n\
             q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)\n\
             pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)\n",
        );
        assert_eq!(aliases.len(), 1);
        assert_eq!(aliases["q35"], "pc-q35-10.0");
    }

    #[test]
    fn a_version_is_counted_as_libvirt_does() {
        assert_eq!(
            parse("QEMU emulator version 10.0.13 (Debian 1:10.0)\n"),
            Some(10_000_013)
        );
        assert_eq!(parse("QEMU emulator version 7.2\n"), Some(7_002_000));
        assert_eq!(parse("something else"), None);
    }
}
