//! Vendors' and products' names, from the files that distributions have of the PCI ID repository
//! (<https://pci-ids.ucw.cz/>) and of the USB ID repository, which have one format.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Longest file that is read; real ones have 1.5 MB.
const MOST_BYTES: u64 = 16 << 20;
/// Devices whose names are remembered: a host has many of few kinds.
const MOST_KNOWN: usize = 1024;
/// Longest name; real ones have at most about 120 characters.
const MOST_NAME: usize = 256;

/// The names of one of the two. The file is read when first asked for, and again after it changed.
#[derive(Debug)]
pub(super) struct HardwareIds {
    files: [PathBuf; 2],
    table: Mutex<Option<(Stamp, Arc<Table>)>>,
}

/// What vendor and product are called.
type Names = (Option<String>, Option<String>);

/// Which version of a file it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
}

#[derive(Debug)]
struct Table {
    text: String,
    /// Each vendor's lines in the text, in the order of their numbers.
    vendors: Vec<(u16, std::ops::Range<usize>)>,
    known: Mutex<HashMap<(u16, u16), Names>>,
}

impl HardwareIds {
    /// The file of that name where Debian has it, or Fedora, below `/usr/share`.
    pub(super) fn new(share: &Path, name: &str) -> Self {
        Self {
            files: ["misc", "hwdata"].map(|directory| share.join(directory).join(name)),
            table: Mutex::default(),
        }
    }

    /// What the vendor and the product are called, as far as that is known.
    pub(super) fn names(&self, vendor: u16, product: u16) -> Names {
        match self.table() {
            Some(table) => table.names(vendor, product),
            None => (None, None),
        }
    }

    fn table(&self) -> Option<Arc<Table>> {
        let stamp = self.files.iter().find_map(|file| {
            let found = fs::metadata(file).ok()?;
            Some(Stamp {
                file: file.clone(),
                modified: found.modified().ok(),
                length: found.len(),
            })
        })?;
        // Whoever comes meanwhile waits: it is read once.
        let mut known = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, table)) = &*known
            && *of == stamp
        {
            return Some(Arc::clone(table));
        }
        let table = match read(&stamp.file) {
            Ok(text) => Arc::new(Table::new(text)),
            Err(error) => {
                tracing::debug!(file = %stamp.file.display(), %error, "no names of devices");
                return None;
            }
        };
        *known = Some((stamp, Arc::clone(&table)));
        Some(table)
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Table {
    fn new(text: String) -> Self {
        let mut vendors: Vec<(u16, std::ops::Range<usize>)> = Vec::new();
        let (mut at, mut open) = (0, None);
        for line in text.split_inclusive('\n') {
            if !line.starts_with(['\t', '#']) && !line.trim().is_empty() {
                vendors.extend(open.take().map(|(id, from)| (id, from..at)));
                // Other lists than that of vendors follow: `C 00  Unclassified device`.
                open = entry(line).map(|(id, _)| (id, at));
            }
            at += line.len();
        }
        vendors.extend(open.map(|(id, from)| (id, from..at)));
        vendors.sort_by_key(|(id, _)| *id);
        Self {
            text,
            vendors,
            known: Mutex::default(),
        }
    }

    fn names(&self, vendor: u16, product: u16) -> Names {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = known.get(&(vendor, product)) {
            return names.clone();
        }
        let names = self.find(vendor, product);
        if known.len() < MOST_KNOWN {
            known.insert((vendor, product), names.clone());
        }
        names
    }

    fn find(&self, vendor: u16, product: u16) -> Names {
        let found = self.vendors.binary_search_by_key(&vendor, |(id, _)| *id);
        let lines = found.ok().and_then(|at| self.vendors.get(at));
        let lines = lines.and_then(|(_, lines)| self.text.get(lines.clone()));
        let Some(lines) = lines else {
            return (None, None);
        };
        let mut lines = lines.lines();
        let of_vendor = lines.next().and_then(entry).map(|(_, name)| name);
        // Those with two tabs are subsystems, or interfaces.
        let products = lines.filter_map(|line| entry(line.strip_prefix('\t')?));
        let of_product = products
            .filter(|(id, _)| *id == product)
            .map(|(_, name)| name);
        (of_vendor, { of_product }.next())
    }
}

/// `8086  Intel Corporation`.
fn entry(line: &str) -> Option<(u16, String)> {
    let (id, name) = line.split_once(' ')?;
    let id = (id.len() == 4).then(|| u16::from_str_radix(id, 16).ok())??;
    let name: String = name.trim().chars().take(MOST_NAME).collect();
    (!name.is_empty()).then_some((id, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n\n8086  Intel Corporation\n\t10c9  82576 Gigabit Network \
        Connection\n\t\t8086 a03c  Gigabit ET Dual Port\n# comment\n\t10ca  82576 Virtual Function\n\
        10de  NVIDIA Corporation\n\t10c9  Other\nC 02  Network controller\n\t00  Ethernet\n";

    fn named(text: &str, vendor: u16, product: u16) -> Names {
        Table::new(text.to_owned()).names(vendor, product)
    }

    #[test]
    fn a_product_is_its_vendors() {
        let (vendor, product) = named(TEXT, 0x8086, 0x10c9);
        assert_eq!(vendor.as_deref(), Some("Intel Corporation"));
        assert_eq!(product.as_deref(), Some("82576 Gigabit Network Connection"));
        let (vendor, product) = named(TEXT, 0x8086, 0x10ca);
        assert!(vendor.is_some() && product.as_deref() == Some("82576 Virtual Function"));
        let (_, product) = named(TEXT, 0x10de, 0x10c9);
        assert_eq!(product.as_deref(), Some("Other"));
        assert_eq!(named(TEXT, 0x8086, 0xa03c).1, None);
        assert_eq!(named(TEXT, 0x8087, 0x10c9), (None, None));
    }

    #[test]
    fn a_mangled_file_names_nothing_and_no_name_is_long() {
        for text in [
            "",
            "\t\t\n8086",
            "8086 \n",
            "é086  x\n",
            "zzzz  x\n\tzzzz  y\n",
        ] {
            assert_eq!(named(text, 0x8086, 0x10c9), (None, None), "{text:?}");
        }
        let long = format!("8086  {}\n", "x".repeat(5000));
        assert_eq!(named(&long, 0x8086, 0).0.unwrap().len(), MOST_NAME);
    }

    #[test]
    fn the_file_may_be_missing_and_come_and_change() {
        let share = tempfile::tempdir().unwrap();
        let ids = HardwareIds::new(share.path(), "pci.ids");
        assert_eq!(ids.names(0x8086, 0x10c9), (None, None));
        let file = share.path().join("hwdata/pci.ids");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, TEXT).unwrap();
        assert!(ids.names(0x8086, 0x10c9).1.is_some());
        fs::write(&file, "8086  Intel Corp.\n").unwrap();
        assert_eq!(
            ids.names(0x8086, 0x10c9),
            (Some("Intel Corp.".into()), None)
        );
    }
}
