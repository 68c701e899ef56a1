//! A signing request, read for what may be signed of it: its key, and the names in it.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateSigningRequestDer;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

#[derive(Debug)]
pub(super) struct SigningRequest {
    /// Every subject alternative name; a URI as it is, others with their kind.
    pub names: Vec<String>,
    pub key: SubjectPublicKeyInfo,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the signing request is invalid: {0}")]
    Malformed(String),
    #[error("the signing request's signature is not by its own key")]
    Signature,
    #[error("the signing request's key is not ECDSA on P-256 or P-384")]
    Key,
}

impl SigningRequest {
    /// Also proves that whoever made the request has the private key.
    pub(super) fn read(der: &CertificateSigningRequestDer<'_>) -> Result<Self, CsrError> {
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| CsrError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed("something follows it".into()));
        }
        let info = &request.certification_request_info;
        let key =
            SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Key)?;
        if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384].contains(&key.algorithm()) {
            return Err(CsrError::Key);
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        // Of all attributes: a parser that stops at the first one would not see what others would.
        let extensions = info
            .iter_attributes()
            .filter_map(|attribute| match attribute.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
                _ => None,
            })
            .flatten();
        let mut names = Vec::new();
        for extension in extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    names.extend(san.general_names.iter().map(name));
                }
                ParsedExtension::ParseError { error } => {
                    return Err(CsrError::Malformed(error.to_string()));
                }
                // Nothing but the names and the key is looked at, and only the key is taken over.
                _ => {}
            }
        }
        Ok(Self { names, key })
    }
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => other.to_string(),
    }
}
