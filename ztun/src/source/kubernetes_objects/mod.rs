//! Kubernetes objects as sources read them: only the kinds and fields that the mesh needs.

pub mod core;
pub mod discovery;
mod fields;
mod metadata;
pub mod networking;
pub mod security;
mod stand_in;

use std::{fmt, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use self::metadata::or_default;
pub use self::{
    metadata::{Labels, Metadata},
    stand_in::{Unreadable, stand_in_for_text},
};
use super::field::{FieldPath, FieldProblem};
use crate::mesh::{
    Identity, TrustDomain,
    policy::{PeerAuthentication, authorization::AuthorizationPolicy},
};

/// An object's problems beyond these are only counted.
const MAX_SHOWN: usize = 5;

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
    /// Shared with the engine, which keeps it too.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// Stands in for a policy that could not be read.
    Unreadable(Unreadable),
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
    /// At least one.
    pub problems: Vec<FieldProblem>,
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
            let problem = FieldProblem::new(FieldPath::of("kind"), message);
            return Err(header.reject(None, vec![problem], value, context));
        }
        ("", "") => {
            let message = "not a Kubernetes object: `apiVersion` or `kind` is missing";
            let problem = FieldProblem::new(FieldPath::default(), message);
            return Err(header.reject(None, vec![problem], value, context));
        }
        _ => return Ok(Read::Unknown(header.type_name())),
    };
    match header.read(kind, value, context) {
        Ok(object) => Ok(Read::Object(header.key(kind), Arc::new(object))),
        Err(problems) => Err(header.reject(Some(kind), problems, value, context)),
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

    fn read(
        &self,
        kind: Kind,
        value: &Value,
        context: ReadContext<'_>,
    ) -> Result<Object, Vec<FieldProblem>> {
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
            let message = format!("expected {} of group `{group}`", versions.join(" or "));
            return Err(at("apiVersion", message));
        }
        let key = self.key(kind);
        if let Err(error) = Identity::new(context.trust_domain.clone(), &key.namespace, "default") {
            return Err(at("metadata.namespace", error.to_string()));
        }
        for field in ["namespace", "name"] {
            let found = value
                .get("metadata")
                .and_then(|metadata| metadata.get(field));
            if let Some(found) = found.filter(|found| !found.is_string() && !found.is_null()) {
                let field = format!("metadata.{field}");
                return Err(at(
                    &field,
                    format!("expected text, found {found}: put it in quotes"),
                ));
            }
        }
        if self.name.is_empty() {
            return Err(at("metadata.name", "missing"));
        }
        let whole = FieldPath::default();
        match kind {
            Kind::Namespace => typed(value, &whole).map(Object::Namespace),
            Kind::Pod => {
                let pod: core::Pod = typed(value, &whole)?;
                service_account(
                    pod.spec.service_account_name.as_deref(),
                    "spec.serviceAccountName",
                    context,
                )?;
                Ok(Object::Pod(pod))
            }
            Kind::WorkloadEntry => {
                let entry: networking::WorkloadEntry = typed(value, &whole)?;
                service_account(
                    entry.spec.service_account.as_deref(),
                    "spec.serviceAccount",
                    context,
                )?;
                Ok(Object::WorkloadEntry(entry))
            }
            Kind::Service => typed(value, &whole).map(Object::Service),
            Kind::EndpointSlice => typed(value, &whole).map(Object::EndpointSlice),
            Kind::ServiceEntry => typed(value, &whole).map(Object::ServiceEntry),
            Kind::PeerAuthentication => {
                security::peer_authentication(&key, value).map(Object::PeerAuthentication)
            }
            Kind::AuthorizationPolicy => {
                let policy = security::authorization_policy(&key, value)?;
                Ok(Object::AuthorizationPolicy(Arc::new(policy)))
            }
        }
    }

    fn reject(
        &self,
        kind: Option<Kind>,
        problems: Vec<FieldProblem>,
        value: &Value,
        context: ReadContext<'_>,
    ) -> Rejection {
        let key = kind.map(|kind| self.key(kind));
        let object = match &key {
            Some(key) => key.to_string(),
            None if self.kind.is_empty() => String::new(),
            None => format!("{} {}/{}", self.type_name(), self.namespace, self.name),
        };
        let mut rejection = Rejection {
            object,
            key: key.filter(|key| !key.name.is_empty()),
            problems,
            stand_in: None,
        };
        let restricts = kind.map_or(self.group == "security.istio.io", Kind::is_policy);
        if restricts && !security::decides_nothing(value) {
            let target = security::target(value, context.root_namespace);
            let stand_in = Unreadable::new(&rejection.object, &rejection.message(), target);
            rejection.stand_in = Some(Arc::new(Object::Unreadable(stand_in)));
        }
        rejection
    }
}

impl Rejection {
    /// What is wrong, in one line.
    pub fn message(&self) -> String {
        let shown = self.problems.iter().take(MAX_SHOWN);
        let mut shown: Vec<String> = shown.map(ToString::to_string).collect();
        if let Some(more @ 1..) = self.problems.len().checked_sub(MAX_SHOWN) {
            shown.push(format!("and {more} more"));
        }
        shown.join("; ")
    }
}

fn at(field: &str, message: impl Into<String>) -> Vec<FieldProblem> {
    vec![FieldProblem::new(FieldPath::of(field), message)]
}

/// A type of what stands at `path`.
fn typed<T: DeserializeOwned>(value: &Value, path: &FieldPath) -> Result<T, Vec<FieldProblem>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = path.join(&error.path().into());
        vec![FieldProblem::new(path, error.into_inner().to_string())]
    })
}

fn service_account(
    name: Option<&str>,
    field: &str,
    context: ReadContext<'_>,
) -> Result<(), Vec<FieldProblem>> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("default");
    Identity::new(context.trust_domain.clone(), "default", name)
        .map(drop)
        .map_err(|error| at(field, error.to_string()))
}
