//! Who the peer is: chain to a root of its trust domain, purpose, SPIFFE identity. DNS names play no part.

use std::sync::Arc;

use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use time::OffsetDateTime;

use super::{KeyExchange, Trust, clock::rfc3339, trust::Purpose, x509};
use crate::mesh::{Identity, identity::IdentityError};

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
    #[error(
        "the root `{root}` that signed the certificate presented is valid from {} to {} only; replace it, or check this node's clock",
        rfc3339(*not_before),
        rfc3339(*not_after)
    )]
    RootNotValid {
        root: String,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    },
}

/// For the client side: the server must be one of `expected`.
#[derive(Debug)]
pub struct ServerIdentityVerifier {
    trust: Arc<Trust>,
    expected: Arc<[Identity]>,
}

/// For the server side: the client must be of a trust domain that has roots here.
#[derive(Debug)]
pub struct ClientIdentityVerifier {
    trust: Arc<Trust>,
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
    pub fn new(trust: Arc<Trust>, expected: Arc<[Identity]>) -> Self {
        Self { trust, expected }
    }
}

impl ClientIdentityVerifier {
    pub fn new(trust: Arc<Trust>) -> Self {
        Self { trust }
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
        let bundle = self.trust.bundle();
        let verified = bundle.verify(end_entity, intermediates, Purpose::Server, now)?;
        let presented = &verified.identity;
        let domains = self.trust.domains();
        if !self
            .expected
            .iter()
            .any(|expected| domains.same(expected, presented))
        {
            return Err(PeerError::Unexpected {
                presented: presented.clone(),
                expected: joined(&self.expected),
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
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for ClientIdentityVerifier {
    /// None: they would name the roots to whoever connects, and our clients ignore them.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bundle = self.trust.bundle();
        bundle.verify(end_entity, intermediates, Purpose::Client, now)?;
        Ok(ClientCertVerified::assertion())
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
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    KeyExchange::default()
        .provider()
        .signature_verification_algorithms
}

fn tls12_is_off() -> Error {
    Error::General("TLS 1.2 is not spoken in the mesh".into())
}

fn joined<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(" or ")
}
