//! Who the peer is: chain to the mesh's roots, purpose, SPIFFE identity. DNS names play no part.

use std::sync::Arc;

use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{KeyExchange, x509};
use crate::mesh::{Identity, TrustDomain, identity::IdentityError};

/// Why a peer is not who it must be. Travels inside [`rustls::Error`]; [`PeerError::of`] finds it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("no certificate was presented")]
    NoCertificate,
    #[error("the certificate presented can't be read: {0}")]
    Malformed(String),
    #[error(
        "the certificate presented has no SPIFFE identity: expected one URI name, found {presented}"
    )]
    NoIdentity { presented: String },
    #[error("the certificate presented has several URI names, expected exactly one: {presented}")]
    SeveralIdentities { presented: String },
    #[error("the certificate presented names no workload: {0}")]
    NotAnIdentity(#[source] IdentityError),
    #[error("the certificate presented is of {presented}, expected {expected}")]
    Unexpected {
        presented: Identity,
        expected: String,
    },
    #[error(
        "the certificate presented is of {presented}, whose trust domain this mesh does not trust (it trusts {trusted})"
    )]
    UntrustedDomain {
        presented: Identity,
        trusted: String,
    },
}

/// For the client side: the server must be one of `expected`.
#[derive(Debug)]
pub struct ServerIdentityVerifier {
    roots: Arc<RootCertStore>,
    expected: Arc<[Identity]>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// For the server side: the client must be of one of the trusted trust domains.
#[derive(Debug)]
pub struct ClientIdentityVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trusted: Arc<[TrustDomain]>,
}

/// The identity of the peer of an established connection.
pub fn peer_identity(connection: &CommonState) -> Result<Identity, PeerError> {
    connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or(PeerError::NoCertificate)
        .and_then(x509::identity)
}

impl PeerError {
    /// The identity check that failed a handshake, if that is what failed it.
    pub fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
                cause.downcast_ref()
            }
            _ => None,
        }
    }
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

impl ServerIdentityVerifier {
    pub fn new(roots: Arc<RootCertStore>, expected: Arc<[Identity]>) -> Self {
        Self {
            roots,
            expected,
            algorithms: KeyExchange::default()
                .provider()
                .signature_verification_algorithms,
        }
    }
}

impl ClientIdentityVerifier {
    pub fn new(
        roots: Arc<RootCertStore>,
        trusted: Arc<[TrustDomain]>,
    ) -> Result<Self, VerifierBuilderError> {
        // Hints name the roots to whoever connects, and our clients ignore them.
        let chain =
            WebPkiClientVerifier::builder_with_provider(roots, KeyExchange::default().provider())
                .clear_root_hint_subjects()
                .build()?;
        Ok(Self { chain, trusted })
    }
}

impl ServerCertVerifier for ServerIdentityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
        .map_err(unknown_issuer)?;
        let presented = x509::identity(end_entity)?;
        if !self.expected.contains(&presented) {
            let expected = joined(&self.expected);
            return Err(PeerError::Unexpected {
                presented,
                expected,
            }
            .into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ClientIdentityVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(unknown_issuer)?;
        let presented = x509::identity(end_entity)?;
        if !self.trusted.contains(presented.trust_domain()) {
            let trusted = joined(&self.trusted);
            return Err(PeerError::UntrustedDomain { presented, trusted }.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The roots of separate meshes mostly have the same name, and then webpki speaks of a bad signature.
fn unknown_issuer(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            CertificateError::UnknownIssuer.into()
        }
        other => other,
    }
}

fn tls12_is_off() -> Error {
    Error::General("TLS 1.2 is not spoken in the mesh".into())
}

fn joined<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(" or ")
}
