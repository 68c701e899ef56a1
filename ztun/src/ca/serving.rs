//! The CA's own certificate as a server, signed by itself and renewed in time.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use time::OffsetDateTime;
use zeroize::Zeroize as _;

use crate::cert::{IssuedChain, KeyExchange, root::Root, rotation::rotate_after, tls};

const LIFETIME: Duration = Duration::from_hours(24);

#[derive(Debug)]
pub struct ServingCertificate {
    names: Vec<SanType>,
    current: ArcSwapOption<CertifiedKey>,
    renewal: Mutex<Option<OffsetDateTime>>,
}

#[derive(Debug, thiserror::Error)]
#[error("can't make the CA's own server certificate: {0}")]
pub struct ServingError(String);

impl ServingCertificate {
    pub fn new(
        names: &[ServerName<'static>],
        root: &Root,
        now: OffsetDateTime,
    ) -> Result<Arc<Self>, ServingError> {
        let serving = Self {
            names: names
                .iter()
                .map(alternative_name)
                .collect::<Result<_, _>>()
                .map_err(|error| ServingError(error.to_string()))?,
            current: ArcSwapOption::empty(),
            renewal: Mutex::default(),
        };
        serving.renew(root, now)?;
        Ok(Arc::new(serving))
    }

    /// With a new key, for connections from now on.
    pub fn renew(&self, root: &Root, now: OffsetDateTime) -> Result<(), ServingError> {
        let failed = |error: &dyn std::fmt::Display| ServingError(error.to_string());
        let mut key =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| failed(&error))?;
        let issued = root
            .issue_server(self.names.clone(), &key, LIFETIME, now)
            .map_err(|error| failed(&error))?;
        let chain = IssuedChain::from_pem(&issued.elements).map_err(|error| failed(&error))?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
        let signer = any_ecdsa_type(&der).map_err(|error| failed(&error))?;
        key.zeroize();
        let shown = [&[chain.leaf][..], &chain.intermediates].concat();
        self.current
            .store(Some(Arc::new(CertifiedKey::new(shown, signer))));
        let remaining = (issued.not_after - now).unsigned_abs();
        let renewal = now + rotate_after(remaining, rand::random());
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = Some(renewal);
        tracing::info!(serial = issued.serial, not_after = %issued.not_after, "server certificate made");
        Ok(())
    }

    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        let renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        renewal.is_none_or(|renewal| renewal <= now)
    }

    /// TLS as nodes speak it to a CA: only the server has a certificate, nodes have tokens.
    pub fn tls(self: Arc<Self>) -> Result<ServerConfig, ServingError> {
        let mut config = ServerConfig::builder_with_provider(KeyExchange::default().provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| ServingError(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

fn alternative_name(name: &ServerName<'static>) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        ServerName::IpAddress(address) => SanType::IpAddress(IpAddr::from(*address)),
        name => SanType::DnsName(name.to_str().into_owned().try_into()?),
    })
}
