//! A mesh: nodes, a fabric between them, pods, services, and the directory that describes them.

mod builder;

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::{
    capture::Capture,
    cgroup::{self, Cgroup},
    cni::{self, CniCommand, When},
    daemon,
    fabric::Fabric,
    far::{FarNode, FarPod},
    kernel::of_available_families,
    manifest::{Manifest, MeshDirectory, MtlsMode},
    namespace::Netns,
    netlink::Netlink,
    node::{Node, host_end, without_address_detection},
    pod::{Enrolment, Pod, PodSpec, Users},
    run, sabotage,
    service::Service,
};

pub use self::builder::MeshBuilder;

/// A running mesh. Dropping it ends its processes and removes everything that it put on the machine.
pub struct Mesh {
    name: String,
    pub directory: MeshDirectory,
    services: Vec<Service>,
    pods: Vec<Pod>,
    nodes: Vec<Node>,
    far: Vec<FarNode>,
    fabric: Fabric,
    mtu: Option<u32>,
    // Dropped last: removes what the fields above name.
    _owned: Owned,
}

/// The UID of a pod that takes the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uid {
    /// The same pod in another sandbox.
    Kept,
    /// Another pod of the same name.
    New,
}

struct Owned(String);

impl Mesh {
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// The prefix of everything that this mesh puts on the machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// # Panics
    /// When there is no such node: the test names one that it has not built.
    pub fn node(&self, name: &str) -> &Node {
        let node = self.nodes.iter().find(|node| node.name == name);
        node.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// # Panics
    /// When there is no pod `namespace/name`.
    pub fn pod(&self, path: &str) -> &Pod {
        let pod = self.pods.iter().find(|pod| pod.path() == path);
        pod.unwrap_or_else(|| panic!("there is no pod {path}"))
    }

    /// # Panics
    /// When there is no service `namespace/name`.
    pub fn service(&self, path: &str) -> &Service {
        let service = self.services.iter().find(|service| service.path() == path);
        service.unwrap_or_else(|| panic!("there is no service {path}"))
    }

    /// A pod on another machine.
    ///
    /// # Panics
    /// When no other machine has a pod `namespace/name`.
    pub fn far_pod(&self, path: &str) -> &FarPod {
        let pod = self.far_pods().find(|pod| pod.spec.path() == path);
        pod.unwrap_or_else(|| panic!("no other machine has a pod {path}"))
    }

    /// The node that `pod` is on.
    pub fn node_of(&self, pod: &Pod) -> &Node {
        self.node(&pod.spec.node)
    }

    /// Starts every daemon, and enrols the pods that are to be enrolled.
    pub(crate) async fn start(&self) -> Result<()> {
        try_join_all(self.nodes.iter().map(Node::start_daemon)).await?;
        for pod in &self.pods {
            if pod.spec.enrolment == Enrolment::Enrolled {
                self.add_to_daemon(pod, When::InMesh).await?;
            }
        }
        Ok(())
    }

    /// Starts to record what crosses the network between the nodes.
    pub fn capture(&self) -> Result<Capture> {
        self.fabric.capture()
    }

    /// Creates or replaces an object of the mesh directory.
    pub fn apply(&self, manifest: &Manifest) -> Result<()> {
        self.directory.apply(manifest)
    }

    pub fn set_mtls(&self, namespace: &str, mode: MtlsMode) -> Result<()> {
        self.apply(&Manifest::peer_authentication(namespace, mode))
    }

    /// Adds a pod to the network, but neither to the mesh directory nor to the daemon.
    pub async fn add_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let pod = self.create_pod(spec, None).await.context("create a pod")?;
        self.pods.push(pod);
        self.pods.last().context("a mesh without pods")
    }

    /// Puts a pod of the same name in the place of one, with a sandbox and addresses of its own. Answers the
    /// former, which runs until it is dropped; neither the daemon nor the mesh directory hears of it.
    pub async fn replace_pod(&mut self, path: &str, uid: Uid) -> Result<Pod> {
        let former = self.pod(path);
        let (spec, former_uid) = (former.spec.clone(), former.uid.clone());
        let mut successor = self.create_pod(spec, None).await?;
        if uid == Uid::Kept {
            successor.uid = former_uid;
        }
        let at = self.pods.iter().position(|pod| pod.path() == path);
        let former = at.map(|at| &mut self.pods[at]).context("no such pod")?;
        Ok(mem::replace(former, successor))
    }

