//! Users and groups of this host, by name: those of `/etc/passwd` and `/etc/group`, where the accounts
//! of services are.

use std::fs;

/// A user's id and main group.
pub(crate) fn user(name: &str) -> Option<(u32, u32)> {
    find_user(&fs::read_to_string("/etc/passwd").ok()?, name)
}

/// A group's id.
pub(crate) fn group(name: &str) -> Option<u32> {
    find_group(&fs::read_to_string("/etc/group").ok()?, name)
}

fn find_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let fields = line(passwd, name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

fn find_group(group: &str, name: &str) -> Option<u32> {
    line(group, name)?.get(2)?.parse().ok()
}

fn line<'t>(text: &'t str, name: &str) -> Option<Vec<&'t str>> {
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.first() == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_whole() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nqemu:x:64055:109::/:/bin/false\n";
        assert_eq!(find_user(passwd, "qemu"), Some((64055, 109)));
        assert_eq!(find_user(passwd, "qem"), None);
        assert_eq!(find_group("libvirt:x:108:me\n", "libvirt"), Some(108));
        assert_eq!(find_group("libvirt:x\n", "libvirt"), None);
    }
}
