//! Nodes: a network namespace with a bridge for its pods, a link to the fabric, and a daemon.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{net::if_::if_nametoindex, sys::signal::Signal};
use serde_json::Value;
use tokio::{process::Command, sync::Mutex};

use crate::{
    addressing::{Addressing, PREFIXES},
    cgroup::{self, Cgroup},
    daemon::{self, Daemon},
    kernel::{has_ipv6, of_available_families},
    memory::Starvation,
    namespace::Netns,
    netlink::{DeadEnd, Netlink},
    pod::{Link, Pod},
    process::Process,
    run, sabotage, wait,
};

pub(crate) const POD_BRIDGE: &str = "pods";
/// What a node and a pod call the link that leads out.
pub(crate) const UPLINK: &str = "eth0";

pub struct Node {
    pub name: String,
    pub netns: Netns,
    /// Where the node's daemon keeps its files.
    pub directory: PathBuf,
    /// The directory of the node's cgroups, relative to the cgroup2 root.
    pub(crate) cgroups: PathBuf,
    /// Where the node's daemon pins what is in the kernel.
    pub pins: PathBuf,
    pub(crate) addressing: Addressing,
    daemon: Mutex<Option<Daemon>>,
    /// Those that have handed over, oldest first.
    former_daemons: Mutex<Vec<Daemon>>,
}

impl Node {
    pub(crate) async fn create(
        name: &str,
        addressing: Addressing,
        mesh: &str,
        directory: PathBuf,
    ) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let netns = Netns::create(&format!("{mesh}{name}"))?;
        netns.sysctl("net/ipv4/ip_forward", "1")?;
        if has_ipv6() {
            netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        without_address_detection(&netns)?;
        let node = Self {
            name: name.into(),
            netns,
            directory,
            pins: Path::new(run::BPFFS).join(format!("{mesh}{name}")),
            cgroups: Path::new(&format!("{mesh}cgroups")).join(name),
            addressing,
            daemon: Mutex::default(),
            former_daemons: Mutex::default(),
        };
        let links = Netlink::open(&node.netns)?;
        links.bring_up("lo").await?;
        links.add_bridge(POD_BRIDGE).await?;
        let gateways = node.addressing.gateways();
        for (address, prefix) in gateways.into_iter().zip(PREFIXES) {
            links.add_address(POD_BRIDGE, address, prefix).await?;
        }
        Ok(node)
    }

    /// The addresses of the node itself.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.addressing.node()
    }

    /// The index of a pod's interface on this node.
    pub fn pod_interface(&self, pod: &Pod) -> Result<u32> {
        let name = host_end(pod.v4);
        self.netns
            .run(|| if_nametoindex(name.as_str()))?
            .with_context(|| format!("find {name} on node {}", self.name))
    }

    /// The directory of the cgroups of everything on this node: of its pods and its daemon.
    pub fn cgroup(&self) -> Result<PathBuf> {
        Ok(cgroup::root()?.join(&self.cgroups))
    }

    /// Where the daemon expects the node's kubelet. Tests make it, if they have one.
    pub fn kubelet_cgroup(&self) -> Result<PathBuf> {
        Ok(self.cgroup()?.join("kubelet"))
    }

    /// Starts a process of the node itself, in the cgroup of this name.
    pub fn process(&self, cgroup: &str) -> Result<Process> {
        Process::start(&self.netns, &Cgroup::create(&self.cgroups.join(cgroup))?)
    }

    /// Where the node's daemon listens for the CLI and the CNI plugin.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("ztun.sock")
    }

    /// Where it listens for a successor.
    pub fn handover_socket(&self) -> PathBuf {
        self.directory.join("ztun.sock.handover")
    }

    /// The file with the daemon's configuration.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join("ztun.yaml")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("ztun.log")
    }
}

