//! A signing key that was brought along: PEM files, as a mounted secret has them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rcgen::KeyPair;

use super::{
    EmbeddedCaError, IssuedChain, KeyExchange, Trust, WorkloadCertificate,
    clock::{Clock, SystemClock},
    embedded::key_error,
    key::WorkloadKey,
    private_file,
    root::Root,
    trust::OwnDomains,
};
use crate::mesh::{Identity, TrustDomain};

/// The names are those of Istio's secret `cacerts`: `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerFiles {
    /// PKCS #8: ECDSA on P-256 or P-384, or RSA.
    pub key: PathBuf,
    /// The key's certificate and what lies between it and the root; `None` if a root signs.
    pub chain: Option<PathBuf>,
    /// All roots to trust, the signing one or that of the chain among them.
    pub roots: PathBuf,
}

impl Root {
    /// Reads the files, and tries whether peers would accept what is signed with them.
    pub fn of_files(
        files: &SignerFiles,
        trust_domain: &TrustDomain,
    ) -> Result<Self, EmbeddedCaError> {
        let key = read_key(&files.key)?;
        let bundle = read(&files.roots)?;
        let (path, root) = match &files.chain {
            Some(path) => {
                let chain = read(path)?;
                let root = Self::intermediate(key, &chain, &bundle, trust_domain.clone());
                (path, root)
            }
            None => (&files.roots, Self::new(key, &bundle, trust_domain.clone())),
        };
        let unusable = |reason: String| EmbeddedCaError::Certificate {
            path: path.clone(),
            reason,
        };
        let root = root.map_err(|error| unusable(error.to_string()))?;
        root.try_out(trust_domain).map_err(unusable)?;
        Ok(root)
    }

    /// Signs for nobody, and verifies that as a peer would: from the leaf to the roots, in both roles.
    fn try_out(&self, trust_domain: &TrustDomain) -> Result<(), String> {
        let now = SystemClock.now();
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let nobody = Identity::new(trust_domain.clone(), "ztun", "nobody").map_err(|e| text(&e))?;
        let key = WorkloadKey::generate(&nobody).map_err(|e| text(&e))?;
        let csr = key.request(&nobody).map_err(|e| text(&e))?;
        let lifetime = std::time::Duration::from_mins(1);
        let issued = self.issue(&nobody, csr.der(), lifetime, now);
        let issued = issued.map_err(|e| text(&e))?;
        let chain = IssuedChain::from_pem(&issued.elements).map_err(|e| text(&e))?;
        let trust = Trust::new(OwnDomains::new(trust_domain.clone(), &[]));
        WorkloadCertificate::new(nobody, &key, chain, trust, KeyExchange::default(), now)
            .map(drop)
            .map_err(|e| text(&e))
    }
}

fn read_key(path: &Path) -> Result<KeyPair, EmbeddedCaError> {
    let pem = private_file::read(path)?.ok_or_else(|| EmbeddedCaError::Read {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    KeyPair::from_pem(&pem).map_err(|error| key_error(path, error))
}

fn read(path: &Path) -> Result<String, EmbeddedCaError> {
    fs::read_to_string(path).map_err(|source| EmbeddedCaError::Read {
        path: path.to_owned(),
        source,
    })
}
