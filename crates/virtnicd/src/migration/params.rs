//! What a client says of a migration: flags, and named values.

use std::time::Duration;

use qemu::{Compression, MigrationSettings};
use rpc::flags::MigrateParams as Flags;
use rpc::{Code, Error, TypedParam, TypedValue};

use super::{QEMU, wrong};
use crate::fault::{self, Result};

/// What is not carried out, by the options of `virsh migrate`, and why.
const REFUSED: [(Flags, &str, &str); 9] = [
    (
        Flags::TUNNELLED,
        "--tunnelled",
        "QEMU's own stream goes to the other host, encrypted by --tls",
    ),
    (Flags::NON_SHARED_DISK, "--copy-storage-all", DISKS),
    (Flags::NON_SHARED_INC, "--copy-storage-inc", DISKS),
    (
        Flags::NON_SHARED_SYNCHRONOUS_WRITES,
        "--copy-storage-synchronous-writes",
        DISKS,
    ),
    (
        Flags::RDMA_PIN_ALL,
        "--rdma-pin-all",
        "memory is sent over TCP",
    ),
    (Flags::POSTCOPY, "--postcopy", POSTCOPY),
    (Flags::POSTCOPY_RESUME, "--postcopy-resume", POSTCOPY),
    (Flags::ZEROCOPY, "--zerocopy", "memory is copied to be sent"),
    (Flags::TLS, "--tls", "QEMU's stream is not encrypted yet"),
];

/// What says how memory is sent.
const OF_MEMORY: [(Flags, &str); 4] = [
    (Flags::COMPRESSED, "--compressed"),
    (Flags::AUTO_CONVERGE, "--auto-converge"),
    (Flags::PARALLEL, "--parallel"),
    (Flags::TLS, "--tls"),
];

const DISKS: &str = "disks are not copied: both hosts have to reach them";

/// A guest that runs on two hosts at once, with half of its memory on each, is lost with the connection
/// between them.
pub(super) const POSTCOPY: &str = "a guest whose memory is on two hosts is lost with the connection between them, and a VF needs all of \
     its memory in one place";

/// # Errors
/// What is asked is not carried out: all of it, by name.
pub(super) fn check_flags(flags: Flags) -> Result<()> {
    let refused = REFUSED.iter().filter(|(flag, ..)| flags.contains(*flag));
    let refused: Vec<_> = refused
        .map(|(_, option, why)| format!("{option}: {why}"))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let detail = format!("not carried out: {}", refused.join("; "));
    Err(Error::new(Code::ArgumentUnsupported, QEMU, detail))
}

/// # Errors
/// What is asked is not carried out for a guest that is off.
pub(super) fn check_offline(flags: Flags) -> Result<()> {
    let refused = REFUSED.iter().map(|(flag, option, _)| (*flag, *option));
    let refused: Vec<_> = (refused.chain(OF_MEMORY))
        .filter(|(flag, _)| flags.contains(*flag))
        .map(|(_, option)| option)
        .collect();
    if !refused.is_empty() {
        let detail = format!(
            "--offline moves a definition, and nothing of memory or disks: it goes without {}",
            refused.join(", ")
        );
        return Err(Error::new(Code::ArgumentUnsupported, QEMU, detail));
    }
    if !flags.contains(Flags::PERSIST_DEST) {
        return Err(fault::invalid(
            QEMU,
            "--offline moves a definition and nothing else: it needs --persistent",
        ));
    }
    Ok(())
}

/// The named values.
#[derive(Debug, Default)]
pub(super) struct Params {
    /// The guest's name on the destination.
    pub(super) name: Option<String>,
    /// Its document for the destination.
    pub(super) document: Option<String>,
    /// The definition that is kept there.
    pub(super) persistent: Option<String>,
    /// Where QEMU's stream is to go.
    pub(super) uri: Option<String>,
    /// The address that the destination's QEMU waits at.
    pub(super) listen: Option<String>,
    /// How memory is sent.
    pub(super) settings: MigrationSettings,
}

/// Those that say where disks, displays and memory go that are not sent here.
const WITHOUT_MEANING: [&str; 2] = ["graphics_uri", "disks_uri"];

