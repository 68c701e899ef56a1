//! Certificates as an operator looks at them: what each says, which root proves it, and if none, why.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
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
    trust::{Purpose, TrustBundle},
    x509,
};
use crate::mesh::Identity;

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

impl Judgement {
    /// Of the chain that a peer would show: the leaf, then intermediates in any order.
    pub fn of(
        chain: &[CertificateDer<'static>],
        trusted: &TrustBundle,
        now: OffsetDateTime,
    ) -> Result<Self, PeerError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(PeerError::NoCertificate);
        };
        let verdict = |purpose| {
            let verified = trusted.verify_anew(leaf, intermediates, purpose, unix_time(now));
            let root = verified.and_then(|verified| {
                let root = trusted.root(&verified);
                root.ok_or(rustls::CertificateError::UnknownIssuer.into())
            });
            match root {
                Ok(root) => CertificateFacts::of(root).map(|root| Verdict::Accepted {
                    root: Box::new(root),
                }),
                Err(error) => Ok(Verdict::Refused {
                    why: tls::describe(&error),
                }),
            }
        };
        Ok(Self {
            chain: facts_of(chain)?,
            identity: x509::identity(leaf).ok(),
            as_client: verdict(Purpose::Client)?,
            as_server: verdict(Purpose::Server)?,
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
        trusted: &TrustBundle,
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
