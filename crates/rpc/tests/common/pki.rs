//! A CA of a test's own, and directories with certificates of it.
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::*;

/// A CA.
pub(crate) struct Pki {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    /// Attributes of the subject: C, O or CN.
    pub(crate) subject: &'a [(&'a str, &'a str)],
    /// DNS names and addresses.
    pub(crate) names: &'a [&'a str],
    pub(crate) is_expired: bool,
    pub(crate) serial: u64,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&[("CN", "A CA")]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Pki {
            dir: tempfile::tempdir().unwrap(),
            ca,
        }
    }

    /// A directory with a server's certificate for `localhost` and this host's own addresses.
    pub(crate) fn server(&self) -> PathBuf {
        let names = &["localhost", "127.0.0.1", "::1"];
        self.server_named(names)
    }

    pub(crate) fn server_named(&self, names: &[&str]) -> PathBuf {
        let wanted = Wanted {
            subject: &[("CN", "a server")],
            names,
            ..Wanted::default()
        };
        self.side("server", &format!("server-{}", names.join("-")), &wanted)
    }

    /// A directory with the certificate of a client, as `pkipath` names one.
    pub(crate) fn client(&self, name: &str, wanted: &Wanted<'_>) -> PathBuf {
        self.side("client", name, wanted)
    }

    /// One with the subject `C=GB,O=Example,CN=…`.
    pub(crate) fn client_named(&self, name: &str) -> PathBuf {
        let wanted = Wanted {
            subject: &[("C", "GB"), ("O", "Example"), ("CN", name)],
            ..Wanted::default()
        };
        self.client(name, &wanted)
    }

    /// Puts a list of revoked certificates beside others.
    pub(crate) fn revoke(&self, dir: &Path, serials: &[u64], is_expired: bool) {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(if is_expired { 2021 } else { 4000 }, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: (*serial).into(),
                    revocation_time: date_time_ymd(2020, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.ca).unwrap();
        fs::write(dir.join("cacrl.pem"), list.pem().unwrap()).unwrap();
    }

    fn side(&self, side: &str, name: &str, wanted: &Wanted<'_>) -> PathBuf {
        let names: Vec<String> = wanted.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = subject(wanted.subject);
        // The second is what libvirt's clients want of their own.
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![match side {
            "server" => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        if wanted.serial > 0 {
            params.serial_number = Some(wanted.serial.into());
        }
        if wanted.is_expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cacert.pem"), self.ca.pem()).unwrap();
        fs::write(dir.join(format!("{side}cert.pem")), certificate.pem()).unwrap();
        let path = dir.join(format!("{side}key.pem"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        dir
    }
}

fn subject(attributes: &[(&str, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in attributes {
        let kind = match *kind {
            "C" => DnType::CountryName,
            "O" => DnType::OrganizationName,
            "CN" => DnType::CommonName,
            other => panic!("{other}"),
        };
        name.push(kind, *value);
    }
    name
}