/// The node's network.
impl Node {
    /// Links a pod to the node, and gives it its addresses and routes.
    pub(crate) async fn link(
        &self,
        link: Link,
        pod: &Netns,
        (v4, v6): (Ipv4Addr, Ipv6Addr),
        mtu: Option<u32>,
    ) -> Result<()> {
        let (on_node, in_pod) = (Netlink::open(&self.netns)?, Netlink::open(pod)?);
        let addresses = of_available_families(v4, v6).into_iter();
        in_pod.bring_up("lo").await?;
        match link {
            Link::Veth => {
                let hardware = hardware_address(v4);
                on_node
                    .add_veth(&host_end(v4), POD_BRIDGE, UPLINK, pod, hardware)
                    .await?;
                if let Some(mtu) = mtu {
                    // The bridge follows the smallest of its ports.
                    on_node.set_mtu(&host_end(v4), mtu).await?;
                    in_pod.set_mtu(UPLINK, mtu).await?;
                }
                in_pod.bring_up(UPLINK).await?;
                for (address, prefix) in addresses.zip(PREFIXES) {
                    in_pod.add_address(UPLINK, address, prefix).await?;
                }
                for gateway in self.addressing.gateways() {
                    route_by(&in_pod, gateway).await?;
                }
            }
            Link::Netkit => {
                on_node.add_netkit(&host_end(v4), UPLINK, pod).await?;
                for (address, whole) in addresses.zip([32, 128]) {
                    in_pod.add_address(UPLINK, address, whole).await?;
                    in_pod.add_link_route(any(address), 0, UPLINK).await?;
                    on_node
                        .add_link_route(address, whole, &host_end(v4))
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// What is forwarded to `address` from now on ends here: see [`DeadEnd`].
    pub async fn dead_end(&self, address: IpAddr, kind: DeadEnd) -> Result<()> {
        Netlink::open(&self.netns)?
            .add_dead_end(address, kind)
            .await
    }
}

/// The node's daemon.
impl Node {
    pub(crate) fn configure(&self, configuration: &Value) -> Result<()> {
        fs::write(
            self.configuration(),
            serde_norway::to_string(configuration)?,
        )
        .context("write the daemon's configuration")
    }

    /// Starts the daemon and waits until it is ready.
    pub async fn start_daemon(&self) -> Result<()> {
        self.launch_daemon().await?;
        self.daemon_is_ready().await
    }

    /// Starts the daemon; answers before it is ready.
    pub async fn launch_daemon(&self) -> Result<()> {
        let mut slot = self.daemon.lock().await;
        ensure!(slot.is_none(), "node {} has a daemon already", self.name);
        *slot = Some(self.another_daemon()?);
        Ok(())
    }

    /// Starts one more daemon, which is not the node's: it is the caller's.
    pub fn another_daemon(&self) -> Result<Daemon> {
        let cgroup = Cgroup::create(&self.cgroups.join("daemon"))?;
        Daemon::start(
            &self.configuration(),
            &self.log_file(),
            &self.netns,
            &cgroup,
        )
    }

    /// Starts a daemon beside the running one, and waits until it has taken over and is ready.
    pub async fn upgrade_daemon(&self) -> Result<()> {
        let mut successor = self.another_daemon()?;
        successor
            .wait_until_it_listens(&self.handover_socket())
            .await?;
        successor.wait_until_ready(&self.netns).await?;
        let former = self.daemon.lock().await.replace(successor);
        self.former_daemons.lock().await.extend(former);
        Ok(())
    }

    /// Waits until every daemon that has handed over has ended by itself, and without an error.
    pub async fn former_daemons_end(&self) -> Result<()> {
        for daemon in self.former_daemons.lock().await.drain(..) {
            let mut daemon = daemon;
            ensure!(
                daemon.ended().await?,
                "a former daemon ended with an error\n{}",
                self.log()
            );
        }
        Ok(())
    }

    /// How many daemons have handed over and still run.
    pub async fn former_daemons(&self) -> usize {
        let mut former = self.former_daemons.lock().await;
        let running = former.iter_mut().map(Daemon::is_running);
        running.filter(|running| *running).count()
    }

    pub async fn daemon_is_ready(&self) -> Result<()> {
        let mut slot = self.daemon.lock().await;
        let daemon = slot.as_mut().context("no daemon runs")?;
        daemon
            .wait_until_ready(&self.netns)
            .await
            .with_context(|| format!("start the daemon of node {}", self.name))
    }

    /// Ends the daemon with SIGKILL, and waits until it is gone.
    pub async fn kill_daemon(&self) -> Result<()> {
        let mut daemon = self.take_daemon().await?;
        daemon.signal(Signal::SIGKILL)?;
        daemon.ended().await?;
        sabotage::of_tests(&self.pins)
    }

    /// Ends the daemon with a signal that it does not survive; answers how it ended.
    pub async fn crash_daemon(&self, signal: Signal) -> Result<ExitStatus> {
        let mut daemon = self.take_daemon().await?;
        daemon.signal(signal)?;
        let status = daemon.exit_status().await?;
        sabotage::of_tests(&self.pins)?;
        Ok(status)
    }

    /// Sends a signal that the daemon may survive.
    pub async fn signal_daemon(&self, signal: Signal) -> Result<()> {
        let slot = self.daemon.lock().await;
        slot.as_ref().context("no daemon runs")?.signal(signal)
    }

    /// Ends the daemon for want of memory; `false` where this machine can't take it away.
    pub async fn starve_daemon(&self) -> Result<bool> {
        let pid = self.daemon_pid().await?;
        let cgroup = Cgroup::create(&self.cgroups.join("daemon"))?;
        let name = self.cgroups.to_string_lossy().replace('/', "-");
        let Some(starvation) = Starvation::of(pid, &cgroup, &name)? else {
            return Ok(false);
        };
        let mut clients = Vec::new();
        wait::until("the kernel kills the daemon", async || {
            // Each takes memory, and keeps it.
            let opened = self.netns.run(|| daemon::unfinished_requests(50));
            clients.extend(opened);
            starvation.kills().is_ok_and(|kills| kills > 0)
        })
        .await?;
        self.take_daemon().await?.exit_status().await?;
        sabotage::of_tests(&self.pins)?;
        Ok(true)
    }

    /// Sends SIGTERM to the daemon, which goes on running until it has drained.
    pub async fn terminate_daemon(&self) -> Result<()> {
        self.signal_daemon(Signal::SIGTERM).await
    }

    /// Waits until the daemon has ended by itself, and without an error.
    pub async fn daemon_ends(&self) -> Result<()> {
        let mut daemon = self.take_daemon().await?;
        ensure!(daemon.ended().await?, "the daemon ended with an error");
        Ok(())
    }

    /// SIGTERM, wait, start, wait until ready.
    pub async fn restart_daemon(&self) -> Result<()> {
        self.terminate_daemon().await?;
        self.daemon_ends().await?;
        self.start_daemon().await
    }

    pub async fn daemon_pid(&self) -> Result<i32> {
        let slot = self.daemon.lock().await;
        Ok(slot.as_ref().context("no daemon runs")?.pid()?.as_raw())
    }

    /// What every daemon of this node has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The daemon's metrics, in the Prometheus text format.
    pub fn metrics(&self) -> Result<String> {
        self.http_get(daemon::METRICS, "/metrics")
    }

    /// The sum of the counters called `name` that have all these labels.
    pub fn counted(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let has = |series: &str, (label, value): &(&str, &str)| {
            let pair = format!("{label}=\"{value}\"");
            series.split(',').any(|own| own == pair)
        };
        let metrics = self.metrics()?;
        let counters = metrics.lines().filter_map(|line| {
            let (series, value) = line
                .strip_prefix(name)?
                .strip_prefix('{')?
                .split_once("} ")?;
            let wanted = labels.iter().all(|label| has(series, label));
            wanted.then(|| value.parse::<u64>().ok()).flatten()
        });
        Ok(counters.sum())
    }

    /// What the daemon says of its readiness: the HTTP status, and what is missing.
    pub fn readiness(&self) -> Result<(u16, String)> {
        daemon::http_get(&self.netns, daemon::READINESS, "/healthz/ready")
    }

    /// Runs the CLI with the daemon's socket.
    pub async fn ztun(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(daemon::binary()?)
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run ztun {}", arguments.join(" ")))
    }

    /// `ztun status -o json`.
    pub async fn status(&self) -> Result<Value> {
        let output = self.ztun(&["status", "-o", "json"]).await?;
        if !output.status.success() {
            bail!("ztun status: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("ztun status printed no JSON")
    }

    fn http_get(&self, address: SocketAddr, path: &str) -> Result<String> {
        let (code, body) = daemon::http_get(&self.netns, address, path)?;
        ensure!(
            code == 200,
            "GET {path} on node {}: {code} {body}",
            self.name
        );
        Ok(body)
    }

    async fn take_daemon(&self) -> Result<Daemon> {
        let mut slot = self.daemon.lock().await;
        slot.take()
            .with_context(|| format!("node {} has no daemon", self.name))
    }
}

/// Routes everything of the gateway's family by way of it.
pub(crate) async fn route_by(netlink: &Netlink, gateway: IpAddr) -> Result<()> {
    netlink.add_route(any(gateway), 0, gateway).await
}

/// Every address of the family.
fn any(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The same for each pod with this address, so that neighbours need not notice when one follows another.
fn hardware_address(pod: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = pod.octets();
    [0x02, 0x00, a, b, c, d]
}

/// The name of a pod's interface on its node.
pub(crate) fn host_end(pod: Ipv4Addr) -> String {
    format!("veth{}", pod.octets()[3])
}

/// Addresses are usable at once: nobody else can have them.
pub(crate) fn without_address_detection(netns: &Netns) -> Result<()> {
    if !has_ipv6() {
        return Ok(());
    }
    for interfaces in ["all", "default"] {
        netns.sysctl(&format!("net/ipv6/conf/{interfaces}/accept_dad"), "0")?;
    }
    Ok(())
}
