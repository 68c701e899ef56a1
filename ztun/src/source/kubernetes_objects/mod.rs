//! Kubernetes objects as sources read them: only the kinds and fields that the mesh needs.

pub mod core;
pub mod discovery;
mod metadata;
pub mod networking;
pub mod security;
mod stand_in;

use std::{fmt, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::stand_in::unreadable;
pub use self::{
    metadata::{Labels, Metadata},
    stand_in::stand_in_for_text,
};
use crate::mesh::{
    Denial, Identity, TrustDomain,
    policy::{FailClosed, PeerAuthentication, Selector},
};

/// The kinds that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Pod,
    WorkloadEntry,
    Service,
    EndpointSlice,
    ServiceEntry,
    PeerAuthentication,
    AuthorizationPolicy,
}

/// Names an object. In order: all of a namespace's objects stand together, kind by kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// A `Namespace` stands in itself.
    pub namespace: Arc<str>,
    pub kind: Kind,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Namespace(core::Namespace),
    Pod(core::Pod),
    WorkloadEntry(networking::WorkloadEntry),
    Service(core::Service),
    EndpointSlice(discovery::EndpointSlice),
    ServiceEntry(networking::ServiceEntry),
    PeerAuthentication(PeerAuthentication),
    /// Not enforced rule by rule by this version, so it denies its target.
    AuthorizationPolicy(FailClosed),
    /// Stands in for a policy that could not be read.
    Unreadable(FailClosed),
}

/// What became of one object's text.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    Object(ObjectKey, Arc<Object>),
    /// Of a kind that is known and has nothing for the mesh.
    NotNeeded,
    /// Of a kind (`group/version Kind`) that isn't known.
    Unknown(String),
}

/// An object that can't be taken as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// Kind, namespace and name, as far as they can be told.
    pub object: String,
    /// `None` where not even the name can be told.
    pub key: Option<ObjectKey>,
    pub message: String,
    /// For a policy: what stands in for it where no good version of it is known.
    pub stand_in: Option<Arc<Object>>,
}

/// What reading depends on besides the text.
#[derive(Clone, Copy, Debug)]
pub struct ReadContext<'a> {
    pub trust_domain: &'a TrustDomain,
    pub root_namespace: &'a str,
}

/// The kind, group and names, read without asking that the rest is right.
struct Header<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceEntry => "ServiceEntry",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }

    pub fn is_policy(self) -> bool {
        matches!(self, Self::PeerAuthentication | Self::AuthorizationPolicy)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Namespace => write!(f, "Namespace {}", self.name),
            kind => write!(f, "{} {}/{}", kind.as_str(), self.namespace, self.name),
        }
    }
}

/// Reads one object; lists are the caller's to take apart ([`items`]).
pub fn read(value: &Value, context: ReadContext<'_>) -> Result<Read, Rejection> {
    let header = Header::of(value);
    let kind = match (header.group, header.kind) {
        ("", "Namespace") => Kind::Namespace,
        ("", "Pod") => Kind::Pod,
        ("", "Service") => Kind::Service,
        ("discovery.k8s.io", "EndpointSlice") => Kind::EndpointSlice,
        ("networking.istio.io", "WorkloadEntry") => Kind::WorkloadEntry,
        ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
        // Whatever the group says: a typo there must not make a policy disappear.
        (_, "PeerAuthentication") => Kind::PeerAuthentication,
        (_, "AuthorizationPolicy") => Kind::AuthorizationPolicy,
        // Pods name their service accounts themselves; requests are not looked into at this layer.
        ("", "ServiceAccount") | ("security.istio.io", "RequestAuthentication") => {
            return Ok(Read::NotNeeded);
        }
        ("security.istio.io", _) => {
            let message = format!(
                "`{}` is not a kind of security.istio.io: use PeerAuthentication or AuthorizationPolicy",
                header.kind
            );
            return Err(header.reject(None, message, value, context));
        }
        ("", "") => {
            let message = "not a Kubernetes object: `apiVersion` or `kind` is missing".to_owned();
            return Err(header.reject(None, message, value, context));
        }
        _ => return Ok(Read::Unknown(header.type_name())),
    };
    match header.read(kind, value, context) {
        Ok(object) => Ok(Read::Object(header.key(kind), Arc::new(object))),
        Err(message) => Err(header.reject(Some(kind), message, value, context)),
    }
}

/// The items of a list, such as `kubectl get -o yaml` prints; `None` if it isn't one.
pub fn items(value: &mut Value) -> Option<Vec<Value>> {
    let is_list = value.get("kind")?.as_str()?.ends_with("List");
    match value.get_mut("items")? {
        Value::Array(items) if is_list => Some(std::mem::take(items)),
        _ => None,
    }
}

