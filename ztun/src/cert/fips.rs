//! The build feature `fips`: a daemon built with it runs on the validated module, or not at all.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider,
    server::ResolvesServerCertUsingSni, version::TLS13,
};

use super::KeyExchange;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FipsError {
    #[error(
        "this is a FIPS build, but not in FIPS mode: {}; build it with `--features fips` on a platform of the AWS-LC FIPS module",
        .parts.join(", ")
    )]
    Provider {
        /// What isn't the validated module's.
        parts: Vec<String>,
    },
    #[error("this is a FIPS build, but its {role} configuration of TLS is not in FIPS mode")]
    Configuration { role: &'static str },
    #[error("TLS can't be configured: {0}")]
    Tls(String),
}

/// Whether this build promises FIPS mode.
pub const BUILD: bool = cfg!(feature = "fips");

/// In a FIPS build: refuses unless everything that mesh connections are made of says that it is in
/// FIPS mode. In other builds there is no promise to check.
pub fn require(key_exchange: KeyExchange) -> Result<(), FipsError> {
    if BUILD {
        check(&key_exchange.provider())?;
    }
    Ok(())
}

pub(super) fn check(provider: &Arc<CryptoProvider>) -> Result<(), FipsError> {
    let parts = not_fips(provider);
    // The parts are named for the operator; what counts is the provider's own word.
    if !parts.is_empty() || !provider.fips() {
        return Err(FipsError::Provider { parts });
    }
    let tls = |error: rustls::Error| FipsError::Tls(error.to_string());
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    let client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    for (role, fips) in [("server", server.fips()), ("client", client.fips())] {
        if !fips {
            return Err(FipsError::Configuration { role });
        }
    }
    Ok(())
}

fn not_fips(provider: &CryptoProvider) -> Vec<String> {
    let suites = provider.cipher_suites.iter();
    let suites = suites
        .filter(|suite| !suite.fips())
        .map(|suite| format!("{:?}", suite.suite()));
    let groups = provider.kx_groups.iter();
    let groups = groups
        .filter(|group| !group.fips())
        .map(|group| format!("{:?}", group.name()));
    let rest = [
        (
            "signature verification",
            provider.signature_verification_algorithms.fips(),
        ),
        ("random numbers", provider.secure_random.fips()),
        ("private keys", provider.key_provider.fips()),
    ];
    let rest = rest.into_iter().filter(|(_, fips)| !fips);
    suites
        .chain(groups)
        .chain(rest.map(|(part, _)| part.to_owned()))
        .collect()
}
