//! Certificates of the identities on this node: issued, kept fresh, turned into TLS configurations.

pub mod ca;
pub mod clock;
pub mod csr;
pub mod embedded;
mod failures;
pub mod fips;
pub mod given;
pub mod grpc;
pub mod inspect;
mod keeper;
pub mod key;
mod key_exchange;
pub mod manager;
pub mod metrics;
pub(crate) mod private_file;
mod requests;
pub mod root;
pub mod rotation;
pub mod signer;
pub(crate) mod stamp;
pub mod tls;
pub mod trust;
pub mod verifier;
pub mod workload;
mod x509;

#[cfg(test)]
mod tests;

pub use ca::{CaError, CertificateAuthority, CertificateRequest, IssuedChain};
pub use embedded::{EmbeddedCa, EmbeddedCaError};
pub use grpc::{CaAddress, GrpcCa, GrpcCaSettings};
pub use key_exchange::KeyExchange;
pub use manager::{CertificateError, CertificateManager, CertificateSettings, CertificateStatus};
pub use tls::{Negotiated, describe_tls_error, require_h2};
pub use trust::{Trust, TrustSettings};
pub use verifier::{PeerError, peer_identity};
pub use workload::WorkloadCertificate;
