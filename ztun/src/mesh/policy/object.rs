//! Policies as sources name them and hand them over.

use std::{fmt, sync::Arc};

use super::{FailClosed, PeerAuthentication, authorization::AuthorizationPolicy};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    PeerAuthentication,
    AuthorizationPolicy,
}

/// Names a policy: a later one with the same key takes its place, whatever it has become.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    pub kind: PolicyKind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    PeerAuthentication(PeerAuthentication),
    /// Shared: the engine keeps it beside its compiled form.
    Authorization(Arc<AuthorizationPolicy>),
    FailClosed(FailClosed),
}

impl PolicyKey {
    pub fn new(kind: PolicyKind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        })
    }
}
