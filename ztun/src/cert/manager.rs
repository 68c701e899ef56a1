//! Keeps one fresh certificate for every identity that the node hosts.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;

use crate::mesh::Identity;

/// One identity's key and certificate, ready for TLS in both roles.
#[derive(Debug)]
pub struct WorkloadCertificate {
    pub identity: Identity,
    pub serial: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// As a server: client certificate required, TLS 1.3, ALPN h2.
    pub server: Arc<rustls::ServerConfig>,
}

#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    pub identity: Identity,
    /// `None` while the first certificate is still awaited.
    pub serial: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub rotates_at: Option<OffsetDateTime>,
    /// The last failure since the last success.
    pub error: Option<String>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificateError {
    #[error("no certificate for {identity} after {waited:?}: {cause}")]
    NotReady {
        identity: Identity,
        waited: Duration,
        cause: String,
    },
}

#[derive(Debug)]
pub struct CertificateManager {}

impl WorkloadCertificate {
    /// As a client that accepts exactly `expected` as the server's identity; no SNI, no resumption.
    pub fn client(&self, _expected: &Identity) -> Arc<rustls::ClientConfig> {
        unimplemented!()
    }
}

impl CertificateManager {
    /// The current certificate of `identity`, waited for (bounded) if it is not there yet.
    pub async fn certificate(
        &self,
        _identity: &Identity,
    ) -> Result<Arc<WorkloadCertificate>, CertificateError> {
        unimplemented!()
    }

    /// Starts keeping a certificate for `identity`; call once a hosted workload. Counted: [`Self::release`] undoes one.
    pub fn retain(&self, _identity: &Identity) {}

    pub fn release(&self, _identity: &Identity) {}

    /// Every kept identity, in order.
    pub fn status(&self) -> Vec<CertificateStatus> {
        Vec::new()
    }
}
