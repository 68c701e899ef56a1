//! A workload's private key: in AWS-LC's memory only, wiped when it goes, never written out in any form.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rcgen::{
    CertificateParams, CertificateSigningRequest, DistinguishedName, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType,
};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    sign::{Signer, SigningKey},
};

use super::CaError;
use crate::mesh::Identity;

/// ECDSA P-256. There is one copy of the key: clones, and the signer of a TLS configuration, share
/// it. AWS-LC wipes memory when it frees it.
#[derive(Clone)]
pub struct WorkloadKey(Arc<EcdsaKeyPair>);

impl WorkloadKey {
    pub fn generate(identity: &Identity) -> Result<Self, CaError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map(|key| Self(Arc::new(key)))
            .map_err(|_| key_error(identity, "AWS-LC generates none"))
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
            .serialize_request(self)
            .map_err(|error| key_error(identity, error))
    }

    /// The uncompressed point, as in a certificate's subject public key.
    pub fn public_key(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    pub(super) fn signer(&self) -> Arc<dyn SigningKey> {
        Arc::new(self.clone())
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature.ok().map(|signature| signature.as_ref().to_vec())
    }
}

/// For TLS.
impl SigningKey for WorkloadKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for WorkloadKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signature(message)
            .ok_or_else(|| rustls::Error::General("AWS-LC does not sign".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// For signing requests.
impl rcgen::SigningKey for WorkloadKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}

impl PublicKeyData for WorkloadKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aws_lc_rs::encoding::{AsBigEndian as _, EcPrivateKeyBin};
    use rustls::sign::CertifiedKey;

    use super::*;

    /// Longer than what the key could have in common with other bytes by chance.
    const WINDOW: usize = 6;

    #[test]
    fn nothing_that_is_printed_has_a_piece_of_the_key() {
        let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let key = WorkloadKey::generate(&identity).unwrap();
        let request = key.request(&identity).unwrap();
        let printed = format!(
            "{key:?} {key:#?} {:?} {:?} {:?} {:?} {:02x?} {}",
            key.signer(),
            key.choose_scheme(&[key.scheme()]),
            CertifiedKey::new(vec![], key.signer()),
            request.der(),
            &request.der()[..],
            request.pem().unwrap(),
        );
        let secret: EcPrivateKeyBin<'_> = key.0.private_key().as_be_bytes().unwrap();
        for piece in secret.as_ref().windows(WINDOW) {
            for spelled in [format!("{piece:?}"), format!("{piece:02x?}")] {
                let listed = spelled.trim_matches(['[', ']']);
                assert!(!printed.contains(listed), "{printed}");
                assert!(!printed.contains(&listed.replace(", ", "")), "{printed}");
            }
        }
    }
}
