//! Pods: a network namespace with an address of each family, and a cgroup.

use std::{
    ffi::OsStr,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    process::Command,
};

use crate::{
    app::App,
    cgroup::Cgroup,
    kernel::{Feature, has_ipv6, of_available_families},
    manifest::split,
    namespace::{Netns, confine},
    process,
    sockets::SocketMaker,
    users::UserNamespace,
};

const BACKLOG: i32 = 4096;

/// How a pod takes part in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enrolment {
    /// The mesh directory says that it is enrolled, and the CNI plugin has enrolled it.
    #[default]
    Enrolled,
    /// The mesh directory says that it is enrolled, but nobody has enrolled it.
    Claimed,
    /// The mesh directory knows it as not enrolled; a test may enrol it.
    Later,
    /// The pod says nothing in the mesh directory: its namespace's label counts. A test may enrol it.
    Undeclared,
    /// The mesh directory does not know it at all.
    Outside,
}

/// An address family as applications see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// An IPv6 socket that connects to `::ffff:a.b.c.d`.
    V4Mapped,
}

/// Whose users a pod has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Users {
    /// The node's.
    #[default]
    Host,
    /// Its own (`hostUsers: false`): its network namespace belongs to its user namespace, and root there is
    /// nobody on the node.
    Own,
}

/// How a pod is linked to its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// A veth pair, one end of which is on the node's bridge.
    #[default]
    Veth,
    /// A netkit pair in its mode for routing, without hardware addresses and neighbours.
    Netkit,
}

/// A pod that is to be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub service_account: String,
    pub labels: Vec<(String, String)>,
    pub enrolment: Enrolment,
    pub users: Users,
    pub link: Link,
    pub(crate) in_kubelet_cgroup: bool,
}

pub struct Pod {
    pub spec: PodSpec,
    /// Its UID in the mesh directory and towards the CNI plugin.
    pub uid: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub netns: Netns,
    pub cgroup: Cgroup,
    pub(crate) enrolled: AtomicBool,
    sockets: SocketMaker,
}

impl Family {
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::V4Mapped];

    /// Those that this kernel has: IPv4 alone where it was booted with `ipv6.disable=1`.
    pub fn available() -> &'static [Self] {
        if has_ipv6() { &Self::ALL } else { &[Self::V4] }
    }

    /// The address that a socket of this family connects to.
    pub fn address(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
            Self::V4Mapped => v4.to_ipv6_mapped().into(),
        }
    }
}

impl PodSpec {
    /// A pod called `namespace/name`, with the label `app: name` and the service account `name`.
    pub fn new(path: &str) -> Self {
        let (namespace, name) = split(path);
        Self {
            namespace,
            node: String::new(),
            service_account: name.clone(),
            name,
            labels: Vec::new(),
            enrolment: Enrolment::default(),
            users: Users::default(),
            link: Link::default(),
            in_kubelet_cgroup: false,
        }
    }

    /// `namespace/name`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// A name for what the pod has on the machine.
    pub(crate) fn hyphenated(&self) -> String {
        format!("{}-{}", self.namespace, self.name)
    }

    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = node.into();
        self
    }

    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.service_account = name.into();
        self
    }

    #[must_use]
    pub fn label(mut self, label: &str, value: &str) -> Self {
        self.labels.push((label.into(), value.into()));
        self
    }

    /// Its cgroup is named after its UID, as kubelet does it: a daemon can find the pod by itself.
    #[must_use]
    pub fn in_kubelet_cgroup(mut self) -> Self {
        self.in_kubelet_cgroup = true;
        self
    }

    #[must_use]
    pub fn enrolment(mut self, enrolment: Enrolment) -> Self {
        self.enrolment = enrolment;
        self
    }

    #[must_use]
    pub fn users(mut self, users: Users) -> Self {
        self.users = users;
        self
    }

    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// What it takes of the kernel.
    pub(crate) fn features(&self) -> impl Iterator<Item = Feature> {
        let users = (self.users == Users::Own).then_some(Feature::UserNamespaces);
        let link = (self.link == Link::Netkit).then_some(Feature::Netkit);
        users.into_iter().chain(link)
    }
}