    /// Adds a pod to the network that has the addresses of one that was there before.
    pub async fn add_pod_at(
        &mut self,
        spec: PodSpec,
        addresses: (Ipv4Addr, Ipv6Addr),
    ) -> Result<&Pod> {
        let pod = self.create_pod(spec, Some(addresses)).await?;
        self.pods.push(pod);
        self.pods.last().context("a mesh without pods")
    }

    /// Removes a pod from the daemon and the network; its object stays in the mesh directory.
    pub async fn remove_pod(&mut self, path: &str) -> Result<()> {
        let pod = self.pod(path);
        if pod.is_enrolled() {
            self.remove_from_daemon(pod).await?;
        }
        self.lose_pod(path).await
    }

    /// Removes a pod from the network alone: neither the daemon nor the mesh directory hears of it.
    pub async fn lose_pod(&mut self, path: &str) -> Result<()> {
        let at = self.pods.iter().position(|pod| pod.path() == path);
        let pod = self
            .pods
            .remove(at.with_context(|| format!("there is no pod {path}"))?);
        cgroup::remove_tree(pod.cgroup.path())?;
        // The kernel removes it in its own time, and a pod with the same address has a link of the same name.
        let links = Netlink::open(&self.node_of(&pod).netns)?;
        links.remove_link(&host_end(pod.v4)).await?;
        run::remove_netns(pod.netns.path())
    }

    /// Enrols a pod as a container runtime does, and says so in the mesh directory.
    pub async fn enrol(&self, path: &str) -> Result<()> {
        let pod = self.pod(path);
        let mut spec = pod.spec.clone();
        spec.enrolment = Enrolment::Enrolled;
        self.apply(&manifest_of(pod, &spec))?;
        // The daemon may not have read the mesh directory yet.
        self.add_to_daemon(pod, When::Always).await
    }

    /// Takes a pod out of the mesh, but leaves it running.
    pub async fn unenrol(&self, path: &str) -> Result<()> {
        let pod = self.pod(path);
        let mut spec = pod.spec.clone();
        spec.enrolment = Enrolment::Later;
        self.apply(&manifest_of(pod, &spec))?;
        self.remove_from_daemon(pod).await
    }

    /// The object that describes `pod` in the mesh directory.
    pub fn manifest_of(&self, path: &str) -> Manifest {
        let pod = self.pod(path);
        manifest_of(pod, &pod.spec)
    }

    /// Calls the CNI plugin for a pod, whatever the mesh directory says of it.
    pub async fn cni(&self, command: CniCommand, pod: &Pod) -> Result<Option<Value>> {
        self.cni_when(command, When::Always, pod).await
    }

    /// Calls the CNI plugin for a pod, with the socket of its node's daemon.
    pub async fn cni_when(
        &self,
        command: CniCommand,
        when: When,
        pod: &Pod,
    ) -> Result<Option<Value>> {
        cni::call(command, when, pod, &self.node_of(pod).socket()).await
    }

    async fn add_to_daemon(&self, pod: &Pod, when: When) -> Result<()> {
        self.cni_when(CniCommand::Add, when, pod).await?;
        pod.enrolled.store(true, Ordering::Relaxed);
        sabotage::of_tests(&self.node_of(pod).pins)
    }

