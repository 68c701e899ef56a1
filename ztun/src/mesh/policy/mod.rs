//! Who may talk to whom: one function decides for HBONE, plaintext and the same-node path.

pub mod authorization;
mod explain;
mod fail_closed;
mod index;
mod listing;
mod object;
mod peer_authentication;
mod selector;

use std::{borrow::Cow, fmt, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use self::{
    authorization::{AuditFinding, AuthorizationPolicy, Authorizations},
    fail_closed::FailClosedPolicies,
};
pub use self::{
    explain::{Decider, Explanation, MutualTlsExplanation},
    fail_closed::{FailClosed, Target},
    object::{Policy, PolicyKey, PolicyKind},
    peer_authentication::{MtlsMode, PeerAuthentication, PeerAuthentications},
    selector::Selector,
};
use super::{
    identity::{Identity, TrustDomain},
    workload::Workload,
};

/// One inbound connection, as policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Whom mutual TLS (or the same node's registry) proved the client to be; `None` is plaintext.
    pub source: Option<&'a Identity>,
    pub source_address: SocketAddr,
    pub destination: &'a Workload,
    pub destination_address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    Allow,
    Deny(Denial),
}

/// Which policy refused a connection, and why, in the operator's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Kind, namespace and name, such as `PeerAuthentication foo/default`.
    pub policy: Arc<str>,
    /// Such as `mode STRICT requires mutual TLS and the connection is plaintext`.
    pub reason: Arc<str>,
    /// What to do about it, such as `enrol the client`.
    pub hint: Cow<'static, str>,
}

/// Every policy of the mesh. A clone shares all that it has in common with its original, so that
/// a change after it costs little.
#[derive(Clone, Debug)]
pub struct Policies {
    root_namespace: Arc<str>,
    fail_closed: FailClosedPolicies,
    peer_authentications: PeerAuthentications,
    authorizations: Authorizations,
}

impl Policies {
    /// None yet; those of `root_namespace` are for the whole mesh.
    pub fn new(root_namespace: &str) -> Self {
        Self {
            root_namespace: root_namespace.into(),
            fail_closed: FailClosedPolicies::default(),
            peer_authentications: PeerAuthentications::default(),
            authorizations: Authorizations::default(),
        }
    }

    /// Has principals that name one of these match all of them: a mesh's trust domain and its
    /// other names.
    #[must_use]
    pub fn with_trust_domains(mut self, names: Arc<[TrustDomain]>) -> Self {
        self.authorizations.trust_domains = names;
        self
    }

    /// Adds a policy, or replaces the one with the same key.
    pub fn insert(&mut self, key: PolicyKey, policy: Policy) {
        self.remove(&key);
        let root = &self.root_namespace;
        match policy {
            Policy::PeerAuthentication(policy) => {
                self.peer_authentications.insert(root, key, policy);
            }
            Policy::Authorization(policy) => self.authorizations.insert(root, key, policy),
            Policy::FailClosed(policy) => self.fail_closed.insert(key, policy),
        }
    }

    pub fn remove(&mut self, key: &PolicyKey) {
        self.fail_closed.remove(key);
        self.peer_authentications.remove(key);
        self.authorizations.remove(key);
    }

    /// Whether `connection` may enter its destination.
    pub fn authorize(&self, connection: &Connection<'_>) -> Decision {
        let denial = self
            .fail_closed
            .check(connection)
            .or_else(|| self.peer_authentications.check(connection))
            .or_else(|| self.authorizations.check(connection));
        denial.map_or(Decision::Allow, Decision::Deny)
    }

    /// What AUDIT and dry-run policies say of `connection`, in no order.
    pub fn audit<'a>(
        &'a self,
        connection: &Connection<'a>,
    ) -> impl Iterator<Item = AuditFinding> + use<'a> {
        self.authorizations.audit(connection)
    }

    /// What nobody may enter `destination` for, whoever it is: a policy can't be enforced as written.
    pub fn closed(&self, destination: &Workload) -> Vec<Denial> {
        self.fail_closed.applying(destination)
    }

    pub fn peer_authentications(&self) -> &PeerAuthentications {
        &self.peer_authentications
    }

    pub fn authorization_policies(&self) -> impl Iterator<Item = &AuthorizationPolicy> {
        self.authorizations.iter()
    }
}

/// With the root namespace that Istio installs to.
impl Default for Policies {
    fn default() -> Self {
        Self::new("istio-system")
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            reason,
            hint,
        } = self;
        write!(f, "denied by {policy}: {reason}: {hint}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
