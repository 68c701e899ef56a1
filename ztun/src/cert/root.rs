//! A signing key at work: what it signs, and what it refuses to.

use std::time::Duration;

use pem::Pem;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use time::OffsetDateTime;

use super::{
    CaError, IssuedChain, PeerError,
    clock::rfc3339,
    csr::{CsrError, SigningRequest},
    x509::Facts,
};
use crate::mesh::{Identity, TrustDomain};

/// How far `notBefore` lies in the past, for nodes whose clocks are behind (the peer's value).
const BACKDATED: Duration = Duration::from_mins(2);
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// Signs with a root's key, or with that of an intermediate below it.
#[derive(Debug)]
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
    trust_domain: TrustDomain,
    /// PEM: from the signing certificate up to below the root; empty if a root signs.
    chain: Vec<String>,
    /// PEM: all that this mesh trusts, in one.
    bundle: String,
}

/// A certificate, and what goes with it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PEM, in the peer's order: the leaf, intermediates, and last all roots in one.
    pub elements: Vec<String>,
    /// Lower-case hexadecimal, without separators.
    pub serial: String,
    pub not_after: OffsetDateTime,
}

#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("it is not a certificate that can sign: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("it is not PEM: {0}")]
    Pem(String),
    #[error("there is no certificate in it")]
    Empty,
    #[error("{0}")]
    Facts(#[from] PeerError),
    #[error("it is not a CA's certificate (basic constraints)")]
    NotACa,
    #[error("its public key is not that of the private key")]
    OtherKey,
}

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningRefusal {
    #[error("it signs for trust domain {own} only")]
    TrustDomain { own: TrustDomain },
    #[error("its root expired at {}; replace it", rfc3339(*.at))]
    Expired { at: OffsetDateTime },
    #[error("{0}")]
    Request(#[from] CsrError),
    #[error("the signing request must name exactly that identity, it names {names:?}")]
    Names { names: Vec<String> },
    #[error("it can't sign: {0}")]
    Failed(String),
}

impl Root {
    /// Of a key and the PEM file of its certificate, which may hold further roots to trust.
    pub fn new(key: KeyPair, bundle: &str, trust_domain: TrustDomain) -> Result<Self, RootError> {
        let roots = certificates(bundle)?;
        let mut own = None;
        for root in &roots {
            let facts = Facts::of(root)?;
            if facts.public_key == key.public_key_raw() {
                own = Some((root, facts));
                break;
            }
        }
        let (certificate, facts) = own.ok_or(RootError::OtherKey)?;
        if !facts.is_ca {
            return Err(RootError::NotACa);
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(certificate, key)?,
            not_after: facts.not_after,
            trust_domain,
            chain: Vec::new(),
            bundle: roots.iter().map(encoded).collect(),
        })
    }

    /// Of an intermediate's key. `chain` is PEM: the key's own certificate, then those between it and
    /// a root of `bundle`; roots at its end are left out, as peers have them.
    pub fn intermediate(
        key: KeyPair,
        chain: &str,
        bundle: &str,
        trust_domain: TrustDomain,
    ) -> Result<Self, RootError> {
        let (mut chain, roots) = (certificates(chain)?, certificates(bundle)?);
        chain.retain(|certificate| !roots.contains(certificate));
        let certificate = chain.first().ok_or(RootError::Empty)?;
        let facts: Vec<Facts> = chain.iter().map(Facts::of).collect::<Result<_, _>>()?;
        if !facts.iter().all(|facts| facts.is_ca) {
            return Err(RootError::NotACa);
        }
        if facts[0].public_key != key.public_key_raw() {
            return Err(RootError::OtherKey);
        }
        let roots_facts: Vec<Facts> = roots.iter().map(Facts::of).collect::<Result<_, _>>()?;
        let top = facts.last().map(|facts| facts.issuer.as_str());
        let root_ends = roots_facts
            .iter()
            .filter(|root| Some(root.subject.as_str()) == top)
            .map(|root| root.not_after)
            .max();
        let ends = facts.iter().map(|facts| facts.not_after).chain(root_ends);
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(certificate, key)?,
            not_after: ends.min().ok_or(RootError::Empty)?,
            trust_domain,
            chain: chain.iter().map(encoded).collect(),
            bundle: roots.iter().map(encoded).collect(),
        })
    }

    /// When the first certificate of the chain that signs expires, and with it what is signed.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// PEM: all that this mesh trusts.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Signs for `identity` if the request is its own: proof of the key, and no other name in it.
    /// Nothing but the public key is taken over from the request.
    pub fn issue(
        &self,
        identity: &Identity,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, SigningRefusal> {
        if *identity.trust_domain() != self.trust_domain {
            return Err(SigningRefusal::TrustDomain {
                own: self.trust_domain.clone(),
            });
        }
        let request = SigningRequest::read(csr)?;
        let identity = identity.to_string();
        if request.names != [identity.as_str()] {
            let names = request.names;
            return Err(SigningRefusal::Names { names });
        }
        let params = uri(identity)
            .map(|uri| leaf_params(vec![SanType::URI(uri)], ROLES_OF_A_PEER.to_vec()))
            .map_err(|error| SigningRefusal::Failed(error.to_string()))?;
        self.certify(params, &request.key, lifetime, now)
    }

    /// Signs a certificate by which a server proves its DNS names.
    pub fn issue_server(
        &self,
        names: Vec<SanType>,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, SigningRefusal> {
        let params = leaf_params(names, vec![ExtendedKeyUsagePurpose::ServerAuth]);
        self.certify(params, key, lifetime, now)
    }

    /// As [`Self::issue`], read as a CA's answer.
    pub(super) fn sign(
        &self,
        identity: &Identity,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<IssuedChain, CaError> {
        let issued = self
            .issue(identity, csr, lifetime, now)
            .map_err(|refusal| CaError::Refused {
                identity: identity.clone(),
                reason: refusal.to_string(),
            })?;
        IssuedChain::from_pem(&issued.elements)
    }

    fn certify(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, SigningRefusal> {
        if self.not_after <= now {
            let at = self.not_after;
            return Err(SigningRefusal::Expired { at });
        }
        params.not_before = now - BACKDATED;
        params.not_after = (now + lifetime).min(self.not_after);
        let failed = |error: &dyn std::fmt::Display| SigningRefusal::Failed(error.to_string());
        let leaf = params
            .signed_by(key, &self.issuer)
            .map_err(|error| failed(&error))?;
        // What was written, not what was asked for.
        let facts = Facts::of(leaf.der()).map_err(|error| failed(&error))?;
        let mut elements = vec![leaf.pem()];
        elements.extend(self.chain.iter().cloned());
        elements.push(self.bundle.clone());
        Ok(Issued {
            elements,
            serial: facts.serial,
            not_after: facts.not_after,
        })
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

const ROLES_OF_A_PEER: [ExtendedKeyUsagePurpose; 2] = [
    ExtendedKeyUsagePurpose::ServerAuth,
    ExtendedKeyUsagePurpose::ClientAuth,
];

/// As istiod's: no subject, nothing but the names.
fn leaf_params(names: Vec<SanType>, roles: Vec<ExtendedKeyUsagePurpose>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.serial_number = Some(random_serial());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = roles;
    params.use_authority_key_identifier_extension = true;
    params
}

fn uri(identity: String) -> Result<Ia5String, rcgen::Error> {
    identity.try_into()
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, RootError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| RootError::Pem(error.to_string()))?;
    if certificates.is_empty() {
        return Err(RootError::Empty);
    }
    Ok(certificates)
}

fn encoded(certificate: &CertificateDer<'_>) -> String {
    pem::encode(&Pem::new("CERTIFICATE", certificate.to_vec())).replace("\r\n", "\n")
}

fn random_serial() -> SerialNumber {
    SerialNumber::from_slice(&rand::random::<[u8; 16]>())
}