impl Params {
    /// # Errors
    /// One of them is given twice, is of another type, out of range or not known.
    pub(super) fn read(params: &[TypedParam], flags: Flags) -> Result<Self> {
        let mut read = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        let mut methods: Vec<&str> = Vec::new();
        let (mut cache, mut zlib, mut zstd) = (None, None, None);
        let (mut initial, mut increment) = (None, None);
        for param in params {
            let field = param.field.as_str();
            // The methods of compression are the ones of which there may be several.
            if field != "compression" && seen.contains(&field) {
                return Err(wrong(format!("'{field}' is given twice")));
            }
            seen.push(field);
            match field {
                "destination_name" => read.name = Some(text(param)?),
                "destination_xml" => read.document = Some(text(param)?),
                "persistent_xml" => read.persistent = Some(text(param)?),
                "migrate_uri" => read.uri = Some(text(param)?),
                "listen_address" => read.listen = Some(text(param)?),
                "bandwidth" => read.settings.bandwidth = mebibytes(number(param)?)?,
                "parallel.connections" => {
                    read.settings.parallel = Some(within(param, 1, 255)?);
                }
                "auto_converge.initial" => initial = Some(within(param, 1, 99)?),
                "auto_converge.increment" => increment = Some(within(param, 1, 99)?),
                "compression" => methods.push(match &*text(param)? {
                    "xbzrle" => "xbzrle",
                    "zlib" => "zlib",
                    "zstd" => "zstd",
                    other => {
                        let detail = format!(
                            "compression method '{other}' is not known: there are xbzrle and, with \
                             --parallel, zlib and zstd"
                        );
                        return Err(Error::new(Code::ArgumentUnsupported, QEMU, detail));
                    }
                }),
                "compression.xbzrle.cache" => cache = Some(number(param)?),
                "compression.zlib.level" => zlib = Some(within(param, 0, 9)?),
                "compression.zstd.level" => zstd = Some(within(param, 0, 20)?),
                other if WITHOUT_MEANING.contains(&other) => {}
                other => {
                    let detail = format!("'{other}' is not carried out");
                    return Err(Error::new(Code::ArgumentUnsupported, QEMU, detail));
                }
            }
        }
        if flags.contains(Flags::PARALLEL) {
            // As many as QEMU has by itself.
            read.settings.parallel.get_or_insert(2);
        } else if read.settings.parallel.is_some() {
            return Err(wrong(
                "the number of connections is given without --parallel",
            ));
        }
        if flags.contains(Flags::AUTO_CONVERGE) {
            read.settings.auto_converge = Some((initial, increment));
        } else if initial.is_some() || increment.is_some() {
            return Err(wrong("what --auto-converge is to do is given without it"));
        }
        read.settings.compression = compression(flags, &methods, (cache, zlib, zstd))?;
        Ok(read)
    }
}

fn compression(
    flags: Flags,
    methods: &[&str],
    (cache, zlib, zstd): (Option<u64>, Option<u8>, Option<u8>),
) -> Result<Option<Compression>> {
    let wants = flags.contains(Flags::COMPRESSED) || !methods.is_empty();
    let parallel = flags.contains(Flags::PARALLEL);
    let chosen = match methods {
        [] if !wants => None,
        [] | ["xbzrle"] if !parallel => Some(Compression::Xbzrle(cache)),
        [] | ["zlib"] if parallel => Some(Compression::Zlib(zlib)),
        ["zstd"] if parallel => Some(Compression::Zstd(zstd)),
        ["xbzrle"] => {
            return Err(wrong(
                "xbzrle and parallel connections don't go together: zlib and zstd do",
            ));
        }
        [method] => {
            return Err(wrong(format!("compression by {method} needs --parallel")));
        }
        several => {
            return Err(wrong(format!(
                "memory is compressed in one way, not several: {}",
                several.join(", ")
            )));
        }
    };
    let unused = [
        (
            "xbzrle",
            cache.is_some(),
            matches!(chosen, Some(Compression::Xbzrle(_))),
        ),
        (
            "zlib",
            zlib.is_some(),
            matches!(chosen, Some(Compression::Zlib(_))),
        ),
        (
            "zstd",
            zstd.is_some(),
            matches!(chosen, Some(Compression::Zstd(_))),
        ),
    ];
    match unused.into_iter().find(|(_, given, used)| *given && !used) {
        Some((method, ..)) => Err(wrong(format!(
            "something is said of {method}, which does not compress here"
        ))),
        None => Ok(chosen),
    }
}

/// MiB a second, as clients count; 0: no limit.
pub(super) fn mebibytes(mebibytes: u64) -> Result<u64> {
    // libvirt's own bound, which QEMU's counting needs.
    if mebibytes > i64::MAX as u64 >> 20 {
        let detail = format!(
            "bandwidth must be less than {}",
            (i64::MAX as u64 >> 20) + 1
        );
        return Err(Error::new(Code::Overflow, QEMU, detail));
    }
    Ok(mebibytes << 20)
}

