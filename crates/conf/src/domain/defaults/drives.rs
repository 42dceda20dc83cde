//! Disks: format, place on their controller.

use crate::domain::{DiskSource, Domain, GuestAddress};

impl Domain {
    pub(super) fn fill_disks(&mut self) {
        for disk in &mut self.devices.disks {
            let vhost_user = matches!(&disk.source, Some(DiskSource::Other { kind, .. })
                if kind.starts_with("vhost"));
            if disk.format.is_empty() && !vhost_user {
                "raw".clone_into(&mut disk.format);
            }
            if disk.info.address.is_none() {
                disk.info.address = place(&disk.bus, &disk.target);
            }
        }
    }
}

/// The position that a drive's name stands for: `sda` 0, `sdb` 1, `sdaa` 26.
pub(in crate::domain) fn number_of(target: &str) -> Option<u32> {
    let letters = ["fd", "hd", "vd", "sd", "xvd", "ubd"]
        .iter()
        .find_map(|prefix| target.strip_prefix(prefix))?;
    let letters = letters.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.is_empty() {
        return None;
    }
    let mut number: u32 = 0;
    for letter in letters.bytes() {
        if !letter.is_ascii_lowercase() {
            return None;
        }
        let digit = u32::from(letter - b'a') + 1;
        number = number.checked_mul(26)?.checked_add(digit)?;
    }
    Some(number - 1)
}

/// Where a drive goes on its controllers, by its name.
fn place(bus: &str, target: &str) -> Option<GuestAddress> {
    let number = number_of(target)?;
    let (controller, bus, unit) = match bus {
        "ide" => (number / 4, number % 4 / 2, number % 2),
        "fdc" => (number / 2, 0, number % 2),
        "sata" => (number / 6, 0, number % 6),
        // A narrow bus has eight units, the controller being the last.
        "scsi" => (number / 7, 0, number % 7),
        _ => return None,
    };
    Some(GuestAddress::Drive {
        controller,
        bus,
        target: 0,
        unit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_as_letters_do() {
        assert_eq!(number_of("sda"), Some(0));
        assert_eq!(number_of("vdz"), Some(25));
        assert_eq!(number_of("vdaa"), Some(26));
        assert_eq!(number_of("xvdb"), Some(1));
        assert_eq!(number_of("hda1"), Some(0));
        assert_eq!(number_of("disk"), None);
        assert_eq!(number_of("sdzzzzzzzzz"), None);
    }

    #[test]
    fn drives_fill_their_controllers() {
        let drive = |controller, bus, unit| {
            Some(GuestAddress::Drive {
                controller,
                bus,
                target: 0,
                unit,
            })
        };
        assert_eq!(place("ide", "hdc"), drive(0, 1, 0));
        assert_eq!(place("sata", "sdh"), drive(1, 0, 1));
        assert_eq!(place("scsi", "sdi"), drive(1, 0, 1));
        assert_eq!(place("virtio", "vda"), None);
    }
}
