//! The Kubernetes objects that daemons read from the mesh directory.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::pod::{Enrolment, PodSpec};

const MODE_LABEL: &str = "istio.io/dataplane-mode";

/// One object of the mesh directory.
#[derive(Clone, Debug)]
pub struct Manifest(Value);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtlsMode {
    Permissive,
    Strict,
}

/// A service in front of pods; its virtual addresses are the mesh's to choose.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    pub namespace: String,
    pub name: String,
    pub ports: Vec<(u16, u16)>,
    pub selector: (String, String),
}

impl ServiceSpec {
    /// A service called `namespace/name`, in front of the pods with the label `app: name`.
    pub fn new(path: &str) -> Self {
        let (namespace, name) = split(path);
        Self {
            selector: ("app".into(), name.clone()),
            namespace,
            name,
            ports: Vec::new(),
        }
    }

    #[must_use]
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push((port, target));
        self
    }

    #[must_use]
    pub fn select(mut self, label: &str, value: &str) -> Self {
        self.selector = (label.into(), value.into());
        self
    }
}

impl Manifest {
    pub fn new(object: Value) -> Self {
        Self(object)
    }

    /// A namespace whose pods are in the mesh, unless they say otherwise.
    pub fn namespace(name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": { MODE_LABEL: "ambient" } },
        }))
    }

    /// A namespace that says nothing about the mesh.
    pub fn unlabelled_namespace(name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name },
        }))
    }

    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": namespace },
        }))
    }

    pub fn pod(pod: &PodSpec, uid: &str, node: &str, addresses: &[IpAddr]) -> Self {
        let mode = match pod.enrolment {
            Enrolment::Enrolled | Enrolment::Claimed => Some("ambient"),
            Enrolment::Later | Enrolment::Outside => Some("none"),
            Enrolment::Undeclared => None,
        };
        let mut labels = json!({ "app": pod.name });
        if let Some(mode) = mode {
            labels[MODE_LABEL] = json!(mode);
        }
        for (label, value) in &pod.labels {
            labels[label] = json!(value);
        }
        let mut annotations = json!({});
        if mode == Some("ambient") {
            annotations["ambient.istio.io/redirection"] = json!("enabled");
        }
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod.name,
                "namespace": pod.namespace,
                "uid": uid,
                "labels": labels,
                "annotations": annotations,
            },
            "spec": {
                "nodeName": node,
                "serviceAccountName": pod.service_account,
                "containers": [{ "name": "app", "image": "app" }],
            },
            "status": {
                "phase": "Running",
                "podIP": addresses.first().map(|address| address["ip"].clone()),
                "podIPs": addresses,
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        }))
    }

    /// The same pod, told to end.
    #[must_use]
    pub fn terminating(mut self) -> Self {
        self.0["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.0["status"]["conditions"] = json!([{ "type": "Ready", "status": "False" }]);
        self
    }

    pub fn service(service: &ServiceSpec, vips: &[IpAddr]) -> Self {
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|(port, target)| {
                json!({ "name": format!("tcp-{port}"), "port": port, "targetPort": target, "protocol": "TCP" })
            })
            .collect();
        let (label, value) = &service.selector;
        Self(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": service.name, "namespace": service.namespace },
            "spec": {
                "clusterIP": vips.first(),
                "clusterIPs": vips,
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "PreferDualStack",
                "selector": { label: value },
                "ports": ports,
            },
        }))
    }

    /// A namespace-wide `PeerAuthentication`.
    pub fn peer_authentication(namespace: &str, mode: MtlsMode) -> Self {
        let mode = match mode {
            MtlsMode::Permissive => "PERMISSIVE",
            MtlsMode::Strict => "STRICT",
        };
        Self(json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": { "name": "default", "namespace": namespace },
            "spec": { "mtls": { "mode": mode } },
        }))
    }

    pub fn authorization_policy(namespace: &str, name: &str, spec: &Value) -> Self {
        Self(json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": name, "namespace": namespace },
            "spec": spec,
        }))
    }

    /// Where the mesh directory keeps this object.
    fn file_name(&self) -> String {
        let part = |pointer| self.0.pointer(pointer).and_then(Value::as_str);
        let parts = ["/kind", "/metadata/namespace", "/metadata/name"];
        let name: Vec<_> = parts.into_iter().filter_map(part).collect();
        format!("{}.yaml", name.join("-").to_lowercase())
    }
}

/// The directory that the file source of every daemon of a mesh watches.
#[derive(Clone, Debug)]
pub struct MeshDirectory {
    path: PathBuf,
}

impl MeshDirectory {
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates or replaces an object.
    pub fn apply(&self, manifest: &Manifest) -> Result<()> {
        let text = serde_norway::to_string(&manifest.0).context("write a manifest")?;
        self.write(&manifest.file_name(), &text)
    }

    pub fn remove(&self, manifest: &Manifest) -> Result<()> {
        self.remove_file(&manifest.file_name())
    }

    /// Writes a file as it is, whatever it holds, in one step.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        let unfinished = self.path.join(format!(".{file}.unfinished"));
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    pub fn remove_file(&self, file: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }
}

/// `namespace/name`; the namespace is `default` where there is none.
pub(crate) fn split(path: &str) -> (String, String) {
    let (namespace, name) = path.split_once('/').unwrap_or(("default", path));
    (namespace.into(), name.into())
}
