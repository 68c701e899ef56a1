//! What a certificate says, read with a parser of its own (webpki knows no URI names).

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, pem, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::PeerError;
use crate::mesh::Identity;

#[derive(Debug)]
pub(super) struct Facts {
    /// Lower-case hexadecimal, without separators.
    pub serial: String,
    pub issuer: String,
    pub subject: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// The bits of the subject public key.
    pub public_key: Vec<u8>,
    pub is_ca: bool,
}

impl Facts {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let parsed = parse(certificate)?;
        Ok(Self {
            serial: format!("{:x}", parsed.serial),
            issuer: parsed.issuer().to_string(),
            subject: parsed.subject().to_string(),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            is_ca: parsed.is_ca(),
        })
    }
}

/// The identity that a certificate names: exactly one URI name (X.509-SVID, section 2), in the
/// mesh's format. Names of other kinds are ignored.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, PeerError> {
    let parsed = parse(certificate)?;
    let extension = parsed
        .subject_alternative_name()
        .map_err(|error| PeerError::Malformed(error.to_string()))?;
    let names = extension.map_or(&[][..], |extension| &extension.value.general_names[..]);
    let uris: Vec<&str> = names.iter().filter_map(uri).collect();
    match uris[..] {
        [uri] => uri.parse().map_err(PeerError::NotAnIdentity),
        [] => Err(PeerError::NoIdentity {
            presented: listed(names.iter().map(ToString::to_string)),
        }),
        _ => Err(PeerError::SeveralIdentities {
            presented: listed(uris.iter().map(ToString::to_string)),
        }),
    }
}

/// The certificates of a PEM text, in its order. What else is in it is passed over.
pub(super) fn certificates_of(text: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect()
}

/// Of the parts joined together.
pub(super) fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|error| PeerError::Malformed(error.to_string()))
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return "nothing".into();
    }
    names.join(", ")
}
