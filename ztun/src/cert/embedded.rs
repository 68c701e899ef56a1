//! The embedded CA: a root in a directory that the nodes of one host share.
//!
//! The directory holds `root-key.pem` (PKCS #8) and `root-cert.pem`. Both are made at the first
//! start, or brought along: any ECDSA P-256 root will do, and further roots in `root-cert.pem`
//! are trusted, too. Both are read again when they have changed, so that a root can be exchanged.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateSigningRequestDer;
use zeroize::Zeroizing;

use super::{
    CaError, CertificateAuthority, CertificateRequest, IssuedChain,
    clock::{Clock, SystemClock},
    private_file::{self, PrivateFileError},
    root::{self, Root},
    signer::Signer,
};
use crate::{
    config::SignerSource,
    mesh::{Identity, TrustDomain},
};

pub const ROOT_KEY: &str = "root-key.pem";
pub const ROOT_CERTIFICATE: &str = "root-cert.pem";

#[derive(Debug)]
pub struct EmbeddedCa {
    directory: PathBuf,
    signer: Signer,
}

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedCaError {
    #[error(
        "can't create {path}: {source}; the embedded CA needs a writable directory with free space"
    )]
    Create { path: PathBuf, source: io::Error },
    #[error("can't read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    #[error(
        "{certificate} has no key beside it: put {ROOT_KEY} back, or remove {certificate} to start a new root"
    )]
    KeyMissing { certificate: PathBuf },
    #[error("{path} is not a private key in PKCS #8 PEM that can sign here: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error("{path} can't be used as the root: {reason}")]
    Certificate { path: PathBuf, reason: String },
}

impl EmbeddedCa {
    /// Reads the root in `directory`, made first if there is none. Any number of processes may do
    /// this at the same time: all get the same root.
    pub fn open(directory: &Path, trust_domain: TrustDomain) -> Result<Self, EmbeddedCaError> {
        let source = SignerSource::Directory {
            ca_directory: directory.to_owned(),
        };
        Ok(Self {
            directory: directory.to_owned(),
            signer: Signer::open(&source, trust_domain)?,
        })
    }

    /// Signs a request that came from elsewhere; whether the caller may have it is the caller's to check.
    pub fn sign(
        &self,
        identity: &Identity,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
    ) -> Result<IssuedChain, CaError> {
        self.signer.refresh();
        let root = self.signer.current();
        root.sign(identity, csr, lifetime, SystemClock.now())
    }
}

impl Root {
    /// As [`EmbeddedCa::open`].
    pub fn of_directory(
        directory: &Path,
        trust_domain: TrustDomain,
    ) -> Result<Self, EmbeddedCaError> {
        ensure_directory(directory)?;
        let certificate = directory.join(ROOT_CERTIFICATE);
        // Asked for before the key, which comes first into being: a certificate that is
        // seen without a key lost it.
        let certificate_exists = certificate.exists();
        let key = match read_key(&directory.join(ROOT_KEY))? {
            Some(key) => key,
            None if certificate_exists => {
                return Err(EmbeddedCaError::KeyMissing { certificate });
            }
            None => create_key(&directory.join(ROOT_KEY))?,
        };
        if !certificate_exists {
            create_certificate(&certificate, &key, &trust_domain)?;
        }
        let bundle = fs::read_to_string(&certificate).map_err(|source| EmbeddedCaError::Read {
            path: certificate.clone(),
            source,
        })?;
        Self::new(key, &bundle, trust_domain).map_err(|error| EmbeddedCaError::Certificate {
            path: certificate,
            reason: error.to_string(),
        })
    }
}

impl CertificateAuthority for EmbeddedCa {
    fn issue<'a>(
        &'a self,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedChain, CaError>> {
        async { self.sign(&request.identity, request.csr.der(), request.lifetime) }.boxed()
    }
}

impl fmt::Display for EmbeddedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the embedded CA in {}", self.directory.display())
    }
}

fn ensure_directory(directory: &Path) -> Result<(), EmbeddedCaError> {
    let result = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    result.map_err(|source| EmbeddedCaError::Create {
        path: directory.to_owned(),
        source,
    })?;
    let metadata = fs::metadata(directory).map_err(|source| EmbeddedCaError::Read {
        path: directory.to_owned(),
        source,
    })?;
    // Others may look into it, but who can write here can put another root in place.
    Ok(private_file::refuse_mode(
        directory, &metadata, 0o022, 0o700,
    )?)
}

fn read_key(path: &Path) -> Result<Option<KeyPair>, EmbeddedCaError> {
    let Some(pem) = private_file::read(path)? else {
        return Ok(None);
    };
    KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ECDSA_P256_SHA256)
        .map(Some)
        .map_err(|error| key_error(path, error))
}

/// Makes a key, unless somebody else has made one meanwhile: then theirs is returned.
fn create_key(path: &Path) -> Result<KeyPair, EmbeddedCaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| key_error(path, e))?;
    let pem = Zeroizing::new(key.serialize_pem());
    publish(path, pem.as_bytes())?;
    read_key(path)?.ok_or_else(|| EmbeddedCaError::Read {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// Whoever finds the key without a certificate makes one, be it another node's or left by a crash.
fn create_certificate(
    path: &Path,
    key: &KeyPair,
    trust_domain: &TrustDomain,
) -> Result<(), EmbeddedCaError> {
    let certificate = root::self_signed(key, trust_domain, SystemClock.now()).map_err(|error| {
        EmbeddedCaError::Certificate {
            path: path.to_owned(),
            reason: error.to_string(),
        }
    })?;
    publish(path, certificate.pem().as_bytes())
}

/// Puts a whole file in place (mode 0600), durably, unless there is one already.
fn publish(path: &Path, content: &[u8]) -> Result<(), EmbeddedCaError> {
    let failed = |source| EmbeddedCaError::Create {
        path: path.to_owned(),
        source,
    };
    let temporary = path.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let linked = write_durably(&temporary, content).and_then(|()| fs::hard_link(&temporary, path));
    // Best effort: it may never have come into being.
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => {
            let directory = path.parent().unwrap_or(Path::new("."));
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(failed)
        }
    }
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

pub(super) fn key_error(path: &Path, error: impl fmt::Display) -> EmbeddedCaError {
    EmbeddedCaError::Key {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
