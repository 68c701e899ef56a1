//! Links, addresses and routes of one network namespace.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::link::{InfoData, InfoVeth},
};

use crate::namespace::Netns;

pub struct Netlink {
    netns: Netns,
    handle: Handle,
}

impl Netlink {
    /// Opens a netlink socket in `netns`.
    pub fn open(netns: &Netns) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = netns
            .run(|| {
                let _runtime = runtime.enter();
                rtnetlink::new_connection()
            })?
            .context("open a netlink socket")?;
        runtime.spawn(connection);
        Ok(Self {
            netns: netns.clone(),
            handle,
        })
    }

    pub async fn bring_up(&self, link: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(link)?).up().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .with_context(|| format!("bring up {link}"))
    }

    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        self.handle
            .link()
            // Without snooping: a port that has just come up would miss neighbour solicitations.
            .add(LinkBridge::new(name).mcast_snooping(false).up().build())
            .execute()
            .await
            .with_context(|| format!("add bridge {name}"))
    }

    /// Adds a veth pair: `name` here, on `bridge`, and `peer` in `peer_netns`, which is left down: veth can't
    /// bring up the end that it creates first.
    pub async fn add_veth(
        &self,
        name: &str,
        bridge: &str,
        peer: &str,
        peer_netns: &Netns,
    ) -> Result<()> {
        let peer_link = LinkUnspec::new_with_name(peer)
            .setns_by_fd(peer_netns.file().as_raw_fd())
            .build();
        let link = LinkVeth::new(name, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_link)))
            .controller(self.index(bridge)?)
            .up()
            .build();
        self.handle
            .link()
            .add(link)
            .execute()
            .await
            .with_context(|| format!("add veth {name} with its peer {peer}"))
    }

    pub async fn remove_link(&self, name: &str) -> Result<()> {
        self.handle
            .link()
            .del(self.index(name)?)
            .execute()
            .await
            .with_context(|| format!("remove {name}"))
    }

    pub async fn add_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<()> {
        self.handle
            .address()
            .add(self.index(link)?, address, prefix)
            .execute()
            .await
            .with_context(|| format!("add address {address}/{prefix} to {link}"))
    }

    /// Routes `network`/`prefix` by way of `gateway`; `0.0.0.0/0` and `::/0` are the default routes.
    pub async fn add_route(&self, network: IpAddr, prefix: u8, gateway: IpAddr) -> Result<()> {
        let route = match (network, gateway) {
            (IpAddr::V4(network), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network, prefix)
                .gateway(gateway)
                .build(),
            (IpAddr::V6(network), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, prefix)
                .gateway(gateway)
                .build(),
            _ => anyhow::bail!("route {network}/{prefix} by {gateway}: two address families"),
        };
        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .with_context(|| format!("route {network}/{prefix} by way of {gateway}"))
    }

    fn index(&self, link: &str) -> Result<u32> {
        self.netns
            .run(|| if_nametoindex(link))?
            .with_context(|| format!("find {link} in {}", self.netns.path().display()))
    }
}