impl Pod {
    pub(crate) fn new(
        spec: PodSpec,
        uid: String,
        (v4, v6): (Ipv4Addr, Ipv6Addr),
        netns: Netns,
        users: Option<UserNamespace>,
        cgroup: Cgroup,
    ) -> Result<Self> {
        let sockets = SocketMaker::start(&netns, &cgroup, users)?;
        Ok(Self {
            spec,
            uid,
            v4,
            v6,
            netns,
            cgroup,
            enrolled: AtomicBool::new(false),
            sockets,
        })
    }

    /// `namespace/name`.
    pub fn path(&self) -> String {
        self.spec.path()
    }

    /// The SPIFFE ID that its certificate must have.
    pub fn identity(&self) -> String {
        format!(
            "spiffe://cluster.local/ns/{}/sa/{}",
            self.spec.namespace, self.spec.service_account
        )
    }

    /// As policies call its identity.
    pub fn principal(&self) -> String {
        self.identity().trim_start_matches("spiffe://").to_owned()
    }

    pub fn is_enrolled(&self) -> bool {
        self.enrolled.load(Ordering::Relaxed)
    }

    /// One of each family that the kernel has.
    pub fn addresses(&self) -> Vec<IpAddr> {
        of_available_families(self.v4, self.v6)
    }

    /// Where a client reaches `port` of this pod.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(family.address(self.v4, self.v6), port)
    }

    /// Which of the machine's users makes its sockets.
    pub fn user(&self) -> Result<u32> {
        self.sockets.user()
    }

    /// A socket that belongs to the pod.
    pub fn socket(
        &self,
        domain: Domain,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> io::Result<Socket> {
        self.sockets.socket(domain, kind, protocol)
    }

    /// A TCP socket for connections to `to`, non-blocking, neither bound nor connected.
    pub fn tcp_socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        process::tcp_socket(&self.sockets, to)
    }

    /// Connects as an application in the pod does.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        process::connect(&self.sockets, to).await
    }

    /// Connects to where it must not get; answers how that ends, or `None` for an end without an error.
    ///
    /// The proxy takes a captured connection before it knows: then `connect()` succeeds, and a reset follows.
    pub async fn failure(&self, to: SocketAddr) -> Option<io::ErrorKind> {
        process::failure(&self.sockets, to).await
    }

    /// Listens on `port` of every address of the pod, both families.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let any: IpAddr = if has_ipv6() {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let any = SocketAddr::new(any, port);
        let socket = self.socket(Domain::for_address(any), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if any.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&any.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    }

    /// A UDP socket bound to `at`.
    pub fn udp(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.socket(Domain::for_address(at), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// A socket that sends and receives ICMP messages (of `ICMPv6` for an IPv6 address), connected to `to`.
    pub fn icmp(&self, to: IpAddr) -> io::Result<UdpSocket> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = self.socket(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        UdpSocket::from_std(socket.into())
    }

    /// Serves every connection to `port` with `handle`, until the answer is dropped.
    pub fn serve<F, Served>(&self, port: u16, handle: F) -> io::Result<App>
    where
        F: Fn(TcpStream, SocketAddr) -> Served + Send + Sync + 'static,
        Served: Future<Output = io::Result<()>> + Send + 'static,
    {
        App::start(self.listen(port)?, Arc::new(handle))
    }

    /// A program in the pod, with nothing on its standard input, that is killed when it is dropped.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        ensure!(
            self.spec.users == Users::Host,
            "programs can't be started in a pod with users of its own"
        );
        let mut command = std::process::Command::new(program);
        confine(&mut command, &self.netns, &self.cgroup)?;
        let mut command = Command::from(command);
        command.kill_on_drop(true).stdin(Stdio::null());
        Ok(command)
    }
}
