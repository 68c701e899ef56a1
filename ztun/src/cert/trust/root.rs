//! A root certificate.

use std::{fmt, path::PathBuf, sync::Arc};

use rustls::pki_types::{CertificateDer, TrustAnchor};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::cert::{PeerError, x509};

/// SHA-256 of a certificate, written as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// What one file or answer holds.
pub(super) type RootSet = Arc<[Arc<Root>]>;

/// Where a root comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// The CA's answers.
    Ca,
    File(PathBuf),
}

#[derive(Debug)]
pub(in crate::cert) struct Root {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) fingerprint: Fingerprint,
    pub(super) subject: String,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    #[error("a root can't be read: {0}")]
    Unreadable(#[from] PeerError),
    #[error("a root can't be used: {0}")]
    Unusable(String),
    #[error("`{subject}` is not a CA's certificate (basic constraints), so it can't be a root")]
    NotACa { subject: String },
}

impl Root {
    /// A certificate that may sign others. Whoever has the key of a leaf must not become a CA by it.
    pub(in crate::cert) fn read(certificate: &CertificateDer<'_>) -> Result<Self, RootError> {
        let facts = x509::Facts::of(certificate)?;
        if !facts.is_ca {
            let subject = facts.subject;
            return Err(RootError::NotACa { subject });
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate)
            .map_err(|error| RootError::Unusable(error.to_string()))?
            .to_owned();
        Ok(Self {
            anchor,
            fingerprint: Fingerprint::of(certificate),
            subject: facts.subject,
            not_before: facts.not_before,
            not_after: facts.not_after,
            certificate: certificate.clone().into_owned(),
        })
    }
}

impl Fingerprint {
    pub fn of(der: &[u8]) -> Self {
        Self(x509::sha256([der]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca => f.write_str("the CA's answers"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
