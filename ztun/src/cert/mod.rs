//! Certificates of the identities on this node: issued, kept fresh, turned into TLS configurations.

pub mod manager;

pub use manager::{CertificateError, CertificateManager, CertificateStatus, WorkloadCertificate};