impl<'a> Header<'a> {
    fn of(value: &'a Value) -> Self {
        let text = |pointer| {
            value
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let api_version = text("/apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self {
            group,
            version,
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        }
    }

    fn type_name(&self) -> String {
        let separator = if self.group.is_empty() { "" } else { "/" };
        format!("{}{separator}{} {}", self.group, self.version, self.kind)
    }

    fn key(&self, kind: Kind) -> ObjectKey {
        let namespace = match (kind, self.namespace) {
            (Kind::Namespace, _) => self.name,
            (_, "") => "default",
            (_, namespace) => namespace,
        };
        ObjectKey {
            namespace: namespace.into(),
            kind,
            name: self.name.into(),
        }
    }

    fn read(&self, kind: Kind, value: &Value, context: ReadContext<'_>) -> Result<Object, String> {
        let (group, versions): (_, &[&str]) = match kind {
            Kind::Namespace | Kind::Pod | Kind::Service => ("", &["v1"]),
            Kind::EndpointSlice => ("discovery.k8s.io", &["v1"]),
            Kind::WorkloadEntry | Kind::ServiceEntry => {
                ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"])
            }
            Kind::PeerAuthentication | Kind::AuthorizationPolicy => {
                ("security.istio.io", &["v1", "v1beta1"])
            }
        };
        if self.group != group || !versions.contains(&self.version) {
            return Err(format!(
                "apiVersion: expected {} of group `{group}`",
                versions.join(" or ")
            ));
        }
        let key = self.key(kind);
        if let Err(error) = Identity::new(context.trust_domain.clone(), &key.namespace, "default") {
            return Err(format!("metadata.namespace: {error}"));
        }
        if self.name.is_empty() {
            return Err("metadata.name: missing".to_owned());
        }
        match kind {
            Kind::Namespace => typed(value).map(Object::Namespace),
            Kind::Pod => {
                let pod: core::Pod = typed(value)?;
                service_account(
                    pod.spec.service_account_name.as_deref(),
                    "spec.serviceAccountName",
                    context,
                )?;
                Ok(Object::Pod(pod))
            }
            Kind::WorkloadEntry => {
                let entry: networking::WorkloadEntry = typed(value)?;
                service_account(
                    entry.spec.service_account.as_deref(),
                    "spec.serviceAccount",
                    context,
                )?;
                Ok(Object::WorkloadEntry(entry))
            }
            Kind::Service => typed(value).map(Object::Service),
            Kind::EndpointSlice => typed(value).map(Object::EndpointSlice),
            Kind::ServiceEntry => typed(value).map(Object::ServiceEntry),
            Kind::PeerAuthentication => typed(value)
                .map(|policy| Object::PeerAuthentication(peer_authentication(&key, policy))),
            Kind::AuthorizationPolicy => {
                typed::<security::AuthorizationPolicy>(value)?;
                Ok(Object::AuthorizationPolicy(FailClosed {
                    target: security::target(value, context.root_namespace),
                    denial: Denial {
                        policy: key.to_string().into(),
                        reason: "this version does not support AuthorizationPolicy, so nobody may enter what it is for".into(),
                        hint: "remove the policy or use a version that supports it".into(),
                    },
                }))
            }
        }
    }

    fn reject(
        &self,
        kind: Option<Kind>,
        message: String,
        value: &Value,
        context: ReadContext<'_>,
    ) -> Rejection {
        let key = kind.map(|kind| self.key(kind));
        let object = match &key {
            Some(key) => key.to_string(),
            None => format!("{} {}/{}", self.type_name(), self.namespace, self.name),
        };
        let restricts = kind.map_or(self.group == "security.istio.io", Kind::is_policy);
        let stand_in = restricts.then(|| {
            let target = security::target(value, context.root_namespace);
            Arc::new(Object::Unreadable(unreadable(&object, &message, target)))
        });
        Rejection {
            object,
            key: key.filter(|key| !key.name.is_empty()),
            message,
            stand_in,
        }
    }
}

/// The path of the wrong field comes first in the message.
fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string() {
        path if path == "." => error.into_inner().to_string(),
        path => format!("{path}: {}", error.into_inner()),
    })
}

fn service_account(
    name: Option<&str>,
    field: &str,
    context: ReadContext<'_>,
) -> Result<(), String> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("default");
    Identity::new(context.trust_domain.clone(), "default", name)
        .map(drop)
        .map_err(|error| format!("{field}: {error}"))
}

fn peer_authentication(
    key: &ObjectKey,
    policy: security::PeerAuthentication,
) -> PeerAuthentication {
    let mode = |mtls: security::MutualTls| mtls.mode.mtls_mode();
    PeerAuthentication {
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
        created: policy.metadata.creation_timestamp,
        selector: Selector(policy.spec.selector.unwrap_or_default().match_labels),
        mode: policy.spec.mtls.and_then(mode),
        port_modes: policy
            .spec
            .port_level_mtls
            .into_iter()
            .map(|(port, mtls)| (port, mode(mtls)))
            .collect(),
    }
}
