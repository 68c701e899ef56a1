//! Certificate authorities in the hands of a test: the mesh's own, another mesh's, the next root.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

use crate::rogue::{Claims, Credentials, sign};

pub struct Authority {
    key: KeyPair,
    root: String,
}

impl Authority {
    /// A root of this name, which no mesh knows yet.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut root = CertificateParams::default();
        root.distinguished_name = DistinguishedName::new();
        root.distinguished_name.push(DnType::CommonName, name);
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = root.self_signed(&key)?.pem();
        Ok(Self { key, root })
    }

    /// The one whose files are in `directory`.
    pub fn of(directory: &Path) -> Result<Self> {
        let read = |file: &str| {
            let path = directory.join(file);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Self {
            key: KeyPair::from_pem(&read("root-key.pem")?)?,
            root: read("root-cert.pem")?,
        })
    }

    /// Its root, in PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Its key, in PEM.
    pub fn key(&self) -> String {
        self.key.serialize_pem()
    }

    pub fn issue(&self, claims: &Claims) -> Result<Credentials> {
        sign(&self.issuer()?, claims)
    }

    /// A revocation list, in PEM. Serial numbers are hexadecimal.
    pub fn revoke(&self, serials: &[&str]) -> Result<String> {
        let now = OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&number(serial)?),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: now - Duration::from_mins(1),
            next_update: now + Duration::from_hours(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer()?)?.pem()?)
    }

    fn issuer(&self) -> Result<Issuer<'_, KeyPair>> {
        let key = KeyPair::from_pem(&self.key.serialize_pem())?;
        Ok(Issuer::from_ca_cert_pem(&self.root, key)?)
    }
}

/// Puts a file in place as a whole, readable for its owner alone.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path).with_context(|| format!("replace {}", path.display()))
}

fn number(hexadecimal: &str) -> Result<Vec<u8>> {
    let padded = format!(
        "{}{hexadecimal}",
        if hexadecimal.len().is_multiple_of(2) {
            ""
        } else {
            "0"
        }
    );
    let bytes = (0..padded.len()).step_by(2);
    let bytes = bytes.map(|at| u8::from_str_radix(&padded[at..at + 2], 16));
    bytes
        .collect::<Result<_, _>>()
        .context("a serial number is hexadecimal")
}
