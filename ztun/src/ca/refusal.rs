//! Why a request gets no certificate: the rule, what the caller is told, and how it may go on.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};

use crate::{
    cert::{csr::CsrError, root::SigningRefusal},
    mesh::{Identity, PodName},
};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the caller is not known: {0}")]
    Unauthenticated(String),
    #[error("whether the caller is known can't be told: {0}")]
    AuthenticationUnavailable(String),
    #[error(
        "node {node} asks for more certificates than it may (rateLimit); try again in {again:?}"
    )]
    RateLimit { node: Arc<str>, again: Duration },
    #[error(
        "the request doesn't say for which identity it is: its metadata needs ImpersonatedIdentity, spiffe://<trust domain>/ns/<namespace>/sa/<service account> ({0})"
    )]
    NoIdentity(String),
    #[error("the CA has not read yet which workloads are on which node; try again")]
    MeshNotRead,
    #[error("the mesh state has no pod {0}, which the caller's token is bound to")]
    CallerNotInMesh(PodName),
    #[error("the mesh state has no workload on node {0}")]
    NodeNotInMesh(Arc<str>),
    #[error("no workload with the identity {identity} is on node {node}")]
    NotOnNode { identity: Identity, node: Arc<str> },
    #[error("{0}")]
    Signing(#[from] SigningRefusal),
    #[error("no certificate is given out that the issue log does not have: {0}")]
    IssueLog(String),
}

impl Refusal {
    /// For metrics, logs and callers.
    pub const RULES: [&str; 15] = [
        "unauthenticated",
        "authentication-unavailable",
        "rate-limit",
        "no-identity",
        "mesh-not-read",
        "caller-not-in-mesh",
        "node-not-in-mesh",
        "not-on-node",
        "trust-domain",
        "signer-expired",
        "csr",
        "csr-key",
        "csr-names",
        "signing",
        "issue-log",
    ];

    pub fn rule(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "unauthenticated",
            Self::AuthenticationUnavailable(_) => "authentication-unavailable",
            Self::RateLimit { .. } => "rate-limit",
            Self::NoIdentity(_) => "no-identity",
            Self::MeshNotRead => "mesh-not-read",
            Self::CallerNotInMesh(_) => "caller-not-in-mesh",
            Self::NodeNotInMesh(_) => "node-not-in-mesh",
            Self::NotOnNode { .. } => "not-on-node",
            Self::Signing(SigningRefusal::TrustDomain { .. }) => "trust-domain",
            Self::Signing(SigningRefusal::Expired { .. }) => "signer-expired",
            Self::Signing(SigningRefusal::Request(CsrError::Key)) => "csr-key",
            Self::Signing(SigningRefusal::Request(_)) => "csr",
            Self::Signing(SigningRefusal::Names { .. }) => "csr-names",
            Self::Signing(SigningRefusal::Failed(_)) => "signing",
            Self::IssueLog(_) => "issue-log",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::RateLimit { .. } => Code::ResourceExhausted,
            Self::CallerNotInMesh(_)
            | Self::NodeNotInMesh(_)
            | Self::NotOnNode { .. }
            | Self::Signing(SigningRefusal::TrustDomain { .. }) => Code::PermissionDenied,
            Self::NoIdentity(_)
            | Self::Signing(SigningRefusal::Request(_) | SigningRefusal::Names { .. }) => {
                Code::InvalidArgument
            }
            // What another replica, or this one later, may do.
            Self::AuthenticationUnavailable(_)
            | Self::MeshNotRead
            | Self::Signing(SigningRefusal::Expired { .. })
            | Self::IssueLog(_) => Code::Unavailable,
            Self::Signing(SigningRefusal::Failed(_)) => Code::Internal,
        }
    }
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        let message = format!("refused by rule {}: {refusal}", refusal.rule());
        Self::new(refusal.code(), message)
    }
}
