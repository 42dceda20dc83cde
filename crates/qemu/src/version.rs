//! Which QEMU there is.

use std::path::Path;

use tokio::process::Command;

/// The version of an emulator as libvirt counts it: major × 1,000,000 + minor × 1,000 + micro.
/// `None`: it is not there, or does not say.
pub async fn emulator_version(program: &Path) -> Option<u64> {
    let output = Command::new(program).arg("--version").output().await.ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
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
    fn a_version_is_counted_as_libvirt_does() {
        assert_eq!(
            parse("QEMU emulator version 10.0.13 (Debian 1:10.0)\n"),
            Some(10_000_013)
        );
        assert_eq!(parse("QEMU emulator version 7.2\n"), Some(7_002_000));
        assert_eq!(parse("something else"), None);
    }
}
