//! vfio variant drivers, by `modules.alias`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Each field of a PCI modalias by its label: vendor, device, subsystem's two, class's three.
const LABELS: [&str; 7] = ["v", "d", "sv", "sd", "bc", "sc", "i"];

/// A pattern of PCI devices, or one device: the same text form, `v00008086d000010CA…`, with `*`
/// for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PciAlias([Option<String>; 7]);

impl FromStr for PciAlias {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut rest = text;
        let mut fields: [Option<String>; 7] = Default::default();
        for (field, label) in fields.iter_mut().zip(LABELS) {
            rest = rest.strip_prefix(label).ok_or(())?;
            if let Some(after) = rest.strip_prefix('*') {
                rest = after;
                continue;
            }
            // Labels are in lower case, digits in upper case.
            let end = rest.find(|c: char| !matches!(c, '0'..='9' | 'A'..='F'));
            let (digits, after) = rest.split_at(end.unwrap_or(rest.len()));
            if digits.is_empty() {
                return Err(());
            }
            *field = Some(digits.to_owned());
            rest = after;
        }
        if rest.is_empty() {
            Ok(Self(fields))
        } else {
            Err(())
        }
    }
}

impl PciAlias {
    /// How many wildcards the pattern needs to match that device; `None`: it does not match.
    fn wildcards_for(&self, device: &Self) -> Option<usize> {
        let mut pairs = self.0.iter().zip(&device.0);
        let matches = pairs.all(|(pattern, field)| pattern.is_none() || pattern == field);
        matches.then(|| self.0.iter().filter(|field| field.is_none()).count())
    }
}

/// The vfio variant modules of a kernel, read again when the file changes.
#[derive(Debug, Default)]
pub(super) struct Variants(Mutex<Option<Known>>);

/// What was read of a file: when it was changed, how long it was, each alias and its module.
#[derive(Debug)]
struct Known {
    stamp: (SystemTime, u64),
    aliases: Vec<(PciAlias, String)>,
}

impl Variants {
    /// The module whose alias fits the device with that `modalias` best: the one with the fewest
    /// wildcards.
    pub(super) fn best(&self, file: &Path, modalias: &str) -> io::Result<Option<String>> {
        let Some(Ok(device)) = modalias.trim().strip_prefix("pci:").map(str::parse) else {
            return Ok(None);
        };
        let opened = match File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = opened.metadata()?;
        let stamp = (metadata.modified()?, metadata.len());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.stamp != stamp) {
            let aliases = read(opened)?;
            *known = Some(Known { stamp, aliases });
        }
        let all = known.iter().flat_map(|known| &known.aliases);
        let fitting = all.filter_map(|(alias, module)| {
            alias
                .wildcards_for(&device)
                .map(|wildcards| (wildcards, module))
        });
        let best = fitting.min_by_key(|(wildcards, _)| *wildcards);
        Ok(best.map(|(_, module)| module.clone()))
    }
}

fn read(file: File) -> io::Result<Vec<(PciAlias, String)>> {
    let mut found = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line?;
        let Some(rest) = line.strip_prefix("alias vfio_pci:") else {
            continue;
        };
        if let Some((Ok(alias), module)) = rest.split_once(' ').map(|(a, m)| (a.parse(), m)) {
            found.push((alias, module.trim().to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "pci:v000015B3d0000101Esv000015B3sd00000058bc02sc00i00\n";

    fn best(aliases: &str, modalias: &str) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), aliases).unwrap();
        Variants::default().best(file.path(), modalias).unwrap()
    }

    #[test]
    fn the_alias_with_the_fewest_wildcards_wins() {
        let aliases = "# Aliases extracted from modules themselves.\n\
            alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core\n\
            alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n\
            alias vfio_pci:v000015B3d*sv*sd*bc02sc*i* some_vfio_pci\n\
            alias vfio_pci:v000015B3d0000101Esv*sd*bc02sc*i* mlx5_vfio_pci\n\
            alias vfio_pci:v00001DD8d00001003sv*sd*bc*sc*i* pds_vfio_pci\n\
            alias vfio_pci:broken mess\n";
        assert_eq!(best(aliases, CARD).as_deref(), Some("mlx5_vfio_pci"));
    }

    #[test]
    fn without_a_fitting_alias_there_is_no_variant() {
        let aliases = "alias vfio_pci:v00001DD8d00001003sv*sd*bc*sc*i* pds_vfio_pci\n";
        assert_eq!(best(aliases, CARD), None);
        assert_eq!(best(aliases, "usb:v1D6Bp0002"), None);
        let gone = Path::new("/nonexistent/modules.alias");
        assert_eq!(Variants::default().best(gone, CARD).unwrap(), None);
    }

    #[test]
    fn a_new_kernel_modules_file_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let variants = Variants::default();
        assert_eq!(variants.best(file.path(), CARD).unwrap(), None);
        std::fs::write(file.path(), "alias vfio_pci:v*d*sv*sd*bc*sc*i* any\n").unwrap();
        let now = variants.best(file.path(), CARD).unwrap();
        assert_eq!(now.as_deref(), Some("any"));
    }
}
