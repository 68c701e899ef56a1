//! What the manager asks of a certificate authority, and what it gets back.

use std::{fmt, path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use rcgen::CertificateSigningRequest;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::mesh::Identity;

/// Signs certificates for workload identities. `Display` names it in messages.
pub trait CertificateAuthority: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The caller bounds the time that this takes.
    fn issue<'a>(
        &'a self,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedChain, CaError>>;
}

#[derive(Debug)]
pub struct CertificateRequest {
    pub identity: Identity,
    /// ECDSA P-256 with SHA-256; its only subject alternative name is the identity.
    pub csr: CertificateSigningRequest,
    /// Asked for; the CA may grant less.
    pub lifetime: Duration,
}

/// A CA's answer, split into what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedChain {
    pub leaf: CertificateDer<'static>,
    /// Shown to peers after the leaf.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// What this mesh trusts; at least one.
    pub roots: Vec<CertificateDer<'static>>,
    /// All of it as text, in the CA's order.
    pub pem: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    #[error("the CA refuses to sign for {identity}: {reason}")]
    Refused { identity: Identity, reason: String },
    #[error(
        "{ca} can't be used: {reason}; check that it runs and that this node may ask it for certificates"
    )]
    Unavailable { ca: String, reason: String },
    #[error("{ca} can't be asked: {reason}")]
    NotConfigured { ca: String, reason: String },
    #[error(
        "{ca} is not trusted: {reason}; {} (ca.rootFile) must hold the root of the CA's own certificate, which must be for the name in ca.address",
        root_file.display()
    )]
    Untrusted {
        ca: String,
        root_file: PathBuf,
        reason: String,
    },
    #[error(
        "{ca} does not accept this node's token: {reason}; check that it is of this cluster, for the CA's audience, and not expired"
    )]
    Unauthenticated { ca: String, reason: String },
    #[error(
        "{ca} has not answered within {waited:?}; check that it is reachable and not overloaded"
    )]
    Timeout { ca: String, waited: Duration },
    #[error("the CA's answer for {identity} can't be used: {reason}")]
    Unusable { identity: Identity, reason: String },
    #[error("the CA's answer is not a certificate chain: {0}")]
    Malformed(String),
    #[error("no key pair for {identity}: {reason}")]
    Key { identity: Identity, reason: String },
}

impl CaError {
    /// For metrics and logs; see docs/telemetry.md.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Unavailable { .. } => "unavailable",
            Self::NotConfigured { .. } => "not-configured",
            Self::Untrusted { .. } => "untrusted",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Timeout { .. } => "timeout",
            Self::Unusable { .. } => "unusable",
            Self::Malformed(_) => "malformed",
            Self::Key { .. } => "key",
        }
    }

    /// Whether any other identity's request would have failed as well.
    pub(super) fn is_of_every_identity(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::NotConfigured { .. }
            | Self::Untrusted { .. }
            | Self::Unauthenticated { .. }
            | Self::Timeout { .. } => true,
            Self::Refused { .. }
            | Self::Unusable { .. }
            | Self::Malformed(_)
            | Self::Key { .. } => false,
        }
    }
}

impl IssuedChain {
    /// Reads the peer's format (`IstioCertificateResponse.cert_chain`): PEM elements, the leaf
    /// first, the last element holding the root or several roots.
    pub fn from_pem<S: AsRef<str>>(elements: &[S]) -> Result<Self, CaError> {
        let Some((roots, chain)) = elements.split_last() else {
            return Err(CaError::Malformed("it is empty".into()));
        };
        let mut certificates = Vec::new();
        for element in chain {
            certificates.append(&mut certificates_of(element.as_ref())?);
        }
        let roots = certificates_of(roots.as_ref())?;
        if certificates.is_empty() || roots.is_empty() {
            return Err(CaError::Malformed(format!(
                "expected a leaf followed by a root, found {} certificates before the last element and {} in it",
                certificates.len(),
                roots.len()
            )));
        }
        let leaf = certificates.remove(0);
        let pem = elements
            .iter()
            .map(|element| element.as_ref().trim_end())
            .flat_map(|element| [element, "\n"])
            .collect();
        Ok(Self {
            leaf,
            intermediates: certificates,
            roots,
            pem,
        })
    }
}

fn certificates_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, CaError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| CaError::Malformed(error.to_string()))
}
