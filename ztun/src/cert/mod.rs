//! Certificates of the identities on this node: issued, kept fresh, turned into TLS configurations.

pub mod ca;
pub mod clock;
pub mod embedded;
mod keeper;
pub mod key;
pub mod manager;
mod root;
pub mod rotation;
pub mod tls;
pub mod trust;
pub mod verifier;
pub mod workload;
mod x509;

#[cfg(test)]
mod tests;

pub use ca::{CaError, CertificateAuthority, CertificateRequest, IssuedChain};
pub use embedded::{EmbeddedCa, EmbeddedCaError};
pub use manager::{CertificateError, CertificateManager, CertificateSettings, CertificateStatus};
pub use tls::{describe_tls_error, require_h2};
pub use trust::{Trust, TrustSettings};
pub use verifier::{PeerError, peer_identity};
pub use workload::WorkloadCertificate;
