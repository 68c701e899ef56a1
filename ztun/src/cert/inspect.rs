//! Certificates as an operator looks at them: what each says, which root proves it, and if none, why.

use std::{fmt::Write as _, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    Error, RootCertStore,
    client::danger::ServerCertVerifier as _,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::ClientCertVerifier as _,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{ExtendedKeyUsage, GeneralName},
    prelude::FromDer as _,
};

use super::{
    CertificateStatus, PeerError, WorkloadCertificate,
    clock::unix_time,
    tls,
    verifier::{ClientIdentityVerifier, ServerIdentityVerifier},
    x509,
};
use crate::mesh::{Identity, TrustDomain};

/// What one certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateFacts {
    pub subject: String,
    pub issuer: String,
    /// Lower-case hexadecimal, without separators.
    pub serial: String,
    /// SHA-256 of the whole certificate, in the same form.
    pub fingerprint: String,
    /// Its subject alternative names.
    pub names: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    pub is_ca: bool,
    /// What it may be used for, by its two extensions about that.
    pub usages: Vec<String>,
}

/// One identity of the node with all that is public of its certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDetails {
    #[serde(flatten)]
    pub status: CertificateStatus,
    /// As the CA answered: leaf, intermediates, roots.
    pub chain: Vec<CertificateFacts>,
    /// The root of this node's trust that proves it.
    pub verified_by: Option<CertificateFacts>,
    /// Why no root does, if there is a certificate.
    pub refused: Option<String>,
    pub chain_pem: Option<String>,
}

/// What this node would say of a peer that shows a chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    pub chain: Vec<CertificateFacts>,
    pub identity: Option<Identity>,
    pub as_client: Verdict,
    pub as_server: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "verdict")]
pub enum Verdict {
    Accepted { root: Box<CertificateFacts> },
    Refused { why: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// The roots that this node trusts, and whose identities they may prove.
#[derive(Debug)]
pub struct TrustedRoots {
    roots: Vec<CertificateDer<'static>>,
    domains: Arc<[TrustDomain]>,
}

impl Judgement {
    /// Of the chain that a peer would show: the leaf, then intermediates in any order.
    pub fn of(
        chain: &[CertificateDer<'static>],
        trusted: &TrustedRoots,
        now: OffsetDateTime,
    ) -> Result<Self, PeerError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(PeerError::NoCertificate);
        };
        let verdict = |role| match trusted.root_of(leaf, intermediates, role, now) {
            Ok(root) => CertificateFacts::of(&root).map(|root| Verdict::Accepted {
                root: Box::new(root),
            }),
            Err(error) => Ok(Verdict::Refused {
                why: tls::describe(&error),
            }),
        };
        Ok(Self {
            chain: facts_of(chain)?,
            identity: x509::identity(leaf).ok(),
            as_client: verdict(Role::Client)?,
            as_server: verdict(Role::Server)?,
        })
    }

    /// In both roles, as every certificate of the mesh must be.
    pub fn is_accepted(&self) -> bool {
        [&self.as_client, &self.as_server]
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Accepted { .. }))
    }
}

impl CertificateDetails {
    pub fn of(
        status: CertificateStatus,
        certificate: Option<&WorkloadCertificate>,
        trusted: &TrustedRoots,
        now: OffsetDateTime,
    ) -> Self {
        let Some(certificate) = certificate else {
            return Self {
                status,
                chain: Vec::new(),
                verified_by: None,
                refused: None,
                chain_pem: None,
            };
        };
        let chain = x509::certificates_of(&certificate.chain_pem).unwrap_or_default();
        let judged = Judgement::of(&chain, trusted, now);
        let (verified_by, refused) = match judged.as_ref().map(|judged| &judged.as_server) {
            Ok(Verdict::Accepted { root }) => (Some((**root).clone()), None),
            Ok(Verdict::Refused { why }) => (None, Some(why.clone())),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            status,
            chain: judged.map(|judged| judged.chain).unwrap_or_default(),
            verified_by,
            refused,
            chain_pem: Some(certificate.chain_pem.clone()),
        }
    }
}

impl TrustedRoots {
    /// Those that the CA sent along with `certificates`.
    pub fn of<'a>(
        certificates: impl IntoIterator<Item = &'a WorkloadCertificate>,
        domains: Arc<[TrustDomain]>,
    ) -> Self {
        let mut roots = Vec::new();
        for certificate in certificates {
            let chain = x509::certificates_of(&certificate.chain_pem).unwrap_or_default();
            for certificate in chain {
                let is_root = CertificateFacts::of(&certificate)
                    .is_ok_and(|facts| facts.is_ca && facts.issuer == facts.subject);
                if is_root && !roots.contains(&certificate) {
                    roots.push(certificate);
                }
            }
        }
        Self { roots, domains }
    }

    fn root_of(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: OffsetDateTime,
    ) -> Result<CertificateDer<'static>, Error> {
        let now = unix_time(now);
        // All together first: the error then is of the chain, not of one root that has nothing to do with it.
        self.verify(&self.roots, leaf, intermediates, role, now)?;
        let proves = |root: &&CertificateDer<'static>| {
            let alone = std::slice::from_ref(*root);
            self.verify(alone, leaf, intermediates, role, now).is_ok()
        };
        self.roots
            .iter()
            .find(proves)
            .cloned()
            .ok_or(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify(
        &self,
        roots: &[CertificateDer<'static>],
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let store = Arc::new(store);
        match role {
            Role::Client => ClientIdentityVerifier::new(store, Arc::clone(&self.domains))
                .map_err(|error| Error::General(error.to_string()))?
                .verify_client_cert(leaf, intermediates, now)
                .map(drop),
            Role::Server => {
                let identity = x509::identity(leaf)?;
                // Names are ignored by the verifier; the trait wants one.
                let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
                ServerIdentityVerifier::new(store, [identity].into())
                    .verify_server_cert(leaf, intermediates, &name, &[], now)
                    .map(drop)
            }
        }
    }
}

impl CertificateFacts {
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let malformed = |error: &dyn std::fmt::Display| PeerError::Malformed(error.to_string());
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| malformed(&error))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| malformed(&error))?;
        let names = names.map_or(&[][..], |names| &names.value.general_names[..]);
        Ok(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            serial: format!("{:x}", parsed.serial),
            fingerprint: hexadecimal(digest(&SHA256, certificate).as_ref()),
            names: names.iter().map(name).collect(),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            is_ca: parsed.is_ca(),
            usages: usages(&parsed).map_err(|error| malformed(&error))?,
        })
    }
}

fn facts_of(chain: &[CertificateDer<'_>]) -> Result<Vec<CertificateFacts>, PeerError> {
    chain.iter().map(CertificateFacts::of).collect()
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) => (*text).to_owned(),
        other => other.to_string(),
    }
}

fn usages(certificate: &X509Certificate<'_>) -> Result<Vec<String>, x509_parser::error::X509Error> {
    let mut usages = Vec::new();
    if let Some(usage) = certificate.key_usage()? {
        let bits = usage.value.to_string();
        usages.extend(bits.split(", ").map(str::to_lowercase));
    }
    if let Some(usage) = certificate.extended_key_usage()? {
        let ExtendedKeyUsage {
            any,
            server_auth,
            client_auth,
            ..
        } = *usage.value;
        let known = [
            (any, "any TLS role"),
            (server_auth, "TLS server"),
            (client_auth, "TLS client"),
        ];
        let set = known.iter().filter(|(set, _)| *set);
        usages.extend(set.map(|(_, name)| (*name).to_owned()));
    }
    Ok(usages)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
