//! Certificates and keys, where libvirt has them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Most bytes of one file.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Where one side's certificates and keys are, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The CA, or several, that the other side has to have its certificate from.
    pub ca: PathBuf,
    /// Certificates that count no more; need not be there.
    pub revoked: PathBuf,
    /// Our certificate, and those between it and the CA.
    pub certificate: PathBuf,
    /// Its private key, which others must not be able to read.
    pub key: PathBuf,
}

impl Files {
    /// A server's, where libvirt has them below that root.
    #[must_use]
    pub fn of_server(root: &Path) -> Files {
        Files::below(&root.join("etc/pki"), "server")
    }

    /// A client's, where libvirt has them below that root.
    #[must_use]
    pub fn of_client(root: &Path) -> Files {
        Files::below(&root.join("etc/pki"), "client")
    }

    /// A server's, all in one directory, under libvirt's names: `cacert.pem`, `cacrl.pem`,
    /// `servercert.pem`, `serverkey.pem`.
    #[must_use]
    pub fn of_server_in(dir: &Path) -> Files {
        Files::flat(dir, "server")
    }

    /// A client's, all in one directory, as libvirt's `pkipath` has them: `cacert.pem`, `cacrl.pem`,
    /// `clientcert.pem`, `clientkey.pem`.
    #[must_use]
    pub fn of_client_in(dir: &Path) -> Files {
        Files::flat(dir, "client")
    }

    fn below(pki: &Path, side: &str) -> Files {
        Files {
            ca: pki.join("CA/cacert.pem"),
            revoked: pki.join("CA/cacrl.pem"),
            certificate: pki.join(format!("libvirt/{side}cert.pem")),
            key: pki.join(format!("libvirt/private/{side}key.pem")),
        }
    }

    fn flat(dir: &Path, side: &str) -> Files {
        Files {
            ca: dir.join("cacert.pem"),
            revoked: dir.join("cacrl.pem"),
            certificate: dir.join(format!("{side}cert.pem")),
            key: dir.join(format!("{side}key.pem")),
        }
    }
}

/// Why certificates and keys can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no such file.
    #[error("{} is larger than {LARGEST} bytes, or not a file", .0.display())]
    NoFile(PathBuf),
    /// It holds nothing of that kind.
    #[error("{} holds no {what} as PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong, unless there is simply none.
        source: Option<pem::Error>,
    },
    /// It is of a kind or form that is not used.
    #[error("{} can't be used", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The CA and what it revoked don't fit.
    #[error("{} and {} can't be used together", ca.display(), revoked.display())]
    Verifier {
        /// The CA.
        ca: PathBuf,
        /// What it revoked.
        revoked: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
    /// The key is no secret.
    #[error(
        "the private key {} can be read or changed by others (mode {mode:04o}); its mode should be 0600, \
         or 0640 with a group that may have it",
        path.display()
    )]
    KeyIsOpen {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Of the group only reading, and nothing of others.
const NOT_OF_A_KEY: u32 = 0o037;

/// What one side shows, and by what it knows the other.
struct Loaded {
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Blocks: files are read.
pub(crate) fn server_config(files: &Files) -> Result<ServerConfig, CredentialsError> {
    let loaded = load(files)?;
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(loaded.roots, Arc::clone(&provider))
        .with_crls(loaded.revoked)
        // A CA above or beside the one that has a list need not have one.
        .allow_unknown_revocation_status()
        .enforce_revocation_expiration()
        .build()
        .map_err(|source| verifier_error(files, source))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| unfit(&files.certificate, source))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(loaded.chain, loaded.key)
        .map_err(|source| unfit(&files.certificate, source))?;
    // Who comes back shows the certificate again: it may have been revoked since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Blocks: files are read.
pub(crate) fn client_config(files: &Files) -> Result<ClientConfig, CredentialsError> {
    let loaded = load(files)?;
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(loaded.roots, Arc::clone(&provider))
        .with_crls(loaded.revoked)
        .allow_unknown_revocation_status()
        .enforce_revocation_expiration()
        .build()
        .map_err(|source| verifier_error(files, source))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| unfit(&files.certificate, source))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(loaded.chain, loaded.key)
        .map_err(|source| unfit(&files.certificate, source))?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn unfit(path: &Path, source: rustls::Error) -> CredentialsError {
    CredentialsError::Unfit {
        path: path.to_owned(),
        source,
    }
}

fn verifier_error(files: &Files, source: VerifierBuilderError) -> CredentialsError {
    CredentialsError::Verifier {
        ca: files.ca.clone(),
        revoked: files.revoked.clone(),
        source,
    }
}

fn load(files: &Files) -> Result<Loaded, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for ca in all::<CertificateDer<'_>>(&files.ca, "certificate")? {
        roots.add(ca).map_err(|source| unfit(&files.ca, source))?;
    }
    let revoked = match all(&files.revoked, "certificate revocation list") {
        Err(CredentialsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Vec::new()
        }
        found => found?,
    };
    Ok(Loaded {
        roots: Arc::new(roots),
        revoked,
        chain: all(&files.certificate, "certificate")?,
        key: key(&files.key)?,
    })
}

/// All of a kind that a file holds; at least one.
fn all<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, CredentialsError> {
    let (bytes, _) = read(path)?;
    let no = |source| CredentialsError::Pem {
        path: path.to_owned(),
        what,
        source,
    };
    let found: Vec<T> = T::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| no(Some(source)))?;
    if found.is_empty() {
        return Err(no(None));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let (bytes, mode) = read(path)?;
    if mode & NOT_OF_A_KEY != 0 {
        return Err(CredentialsError::KeyIsOpen {
            path: path.to_owned(),
            mode,
        });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|source| CredentialsError::Pem {
        path: path.to_owned(),
        what: "private key",
        source: match source {
            pem::Error::NoItemsFound => None,
            other => Some(other),
        },
    })
}

/// A file's bytes, and its permissions.
fn read(path: &Path) -> Result<(Vec<u8>, u32), CredentialsError> {
    let failed = |source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    };
    // What is no file is not waited for.
    let mut file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() || found.len() > LARGEST {
        return Err(CredentialsError::NoFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.by_ref()
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok((bytes, found.mode() & 0o7777))
}
