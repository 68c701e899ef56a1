//! Addresses and interfaces that pods gain and lose while they run.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use crate::{
    Family, Mesh,
    manifest::Manifest,
    netlink::Netlink,
    node::{POD_BRIDGE, host_end, route_by},
    pod::Pod,
    wait,
};

const INTERFACE: &str = "eth0";

impl Pod {
    /// An address in the pod's networks, which are all that its node forwards to it.
    pub fn address_with_host(&self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 | Family::V4Mapped => {
                let [a, b, c, _] = self.v4.octets();
                IpAddr::from([a, b, c, host])
            }
            Family::V6 => {
                let mut words = self.v6.segments();
                words[7] = host.into();
                IpAddr::from(words)
            }
        }
    }

    pub async fn add_address(&self, address: IpAddr) -> Result<()> {
        let netlink = Netlink::open(&self.netns)?;
        netlink
            .add_address(INTERFACE, address, prefix(address))
            .await
    }

    /// Adds an address that the kernel tries to find another owner of.
    pub async fn add_detected_address(&self, address: IpAddr) -> Result<()> {
        self.netns
            .sysctl(&format!("net/ipv6/conf/{INTERFACE}/accept_dad"), "1")?;
        let netlink = Netlink::open(&self.netns)?;
        netlink
            .add_detected_address(INTERFACE, address, prefix(address))
            .await
    }

    pub async fn remove_address(&self, address: IpAddr) -> Result<()> {
        let netlink = Netlink::open(&self.netns)?;
        netlink
            .remove_address(INTERFACE, address, prefix(address))
            .await
    }

    /// Connects as an application does that has bound its socket to one of the pod's addresses.
    pub async fn connect_from(&self, source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.tcp_socket(to)?;
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(to).await
    }
}

impl Mesh {
    /// Says in the mesh directory that a pod has these addresses.
    pub fn announce(&self, path: &str, addresses: &[IpAddr]) -> Result<()> {
        let pod = self.pod(path);
        let object = Manifest::pod(&pod.spec, &pod.uid, &pod.spec.node, addresses);
        self.apply(&object)
    }

    /// Gives a pod its default route back, which the kernel takes away with the last address of IPv4.
    pub async fn add_default_route(&self, pod: &Pod, family: Family) -> Result<()> {
        let gateways = self.node_of(pod).addressing.gateways();
        let mut gateways = gateways.into_iter();
        let gateway = gateways.find(|ip| ip.is_ipv4() == (family != Family::V6));
        let netlink = Netlink::open(&pod.netns)?;
        route_by(&netlink, gateway.context("the node has no gateway")?).await
    }

    /// Gives a pod another interface on its node's bridge, with no address but a link-local one.
    pub async fn add_interface(&self, path: &str, name: &str) -> Result<()> {
        const HARDWARE_ADDRESS: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
        let pod = self.pod(path);
        let (node_end, on_node) = (
            format!("{}{name}", host_end(pod.v4)),
            &self.node_of(pod).netns,
        );
        Netlink::open(on_node)?
            .add_veth(&node_end, POD_BRIDGE, name, &pod.netns, HARDWARE_ADDRESS)
            .await?;
        Netlink::open(&pod.netns)?.bring_up(name).await
    }

    /// Waits until the daemon captures a pod with exactly these addresses.
    pub async fn captures(&self, path: &str, addresses: &[IpAddr]) -> Result<()> {
        let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let what = format!("{path} is captured with {addresses:?}");
        wait::until(what, async || {
            let shown = self.shown(path).await;
            shown.is_ok_and(|(shown, state)| shown == wanted && state == "captured")
        })
        .await
    }

    /// The addresses and the state of capture that the daemon shows of an enrolled pod.
    pub async fn shown(&self, path: &str) -> Result<(BTreeSet<IpAddr>, String)> {
        let pod = self.pod(path);
        let status = self.node_of(pod).status().await?;
        let pods = status["pods"].as_array().context("no pods")?;
        let of_pod = pods
            .iter()
            .find(|shown| {
                shown["pod"]["name"] == *pod.spec.name
                    && shown["pod"]["namespace"] == *pod.spec.namespace
            })
            .with_context(|| format!("{path} is not in {status}"))?;
        Ok((
            serde_json::from_value(of_pod["addresses"].clone())?,
            serde_json::from_value(of_pod["capture"]["state"].clone())?,
        ))
    }
}

/// As long as that of the pod's first address.
fn prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 24,
        IpAddr::V6(_) => 64,
    }
}
