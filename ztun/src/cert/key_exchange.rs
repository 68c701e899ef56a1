//! Which key exchanges a connection of the mesh may be built on.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

use rustls::crypto::{
    CryptoProvider, SupportedKxGroup,
    aws_lc_rs::{cipher_suite, default_provider, kx_group},
};
use serde::Serialize;

/// What is offered as a client and accepted as a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyExchange {
    /// X25519MLKEM768 first; peers that know only classical ones are met on those.
    #[default]
    HybridPreferred,
    /// X25519MLKEM768 or nothing: what is recorded today stays closed to a quantum computer.
    HybridOnly,
    /// For peers or middleboxes that choke on a client hello of more than one packet.
    Classical,
}

static HYBRID: &[&dyn SupportedKxGroup] = &[kx_group::X25519MLKEM768];
static CLASSICAL: &[&dyn SupportedKxGroup] =
    &[kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

static HYBRID_PREFERRED_PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| provider([HYBRID, CLASSICAL].concat()));
static HYBRID_ONLY_PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| provider(HYBRID.to_vec()));
static CLASSICAL_PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| provider(CLASSICAL.to_vec()));

impl KeyExchange {
    /// The cryptography of mesh connections under this setting.
    pub fn provider(self) -> Arc<CryptoProvider> {
        Arc::clone(match self {
            Self::HybridPreferred => &HYBRID_PREFERRED_PROVIDER,
            Self::HybridOnly => &HYBRID_ONLY_PROVIDER,
            Self::Classical => &CLASSICAL_PROVIDER,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::HybridPreferred => "hybrid-preferred",
            Self::HybridOnly => "hybrid-only",
            Self::Classical => "classical",
        }
    }
}

impl FromStr for KeyExchange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::HybridPreferred, Self::HybridOnly, Self::Classical]
            .into_iter()
            .find(|choice| choice.as_str() == text)
            .ok_or(())
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The peer's two cipher suites, with these key exchanges. A FIPS build leaves out what its module
/// isn't validated for: X25519 on its own.
fn provider(mut kx_groups: Vec<&'static dyn SupportedKxGroup>) -> Arc<CryptoProvider> {
    if cfg!(feature = "fips") {
        kx_groups.retain(|group| group.fips());
    }
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups,
        ..default_provider()
    })
}