/// For how long a guest may be halted, from milliseconds.
pub(super) fn downtime(millis: u64) -> Result<Duration> {
    // QEMU's own range.
    if !(1..=2_000_000).contains(&millis) {
        return Err(wrong(format!(
            "the longest downtime is from 1 to 2000000 ms, not {millis}"
        )));
    }
    Ok(Duration::from_millis(millis))
}

fn text(param: &TypedParam) -> Result<String> {
    match &param.value {
        TypedValue::Text(text) => Ok(text.clone()),
        _ => Err(wrong(format!("'{}' has to be a text", param.field))),
    }
}

fn number(param: &TypedParam) -> Result<u64> {
    let number = match param.value {
        TypedValue::I32(number) => u64::try_from(number).ok(),
        TypedValue::U32(number) => Some(number.into()),
        TypedValue::I64(number) => u64::try_from(number).ok(),
        TypedValue::U64(number) => Some(number),
        _ => None,
    };
    number.ok_or_else(|| wrong(format!("'{}' has to be a number, from 0 on", param.field)))
}

fn within(param: &TypedParam, least: u8, most: u8) -> Result<u8> {
    let number = number(param)?;
    let fits = u8::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number));
    fits.ok_or_else(|| {
        wrong(format!(
            "'{}' is from {least} to {most}, not {number}",
            param.field
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(field: &str, value: TypedValue) -> TypedParam {
        TypedParam {
            field: field.to_owned(),
            value,
        }
    }

    fn text(field: &str, text: &str) -> TypedParam {
        param(field, TypedValue::Text(text.to_owned()))
    }

    #[test]
    fn what_virsh_says_is_understood() {
        let flags = Flags::LIVE | Flags::PARALLEL | Flags::AUTO_CONVERGE | Flags::COMPRESSED;
        let params = Params::read(
            &[
                text("migrate_uri", "tcp://b"),
                text("destination_name", "other"),
                param("bandwidth", TypedValue::U64(3)),
                param("parallel.connections", TypedValue::I32(4)),
                param("auto_converge.initial", TypedValue::I32(20)),
                text("compression", "zstd"),
                param("compression.zstd.level", TypedValue::I32(3)),
            ],
            flags,
        );
        let params = params.unwrap();
        assert_eq!(params.uri.as_deref(), Some("tcp://b"));
        let expected = MigrationSettings {
            bandwidth: 3 << 20,
            parallel: Some(4),
            auto_converge: Some((Some(20), None)),
            compression: Some(Compression::Zstd(Some(3))),
            ..MigrationSettings::default()
        };
        assert_eq!(params.settings, expected);
        let plain = Params::read(&[], Flags::COMPRESSED).unwrap();
        assert_eq!(plain.settings.compression, Some(Compression::Xbzrle(None)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let (none, parallel) = (Flags::LIVE, Flags::PARALLEL);
        for (params, flags, part) in [
            (vec![text("x", "")], none, "'x' is not carried out"),
            (vec![text("migrate_uri", ""); 2], none, "given twice"),
            (vec![text("bandwidth", "1")], none, "has to be a number"),
            (
                vec![param("bandwidth", TypedValue::U64(u64::MAX))],
                none,
                "less than",
            ),
            (
                vec![param("parallel.connections", TypedValue::I32(2))],
                none,
                "--parallel",
            ),
            (
                vec![param("parallel.connections", TypedValue::I32(0))],
                parallel,
                "1 to 255",
            ),
            (vec![text("compression", "zlib")], none, "needs --parallel"),
            (
                vec![text("compression", "xbzrle")],
                parallel,
                "don't go together",
            ),
            (vec![text("compression", "mt")], none, "'mt' is not known"),
            (
                vec![text("compression", "zlib"), text("compression", "zstd")],
                parallel,
                "one way",
            ),
            (
                vec![param("compression.zlib.level", TypedValue::I32(1))],
                none,
                "said of zlib",
            ),
            (
                vec![param("auto_converge.initial", TypedValue::I32(9))],
                none,
                "--auto-converge",
            ),
        ] {
            let error = Params::read(&params, flags).unwrap_err();
            assert!(error.message().contains(part), "{error}");
        }
        let error = check_flags(Flags::POSTCOPY | Flags::NON_SHARED_INC).unwrap_err();
        assert!(error.message().contains("--copy-storage-inc: "), "{error}");
        assert!(error.message().contains("--postcopy: "), "{error}");
    }
}
