//! The network between the nodes: a bridge in a namespace of its own, where traffic can be captured.

use anyhow::Result;

use crate::{
    capture::Capture,
    kernel::has_ipv6,
    namespace::Netns,
    netlink::Netlink,
    node::{Node, PREFIXES, UPLINK},
};

const BRIDGE: &str = "fabric";

pub(crate) struct Fabric {
    netns: Netns,
}

impl Fabric {
    /// Connects the nodes, and routes each one's pod networks to it.
    pub(crate) async fn connect(mesh: &str, nodes: &[Node]) -> Result<Self> {
        let netns = Netns::create(&format!("{mesh}fabric"))?;
        if has_ipv6() {
            netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        }
        let links = Netlink::open(&netns)?;
        links.add_bridge(BRIDGE).await?;
        for (number, node) in (0..).zip(nodes) {
            let port = format!("node{number}");
            let address = [0x02, 0x00, 0x00, 0x00, 0x00, number];
            links
                .add_veth(&port, BRIDGE, UPLINK, &node.netns, address)
                .await?;
        }
        for node in nodes {
            let uplink = Netlink::open(&node.netns)?;
            uplink.bring_up(UPLINK).await?;
            for (address, prefix) in node.addresses().into_iter().zip(PREFIXES) {
                uplink.add_address(UPLINK, address, prefix).await?;
            }
            for other in nodes.iter().filter(|other| other.name != node.name) {
                let routes = other.pod_networks().zip(other.addresses());
                for ((network, prefix), gateway) in routes {
                    uplink.add_route(network, prefix, gateway).await?;
                }
            }
        }
        Ok(Self { netns })
    }

    /// Starts to record what crosses the network between the nodes.
    pub(crate) fn capture(&self) -> Result<Capture> {
        Capture::start(&self.netns)
    }
}
