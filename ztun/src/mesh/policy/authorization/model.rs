//! An `AuthorizationPolicy` as its author wrote it, as far as layer 4 goes (WIRE.md, §6).

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::mesh::policy::Selector;

/// One policy. A policy of the root namespace is for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub created: Option<OffsetDateTime>,
    /// Without labels, every workload of its namespace.
    pub selector: Selector,
    pub action: Action,
    /// `istio.io/dry-run`: it is evaluated and reported, and decides nothing.
    pub dry_run: bool,
    /// One of them must match; without any, it matches nothing.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    Allow,
    Deny,
    /// It is reported, and decides nothing.
    Audit,
}

/// Its three parts must all match; a part with no entries matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// One of them must match.
    pub from: Vec<Source>,
    /// One of them must match.
    pub to: Vec<Operation>,
    /// All of them must match.
    pub when: Vec<Condition>,
    /// Paths of attributes that layer 4 can't see, such as `to[0].operation.methods`; their values
    /// are not in the other fields. A rule of an ALLOW with any never matches; in the others they
    /// are left out, so that a DENY denies more and never less.
    pub layer7: Vec<Arc<str>>,
}

/// Every field that has values must match, by one of its values; a `not_` field by none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Against the SPIFFE ID without its `spiffe://`.
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccount>,
    pub not_service_accounts: Vec<ServiceAccount>,
    pub ip_blocks: Vec<IpNet>,
    pub not_ip_blocks: Vec<IpNet>,
    /// At layer 4 nothing is forwarded: the same address as for `ip_blocks`.
    pub remote_ip_blocks: Vec<IpNet>,
    pub not_remote_ip_blocks: Vec<IpNet>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    pub ports: Vec<u16>,
    pub not_ports: Vec<u16>,
}

/// `values` must match by one of them, if there are any, and `not_values` by none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    SourceIp(Values<IpNet>),
    RemoteIp(Values<IpNet>),
    SourceNamespace(Values<StringMatch>),
    SourcePrincipal(Values<StringMatch>),
    SourceServiceAccount(Values<ServiceAccount>),
    DestinationIp(Values<IpNet>),
    DestinationPort(Values<u16>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values<T> {
    pub values: Vec<T>,
    pub not_values: Vec<T>,
}

/// As Istio writes them: `x`, `x*`, `*x` and `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any value, but not the lack of one.
    Presence,
}

/// Written `namespace/name`, or `name` for one of the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Action {
    /// As policies write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        }
    }
}

impl StringMatch {
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *value,
            Self::Prefix(text) => value.starts_with(&**text),
            Self::Suffix(text) => value.ends_with(&**text),
            Self::Presence => !value.is_empty(),
        }
    }
}

impl From<&str> for StringMatch {
    fn from(text: &str) -> Self {
        if text == "*" {
            Self::Presence
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(text.into())
        }
    }
}
