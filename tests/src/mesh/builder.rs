//! What a mesh is to be, and making it so.

use anyhow::{Result, bail};
use serde_json::Value;

use super::{Mesh, Owned};
use crate::{
    addressing::Addressing,
    fabric::Fabric,
    far::FarNode,
    kernel::Feature,
    manifest::{Manifest, MeshDirectory, MtlsMode, ServiceSpec},
    node::Node,
    pod::PodSpec,
    run::{self, Run},
    service::Service,
};

/// A mesh that is to be.
#[derive(Clone, Debug, Default)]
pub struct MeshBuilder {
    nodes: Vec<String>,
    pods: Vec<PodSpec>,
    services: Vec<ServiceSpec>,
    manifests: Vec<Manifest>,
    settings: Vec<(String, Value)>,
    mtu: Option<u32>,
    pub(crate) programs: Vec<String>,
    features: Vec<Feature>,
    /// The only node that this machine has; another machine has each other one.
    pub(crate) here: Option<String>,
}

impl MeshBuilder {
    #[must_use]
    pub fn nodes<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.nodes.extend(names.into_iter().map(str::to_owned));
        self
    }

    #[must_use]
    pub fn pod(mut self, pod: PodSpec) -> Self {
        self.pods.push(pod);
        self
    }

    #[must_use]
    pub fn service(mut self, service: ServiceSpec) -> Self {
        self.services.push(service);
        self
    }

    #[must_use]
    pub fn peer_authentication(mut self, namespace: &str, mode: MtlsMode) -> Self {
        let manifest = Manifest::peer_authentication(namespace, mode);
        self.manifests.push(manifest);
        self
    }

    /// Adds an object to the mesh directory.
    #[must_use]
    pub fn manifest(mut self, manifest: Manifest) -> Self {
        self.manifests.push(manifest);
        self
    }

    /// Sets a key of every daemon's configuration, such as `timeouts.drain`.
    #[must_use]
    pub fn setting(mut self, path: &str, value: Value) -> Self {
        self.settings.push((path.into(), value));
        self
    }

    /// Sets the MTU of the pods' links, and of those between the nodes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Names a program that the test starts: where it is not installed, the test can't run.
    #[must_use]
    pub fn needs(mut self, program: &str) -> Self {
        self.programs.push(program.into());
        self
    }

    /// Names something of the kernel without which the test can't run.
    #[must_use]
    pub fn needs_kernel(mut self, feature: Feature) -> Self {
        self.features.push(feature);
        self
    }

    /// What it and its pods take of the kernel.
    pub(crate) fn features(&self) -> impl Iterator<Item = Feature> {
        let of_pods = self.pods.iter().flat_map(PodSpec::features);
        self.features.iter().copied().chain(of_pods)
    }

    /// Builds the network, the pods and the mesh directory, and writes the daemons' configuration; starts none.
    pub async fn build(self) -> Result<Mesh> {
        let name = Run::current()?.mesh_name();
        let owned = Owned(name.clone());
        let files = run::files(&name);
        let directory = MeshDirectory::create(files.join("mesh"))?;
        let (mut nodes, mut far) = (Vec::new(), Vec::new());
        for (number, node) in (1..).zip(&self.nodes) {
            let addressing = Addressing::new(number);
            if self.here.as_ref().is_none_or(|here| here == node) {
                nodes.push(Node::create(node, addressing, &name, files.join(node)).await?);
            } else {
                far.push(FarNode::new(node, addressing));
            }
        }
        let fabric = match (&self.here, &nodes[..]) {
            (Some(_), [here]) => Fabric::plug_in(here, &far, self.mtu).await?,
            (Some(here), _) => bail!("the mesh has no node {here}"),
            (None, nodes) => Fabric::connect(&name, nodes, self.mtu).await?,
        };
        let mut mesh = Mesh {
            name,
            directory,
            services: (1..).zip(self.services).map(Service::new).collect(),
            pods: Vec::new(),
            nodes,
            far,
            fabric,
            mtu: self.mtu,
            _owned: owned,
        };
        for pod in self.pods {
            match mesh.far.iter_mut().find(|far| far.name == pod.node) {
                Some(far) => far.add_pod(pod),
                None => drop(mesh.add_pod(pod).await?),
            }
        }
        mesh.describe(&self.manifests)?;
        for node in &mesh.nodes {
            node.configure(&mesh.configuration(node, &files, &self.settings)?)?;
        }
        Ok(mesh)
    }

    /// Builds the mesh, starts every daemon, and enrols the pods that are to be enrolled.
    pub async fn start(self) -> Result<Mesh> {
        let mesh = self.build().await?;
        mesh.start().await?;
        Ok(mesh)
    }
}
