//! Whom this node believes, and the certificates of what runs on it.

use std::sync::Arc;

use crate::{
    cert::{
        CertificateAuthority, CertificateManager, CertificateSettings, EmbeddedCa, GrpcCa,
        GrpcCaSettings, Trust, TrustSettings,
        clock::SystemClock,
        embedded::ROOT_CERTIFICATE,
        trust::{OwnDomains, TrustFollower},
    },
    config::Config,
};

#[derive(Debug)]
pub struct Credentials {
    pub trust: Arc<Trust>,
    pub certificates: Arc<CertificateManager>,
    /// Its files are followed until this goes.
    _follower: TrustFollower,
}

impl Credentials {
    /// Nothing is asked of a CA before an identity is retained.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        // First: the embedded one makes its root, which is trusted by its file.
        let ca = certificate_authority(config)?;
        let domains = OwnDomains::new(config.trust_domain.clone(), &config.trust_domain_aliases);
        let trust = Trust::new(domains);
        let follower = trust.follow(trust_settings(config))?;
        let settings = CertificateSettings {
            trust: trust.clone(),
            lifetime: config.certificate_lifetime,
            wait: config.timeouts.certificate,
            key_exchange: config.tls.key_exchange,
            ..CertificateSettings::new(config.trust_domain.clone())
        };
        let certificates = CertificateManager::new(ca, settings, Arc::new(SystemClock));
        Ok(Self {
            trust,
            certificates: Arc::new(certificates),
            _follower: follower,
        })
    }
}

fn certificate_authority(config: &Config) -> anyhow::Result<Arc<dyn CertificateAuthority>> {
    let Some(address) = config.ca.address.clone() else {
        let trust_domain = config.trust_domain.clone();
        let ca = EmbeddedCa::open(&config.ca_directory, trust_domain)?;
        return Ok(Arc::new(ca));
    };
    let ca = GrpcCa::new(GrpcCaSettings {
        address,
        root_file: config.ca.root_file.clone(),
        token_file: config.ca.token_file.clone(),
        cluster_id: config.cluster_id.clone(),
    })?;
    Ok(Arc::new(ca))
}

/// The embedded CA's roots are read where it has them. `ca.rootFile` is none of the mesh's: it vouches
/// for the CA's own TLS alone.
fn trust_settings(config: &Config) -> TrustSettings {
    let is_embedded = config.ca.address.is_none();
    TrustSettings {
        ca_roots: is_embedded.then(|| config.ca_directory.join(ROOT_CERTIFICATE)),
        ..config.trust.clone()
    }
}
