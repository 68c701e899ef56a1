//! A workload's private key: in memory only, wiped when it goes, never printed.

use std::{fmt, sync::Arc};

use rcgen::{
    CertificateParams, CertificateSigningRequest, DistinguishedName, KeyPair,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::SigningKey,
};
use zeroize::Zeroize;

use super::CaError;
use crate::mesh::Identity;

/// ECDSA P-256. `KeyPair` keeps an encoded copy of the key, which is wiped on drop;
/// AWS-LC wipes its own when it frees it.
pub struct WorkloadKey(KeyPair);

impl WorkloadKey {
    pub fn generate(identity: &Identity) -> Result<Self, CaError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|error| key_error(identity, error))
    }

    /// A signing request whose only name is the identity's URI, as the peer's CA expects.
    pub fn request(&self, identity: &Identity) -> Result<CertificateSigningRequest, CaError> {
        let uri = identity
            .to_string()
            .try_into()
            .map_err(|error| key_error(identity, error))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params
            .serialize_request(&self.0)
            .map_err(|error| key_error(identity, error))
    }

    /// The uncompressed point, as in a certificate's subject public key.
    pub fn public_key(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    pub(super) fn signer(&self) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let der = PrivatePkcs8KeyDer::from(self.0.serialized_der());
        any_ecdsa_type(&PrivateKeyDer::Pkcs8(der))
    }
}

impl Drop for WorkloadKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadKey(elided)")
    }
}

fn key_error(identity: &Identity, error: impl fmt::Display) -> CaError {
    CaError::Key {
        identity: identity.clone(),
        reason: error.to_string(),
    }
}