    async fn remove_from_daemon(&self, pod: &Pod) -> Result<()> {
        self.cni(CniCommand::Del, pod).await?;
        pod.enrolled.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn create_pod(
        &self,
        mut spec: PodSpec,
        addresses: Option<(Ipv4Addr, Ipv6Addr)>,
    ) -> Result<Pod> {
        if spec.node.is_empty() {
            let first = self.nodes.first().context("the mesh has no node")?;
            spec.node.clone_from(&first.name);
        }
        let node = self.node(&spec.node);
        let same_name = |pod: &&Pod| pod.path() == spec.path();
        let path = match self.pods.iter().filter(same_name).count() {
            0 => spec.hyphenated(),
            _ => format!("{}-successor", spec.hyphenated()),
        };
        let name = run::pod_namespace(&self.name, &path);
        // A daemon looks for it on the whole machine; on two machines, both must know it.
        let uid = match &self.far[..] {
            [] => format!("{}{path}", self.name),
            _ => path.clone(),
        };
        let cgroup = if spec.in_kubelet_cgroup {
            format!("pod{uid}")
        } else {
            path
        };
        let cgroup = Cgroup::create(&node.cgroups.join("kubepods").join(cgroup))?;
        let (netns, users) = match spec.users {
            Users::Host => (Netns::create(&name)?, None),
            Users::Own => {
                let (netns, users) = Netns::create_with_users(&name)?;
                (netns, Some(users))
            }
        };
        without_address_detection(&netns)?;
        let (v4, v6) = addresses.unwrap_or_else(|| node.addressing.next_pod());
        node.link(spec.link, &netns, (v4, v6), self.mtu).await?;
        Pod::new(spec, uid, (v4, v6), netns, users, cgroup)
    }

    /// The addresses of a node, be it here or on another machine.
    pub(crate) fn addresses_of(&self, node: &str) -> Vec<IpAddr> {
        let here = self.nodes.iter().map(|node| (&node.name, &node.addressing));
        let far = self.far.iter().map(|node| (&node.name, &node.addressing));
        let mut all = here.chain(far);
        let found = all.find(|(name, _)| *name == node);
        found.map_or_else(Vec::new, |(_, addressing)| addressing.node())
    }

    fn far_pods(&self) -> impl Iterator<Item = &FarPod> {
        self.far.iter().flat_map(|node| &node.pods)
    }

    /// Writes the mesh directory.
    fn describe(&self, manifests: &[Manifest]) -> Result<()> {
        let here = self.pods.iter();
        let here = here.map(|pod| (&pod.spec, manifest_of(pod, &pod.spec)));
        let far = self.far_pods();
        let far = far.map(|pod| (&pod.spec, pod.manifest()));
        for (spec, manifest) in here.chain(far) {
            if spec.enrolment == Enrolment::Outside {
                continue;
            }
            self.apply(&Manifest::namespace(&spec.namespace))?;
            let account = &spec.service_account;
            self.apply(&Manifest::service_account(&spec.namespace, account))?;
            self.apply(&manifest)?;
        }
        for service in &self.services {
            let vips = of_available_families(service.v4, service.v6);
            self.apply(&Manifest::service(&service.spec, &vips))?;
        }
        manifests.iter().try_for_each(|object| self.apply(object))
    }

    fn configuration(
        &self,
        node: &Node,
        files: &Path,
        settings: &[(String, Value)],
    ) -> Result<Value> {
        let mut configuration = json!({
            "nodeName": node.name,
            "trustDomain": "cluster.local",
            "meshDirectory": self.directory.path(),
            "caDirectory": ca_directory(files),
            "stateDirectory": node.directory.join("state"),
            "socket": node.socket(),
            "bpfDirectory": node.pins,
            "kubeletCgroup": node.kubelet_cgroup()?,
            "readinessAddress": daemon::READINESS,
            "metricsAddress": daemon::METRICS,
            "logFilter": "info,ztun=debug",
        });
        if let Some(interval) = sabotage::verify_interval() {
            configuration["verifyInterval"] = json!(interval);
        }
        for (path, value) in settings {
            let keys = path.split('.');
            *keys.fold(&mut configuration, |at, key| &mut at[key]) = value.clone();
        }
        Ok(configuration)
    }

    /// The directory of the certificate authority that the daemons share.
    pub fn ca_directory(&self) -> PathBuf {
        ca_directory(&run::files(&self.name))
    }

    /// Where tests keep files that go with the mesh.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = run::files(&self.name).join("scratch").join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- log of node {} ---\n{}", node.name, node.log());
            }
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = run::remove(&self.0) {
            eprintln!("cleaning up after a mesh failed: {error:#}");
        }
    }
}

fn manifest_of(pod: &Pod, spec: &PodSpec) -> Manifest {
    Manifest::pod(spec, &pod.uid, &spec.node, &pod.addresses())
}

fn ca_directory(files: &Path) -> PathBuf {
    files.join("ca")
}

/// Fails unless nothing is left of the mesh called `name`.
pub fn ensure_nothing_left(name: &str) -> Result<()> {
    let left = run::owned(name);
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
