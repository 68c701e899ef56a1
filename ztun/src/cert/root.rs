//! A root key at work: what it signs, and what it refuses to.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateSigningRequestDer;
use time::OffsetDateTime;

use super::{CaError, IssuedChain, PeerError, clock::rfc3339, x509::Facts};
use crate::mesh::{Identity, TrustDomain};

/// How far `notBefore` lies in the past, for nodes whose clocks are behind (the peer's value).
const BACKDATED: Duration = Duration::from_mins(2);
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

#[derive(Debug)]
pub(super) struct Root {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
    trust_domain: TrustDomain,
    /// The signing root first, then further roots that this mesh trusts.
    bundle: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    #[error("it is not a certificate that can sign: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("{0}")]
    Unreadable(#[from] CaError),
    #[error("{0}")]
    Facts(#[from] PeerError),
    #[error("it is not a CA's certificate (basic constraints)")]
    NotACa,
    #[error("its public key is not that of the private key")]
    OtherKey,
}

impl Root {
    /// Of a key and the PEM file of its certificate, which may hold further roots to trust.
    pub(super) fn new(
        key: KeyPair,
        bundle: String,
        trust_domain: TrustDomain,
    ) -> Result<Self, RootError> {
        // Read as an answer whose leaf does not matter: the same parser as for a remote CA's roots.
        let roots = IssuedChain::from_pem(&[&bundle, &bundle])?.roots;
        for root in &roots {
            let facts = Facts::of(root)?;
            if facts.public_key == key.public_key_raw() {
                if !facts.is_ca {
                    return Err(RootError::NotACa);
                }
                return Ok(Self {
                    issuer: Issuer::from_ca_cert_der(root, key)?,
                    not_after: facts.not_after,
                    trust_domain,
                    bundle,
                });
            }
        }
        Err(RootError::OtherKey)
    }

    /// Signs for `identity` if the request is its own: proof of the key, and no other name in it.
    /// Nothing but the public key is taken over from the request.
    pub(super) fn sign(
        &self,
        identity: &Identity,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<IssuedChain, CaError> {
        let refused = |reason: String| CaError::Refused {
            identity: identity.clone(),
            reason,
        };
        if *identity.trust_domain() != self.trust_domain {
            let own = &self.trust_domain;
            return Err(refused(format!("it signs for trust domain {own} only")));
        }
        if self.not_after <= now {
            let at = rfc3339(self.not_after);
            return Err(refused(format!("its root expired at {at}; replace it")));
        }
        let request = CertificateSigningRequestParams::from_der(csr)
            .map_err(|error| refused(format!("the signing request is invalid: {error}")))?;
        match &request.params.subject_alt_names[..] {
            [SanType::URI(uri)] if uri.as_str() == identity.to_string() => {}
            names => {
                return Err(refused(format!(
                    "the signing request must name exactly that identity, it names {names:?}"
                )));
            }
        }
        let leaf = leaf_params(identity, (now + lifetime).min(self.not_after), now)
            .and_then(|params| params.signed_by(&request.public_key, &self.issuer))
            .map_err(|error| refused(error.to_string()))?;
        IssuedChain::from_pem(&[&leaf.pem(), &self.bundle])
    }
}

/// A new root certificate for `key`, named like istiod's.
pub(super) fn self_signed(
    key: &KeyPair,
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<Certificate, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain.as_str());
    params
        .distinguished_name
        .push(DnType::CommonName, "Root CA");
    params.serial_number = Some(random_serial());
    params.not_before = now - BACKDATED;
    params.not_after = now + ROOT_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.self_signed(key)
}

/// As istiod's: no subject, the URI as the only name, both roles.
fn leaf_params(
    identity: &Identity,
    not_after: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.serial_number = Some(random_serial());
    params.not_before = now - BACKDATED;
    params.not_after = not_after;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn random_serial() -> SerialNumber {
    SerialNumber::from_slice(&rand::random::<[u8; 16]>())
}
