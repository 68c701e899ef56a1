//! SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The root of trust that an identity belongs to, such as `cluster.local`.
///
/// Lower-case letters, digits, `-`, `_` and `.`, at most 255 bytes (SPIFFE ID, section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// Who a workload is. Exactly the four segments of the peer's format; anything else is not one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a string is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "`{0}` is not a workload identity: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    Format(String),
    #[error(
        "`{0}` is not a trust domain: use 1 to 255 lower-case letters, digits, `-`, `_` and `.`"
    )]
    TrustDomain(String),
    #[error(
        "`{0}` is not a Kubernetes name: use 1 to 253 lower-case letters, digits, `-` and `.`, with a letter or digit at each end"
    )]
    Name(String),
}

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Identity {
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        Ok(Self {
            trust_domain,
            namespace: kubernetes_name(namespace)?,
            service_account: kubernetes_name(service_account)?,
        })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let format = || IdentityError::Format(text.to_owned());
        let path = text.strip_prefix("spiffe://").ok_or_else(format)?;
        let segments: Vec<&str> = path.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = segments[..] else {
            return Err(format());
        };
        Self::new(trust_domain.parse()?, namespace, service_account)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Identity {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(trust_domain: TrustDomain) -> Self {
        trust_domain.to_string()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

/// A namespace or service account name: an RFC 1123 subdomain, as Kubernetes allows.
fn kubernetes_name(text: &str) -> Result<Arc<str>, IdentityError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    if bytes.len() > 253
        || !edge(bytes.first())
        || !edge(bytes.last())
        || !bytes.iter().copied().all(inner)
    {
        return Err(IdentityError::Name(text.to_owned()));
    }
    Ok(text.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_peers_format_is_read_and_written() {
        let text = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";
        let identity: Identity = text.parse().unwrap();
        assert_eq!(identity.namespace(), "default");
        assert_eq!(identity.service_account(), "bookinfo-productpage");
        assert_eq!(identity.to_string(), text);
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/default/sa/",
            "spiffe://cluster.local/ns//sa/a",
            "spiffe://cluster.local/ns/default/sa/a/",
            "spiffe://cluster.local/ns/default/sa/a/b",
            "spiffe://cluster.local/sa/a/ns/default",
            "spiffe://Cluster.Local/ns/default/sa/a",
            "spiffe:///ns/default/sa/a",
            "SPIFFE://cluster.local/ns/default/sa/a",
            "https://cluster.local/ns/default/sa/a",
            "spiffe://cluster.local/ns/default/sa/a?x=1",
            "spiffe://cluster.local/ns/default/sa/a%2fb",
            " spiffe://cluster.local/ns/default/sa/a",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            trust_domain in "[a-z0-9._-]{1,40}",
            namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
            service_account in "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?",
        ) {
            let identity = Identity::new(trust_domain.parse().unwrap(), &namespace, &service_account).unwrap();
            prop_assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }

        #[test]
        fn what_is_read_is_written_back(text in "(spiffe://)?[a-z./]{0,12}(/ns/)?[a-zA-Z0-9./-]{0,12}(/sa/)?[a-z0-9./%-]{0,12}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
