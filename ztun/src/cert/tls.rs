//! TLS as the mesh speaks it: 1.3 only, hybrid key exchange first, both sides present a certificate.

use std::{fmt, io, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, CipherSuite, ClientConfig, CommonState, Error, NamedGroup,
    PeerIncompatible, ServerConfig,
    client::Resumption,
    crypto::SupportedKxGroup,
    pki_types::UnixTime,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use time::OffsetDateTime;

use super::{
    KeyExchange, Trust,
    clock::rfc3339,
    verifier::{ClientIdentityVerifier, PeerError, ServerIdentityVerifier},
};
use crate::mesh::Identity;

/// The only protocol spoken over the mesh's TLS.
pub const ALPN: &[u8] = b"h2";

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub key_exchange: Option<NamedGroup>,
    pub cipher_suite: Option<CipherSuite>,
}

impl Negotiated {
    pub fn of(connection: &CommonState) -> Self {
        Self {
            key_exchange: connection
                .negotiated_key_exchange_group()
                .map(SupportedKxGroup::name),
            cipher_suite: connection
                .negotiated_cipher_suite()
                .map(|suite| suite.suite()),
        }
    }
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, suite) = (
            self.key_exchange.and_then(|group| group.as_str()),
            self.cipher_suite.and_then(|suite| suite.as_str()),
        );
        write!(
            f,
            "{} {}",
            group.unwrap_or("unknown"),
            suite.unwrap_or("unknown")
        )
    }
}

/// Refuses a connection whose handshake chose no ALPN protocol: rustls refuses a wrong offer by
/// itself, but lets a peer through that offers none. Call it after each handshake, on both sides.
pub fn require_h2(connection: &CommonState) -> io::Result<()> {
    match connection.alpn_protocol() {
        Some(ALPN) => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            Error::NoApplicationProtocol,
        )),
    }
}

/// Why a handshake failed, for a log line: what was presented, what was expected, what to check.
pub fn describe_tls_error(error: &io::Error) -> String {
    match tls_error(error) {
        Some(tls) => describe(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer closed the connection during the TLS handshake".into()
        }
        None => error.to_string(),
    }
}

/// The TLS error inside an IO error, as `tokio_rustls` wraps it.
pub fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether a revocation list failed the handshake: this node's, or the peer's.
pub fn is_revoked(error: &io::Error) -> bool {
    matches!(
        tls_error(error),
        Some(
            Error::InvalidCertificate(CertificateError::Revoked)
                | Error::AlertReceived(AlertDescription::CertificateRevoked)
        )
    )
}

/// Stateless: no tickets, no session cache; each handshake proves the client's identity anew.
pub(super) fn server_config(
    key: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    key_exchange: KeyExchange,
) -> Result<ServerConfig, Error> {
    let clients = ClientIdentityVerifier::new(trust);
    let mut config = ServerConfig::builder_with_provider(key_exchange.provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

pub(super) fn client_config(
    key: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    expected: Arc<[Identity]>,
    key_exchange: KeyExchange,
) -> Result<ClientConfig, Error> {
    let servers = ServerIdentityVerifier::new(trust, expected);
    let mut config = ClientConfig::builder_with_provider(key_exchange.provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

pub(super) fn describe(error: &Error) -> String {
    if let Some(identity) = PeerError::of(error) {
        return identity.to_string();
    }
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the certificate presented is not signed by a root that this mesh trusts for its trust domain; check that both sides use the same CA, or the bundle of the other domain".into()
        }
        Error::InvalidCertificate(CertificateError::Revoked) => {
            "the certificate presented is revoked: a list in trust.crlFile names it, or one of its intermediates".into()
        }
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => format!(
            "the certificate presented expired at {}; check its side's CA and both clocks",
            date(*not_after)
        ),
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            format!(
                "the certificate presented is not valid before {}; check both clocks",
                date(*not_before)
            )
        }
        Error::InvalidCertificate(cause) => format!("the certificate presented is refused: {cause}"),
        Error::NoCertificatesPresented => {
            "no certificate was presented; in the mesh every client presents one".into()
        }
        Error::NoApplicationProtocol => "the peer does not offer HTTP/2 (ALPN h2)".into(),
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            "the peer offers no key exchange that this side accepts; compare `tls.keyExchange` of both sides".into()
        }
        Error::PeerIncompatible(cause) => {
            format!("the peer does not speak the mesh's TLS 1.3: {cause:?}")
        }
        Error::InvalidMessage(_) => "what the peer sent is not TLS".into(),
        Error::AlertReceived(alert) => {
            format!("the peer refused the handshake: {}", alert_hint(*alert))
        }
        other => other.to_string(),
    }
}

fn date(at: UnixTime) -> String {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map_or_else(|| format!("{} s after 1970", at.as_secs()), rfc3339)
}

fn alert_hint(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "it does not trust this node's root; check that both nodes use the same CA".into()
        }
        AlertDescription::CertificateExpired => {
            "it finds this node's certificate expired; check both nodes' clocks".into()
        }
        AlertDescription::CertificateRevoked => {
            "it finds this node's certificate revoked; have a new one issued".into()
        }
        AlertDescription::CertificateUnknown | AlertDescription::BadCertificate => {
            "it does not accept this node's identity; its log says why".into()
        }
        AlertDescription::HandshakeFailure => {
            "it accepts no key exchange or cipher suite that this side offers; compare `tls.keyExchange` of both sides".into()
        }
        AlertDescription::NoApplicationProtocol => "it does not speak HTTP/2 here".into(),
        other => format!("{other:?}"),
    }
}
