//! What the nodes of a disk are called: by the disk's alias, so that they are found again by whoever
//! knows no more than that.

/// Longest name of a node that QEMU takes, bytes.
const NODE: usize = 31;

/// Longest end of a name: `-storage` and a number.
const END: usize = 8 + 10;

/// The names of the nodes of one medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeNames {
    /// The file or block device.
    pub(crate) storage: String,
    /// The image format on it.
    pub(crate) format: String,
}

impl NodeNames {
    /// The nodes of a disk's medium; each medium of a drive has a number of its own, from 0.
    pub(crate) fn new(alias: &str, medium: u32) -> Self {
        let stem = stem(alias);
        let number = match medium {
            0 => String::new(),
            number => number.to_string(),
        };
        Self {
            storage: format!("{stem}-storage{number}"),
            format: format!("{stem}-format{number}"),
        }
    }

    /// The nodes of the first medium that has none of these names.
    pub(crate) fn free(alias: &str, taken: &[String]) -> Self {
        let mut all = (0..).map(|medium| Self::new(alias, medium));
        let is_free = |names: &Self| {
            let mut taken = taken.iter();
            !taken.any(|name| *name == names.storage || *name == names.format)
        };
        // There are more numbers than names.
        all.find(is_free).unwrap_or_else(|| Self::new(alias, 0))
    }
}

/// Whether a node is that disk's.
pub(crate) fn is_node_of(alias: &str, node: &str) -> bool {
    let end = node.strip_prefix(&stem(alias));
    let end = end.and_then(|end| end.strip_prefix('-'));
    let number = end.and_then(|end| {
        let kinds = ["storage", "format"];
        kinds.into_iter().find_map(|kind| end.strip_prefix(kind))
    });
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The alias, or what stands for one that can't begin a node's name.
fn stem(alias: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let begins = alias.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins && alias.chars().all(plain) && alias.len() <= NODE - END {
        return alias.to_owned();
    }
    // 64 bits of FNV-1a, cut to what fits: it only has to be the same at each time, and another for
    // each of a guest's few disks.
    let hash = alias.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("d{:012x}", hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_known_by_the_alias() {
        for alias in ["sata0-0-0", "virtio-disk12", &"ua-".repeat(40), "0 odd"] {
            for medium in [0, 7, u32::MAX] {
                let names = NodeNames::new(alias, medium);
                for name in [&names.storage, &names.format] {
                    assert!(name.len() <= NODE, "{name}");
                    assert!(name.starts_with(|c: char| c.is_ascii_alphabetic()));
                    assert!(is_node_of(alias, name), "{name}");
                    assert!(!is_node_of("virtio-disk1", name), "{name}");
                }
            }
        }
        assert!(!is_node_of("a", "a-storage-storage"));
        assert!(!is_node_of("a", "a-other"));
        let long = ["ua-".repeat(40), "ua-".repeat(41)].map(|alias| stem(&alias));
        assert_ne!(long[0], long[1]);
    }

    #[test]
    fn a_second_medium_has_other_nodes() {
        let taken = ["a-storage".to_owned(), "a-format1".to_owned()];
        assert_eq!(NodeNames::free("a", &taken), NodeNames::new("a", 2));
        assert_eq!(NodeNames::free("a", &[]).storage, "a-storage");
    }
}
