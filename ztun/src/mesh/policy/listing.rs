//! Every policy in a few words, for people to read.

use serde::{Serialize, Serializer};

use super::{Policies, index::Entry};

/// What `ztun dump mesh` says of one policy.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    /// Such as `AuthorizationPolicy foo/allow-web`.
    policy: String,
    /// Such as `every workload with app=web of namespace foo`.
    target: String,
    /// Such as `ALLOW, 2 rules`.
    effect: String,
}

impl Listed {
    pub(super) fn new<T>(entry: &Entry<T>, effect: String) -> Self {
        Self {
            policy: entry.key.to_string(),
            target: entry.target().to_string(),
            effect,
        }
    }
}

impl Serialize for Policies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let closing = self.fail_closed.listed();
        let authentications = self.peer_authentications.listed();
        let authorizations = self.authorizations.listed();
        serializer.collect_seq(closing.chain(authentications).chain(authorizations))
    }
}
