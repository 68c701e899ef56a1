//! One identity's key and certificate, ready for TLS in both roles.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, ServerName},
    server::danger::ClientCertVerifier,
    sign::CertifiedKey,
};
use time::OffsetDateTime;

use super::{
    CaError, IssuedChain, KeyExchange,
    clock::unix_time,
    key::WorkloadKey,
    tls,
    verifier::{ClientIdentityVerifier, ServerIdentityVerifier},
    x509::Facts,
};
use crate::mesh::{Identity, TrustDomain};

/// One identity's key and certificate, ready for TLS in both roles.
///
/// Never changes: a rotation makes a new one, and connections that use this one go on.
pub struct WorkloadCertificate {
    pub identity: Identity,
    /// Lower-case hexadecimal, without separators.
    pub serial: String,
    pub issuer: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// The CA's whole answer: leaf, intermediates, roots.
    pub chain_pem: String,
    /// As a server: client certificate required, TLS 1.3, ALPN h2.
    pub server: Arc<ServerConfig>,
    roots: Arc<RootCertStore>,
    /// Accepts no server; [`Self::client`] puts the verifier in.
    client: ClientConfig,
}

impl WorkloadCertificate {
    /// Checks a CA's answer as a peer would, and that it is the one that was asked for.
    pub fn new(
        identity: Identity,
        key: &WorkloadKey,
        issued: IssuedChain,
        trust_domains: Arc<[TrustDomain]>,
        key_exchange: KeyExchange,
        now: OffsetDateTime,
    ) -> Result<Self, CaError> {
        let unusable = |reason: String| CaError::Unusable {
            identity: identity.clone(),
            reason,
        };
        let facts = Facts::of(&issued.leaf).map_err(|error| unusable(error.to_string()))?;
        if facts.public_key != key.public_key() {
            return Err(unusable("it certifies another key than asked for".into()));
        }
        let tls = |error: rustls::Error| unusable(tls::describe(&error));
        let roots = trust_anchors(&issued.roots).map_err(tls)?;
        verify(&identity, &issued, &roots, now).map_err(tls)?;

        let signer = key.signer();
        let chain = [&[issued.leaf][..], &issued.intermediates].concat();
        let certified = Arc::new(CertifiedKey::new(chain, signer));
        let server = tls::server_config(
            Arc::clone(&certified),
            Arc::clone(&roots),
            trust_domains,
            key_exchange,
        )
        .map_err(tls)?;
        let nobody = Arc::new([]);
        let client =
            tls::client_config(certified, Arc::clone(&roots), nobody, key_exchange).map_err(tls)?;
        Ok(Self {
            identity,
            serial: facts.serial,
            issuer: facts.issuer,
            not_before: facts.not_before,
            not_after: facts.not_after,
            chain_pem: issued.pem,
            server: Arc::new(server),
            roots,
            client,
        })
    }

    /// As a client that accepts exactly `expected` as the server's identity; no SNI, no resumption.
    pub fn client(&self, expected: &Identity) -> Arc<ClientConfig> {
        self.client_of_any([expected.clone()].into())
    }

    /// Like [`Self::client`], where a destination may answer as any of several identities.
    pub fn client_of_any(&self, expected: Arc<[Identity]>) -> Arc<ClientConfig> {
        let servers = ServerIdentityVerifier::new(Arc::clone(&self.roots), expected);
        let mut config = self.client.clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(servers));
        Arc::new(config)
    }
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn trust_anchors(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    Ok(Arc::new(store))
}

/// In both roles: what a peer would refuse must not be put in force.
fn verify(
    identity: &Identity,
    issued: &IssuedChain,
    roots: &Arc<RootCertStore>,
    now: OffsetDateTime,
) -> Result<(), rustls::Error> {
    let IssuedChain {
        leaf,
        intermediates,
        ..
    } = issued;
    let now = unix_time(now);
    // Names are ignored by the verifier; the trait wants one.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    ServerIdentityVerifier::new(Arc::clone(roots), [identity.clone()].into()).verify_server_cert(
        leaf,
        intermediates,
        &name,
        &[],
        now,
    )?;
    let own_domain = [identity.trust_domain().clone()].into();
    ClientIdentityVerifier::new(Arc::clone(roots), own_domain)
        .map_err(|error| rustls::Error::General(error.to_string()))?
        .verify_client_cert(leaf, intermediates, now)?;
    Ok(())
}
