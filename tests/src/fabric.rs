//! The network between the nodes, where traffic can be captured: a bridge in a namespace of its own, or
//! the machine's network card, which leads to another machine.

use anyhow::{Context, Result};

use crate::{
    addressing::{Addressing, PREFIXES},
    capture::{Capture, Links},
    far::FarNode,
    kernel::has_ipv6,
    namespace::Netns,
    netlink::Netlink,
    node::{Node, UPLINK},
    wait,
};

const BRIDGE: &str = "fabric";

pub(crate) struct Fabric {
    /// Where a capture sees what crosses.
    netns: Netns,
    links: Links,
}

impl Fabric {
    /// Connects the nodes, and routes each one's pod networks to it.
    pub(crate) async fn connect(mesh: &str, nodes: &[Node], mtu: Option<u32>) -> Result<Self> {
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
            if let Some(mtu) = mtu {
                links.set_mtu(&port, mtu).await?;
            }
        }
        for node in nodes {
            let others = nodes.iter().filter(|other| other.name != node.name);
            bring_up(node, others.map(|other| &other.addressing), mtu).await?;
        }
        Ok(Self {
            netns,
            links: Links::All,
        })
    }

    /// Gives the node the machine's network card, and routes the far nodes' pod networks to them.
    pub(crate) async fn plug_in(node: &Node, far: &[FarNode], mtu: Option<u32>) -> Result<Self> {
        let machine = Netns::own()?;
        let links = Netlink::open(&machine)?;
        // The kernel calls a machine's first card as nodes call their uplink. It comes back when the
        // namespace of the mesh before is gone, which the kernel does in its own time.
        wait::until("this machine has a network card", async || {
            links.has(UPLINK)
        })
        .await?;
        links.move_to(UPLINK, &node.netns).await?;
        let others = far.iter().map(|far| &far.addressing);
        bring_up(node, others, mtu).await.context("plug in")?;
        Ok(Self {
            netns: node.netns.clone(),
            links: Links::Only(UPLINK),
        })
    }

    /// Starts to record what crosses the network between the nodes.
    pub(crate) fn capture(&self) -> Result<Capture> {
        Capture::start(&self.netns, self.links)
    }
}

/// Configures the node's uplink, by which it reaches the others.
async fn bring_up<'a>(
    node: &Node,
    others: impl Iterator<Item = &'a Addressing>,
    mtu: Option<u32>,
) -> Result<()> {
    let links = Netlink::open(&node.netns)?;
    if let Some(mtu) = mtu {
        links.set_mtu(UPLINK, mtu).await?;
    }
    links.bring_up(UPLINK).await?;
    for (address, prefix) in node.addresses().into_iter().zip(PREFIXES) {
        links.add_address(UPLINK, address, prefix).await?;
    }
    for other in others {
        let routes = other.pod_networks().zip(other.node());
        for ((network, prefix), gateway) in routes {
            links.add_route(network, prefix, gateway).await?;
        }
    }
    Ok(())
}
