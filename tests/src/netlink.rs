//! Links, addresses and routes of one network namespace.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    AddressAddRequest, Handle, IpVersion, LinkBridge, LinkNetkit, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        link::{InfoData, InfoNetkit, InfoVeth, NetkitMode},
        route::{RouteAttribute, RouteMessage, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use socket2::{Domain, Type};

use crate::{namespace::Netns, pod::Pod, sockets};

/// How packets to an address get lost on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadEnd {
    /// Nobody learns of it.
    Silent,
    /// Their sender is told that the host is unreachable.
    Unreachable,
}

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

    /// In the pod's namespace, with the rights of the pod's own root.
    pub fn of_pod(pod: &Pod) -> Result<Self> {
        let socket = pod.socket(Domain::from(libc::AF_NETLINK), Type::RAW, None)?;
        let (connection, handle, _) = rtnetlink::from_socket(sockets::netlink(socket));
        tokio::spawn(connection);
        Ok(Self {
            netns: pod.netns.clone(),
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

    pub async fn bring_down(&self, link: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(link)?).down().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .with_context(|| format!("bring down {link}"))
    }

    pub async fn set_mtu(&self, link: &str, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(link)?)
            .mtu(mtu)
            .build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .with_context(|| format!("set the MTU of {link} to {mtu}"))
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
        peer_address: [u8; 6],
    ) -> Result<()> {
        let peer_link = LinkUnspec::new_with_name(peer)
            .setns_by_fd(peer_netns.file().as_raw_fd())
            .address(peer_address.to_vec())
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

    /// Moves a link to another namespace, where it is down.
    pub async fn move_to(&self, link: &str, netns: &Netns) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(link)?)
            .setns_by_fd(netns.file().as_raw_fd())
            .build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .with_context(|| format!("move {link} to {}", netns.path().display()))
    }

    /// Adds a netkit pair for routing, up at both ends: `name` here and `peer` in `peer_netns`.
    pub async fn add_netkit(&self, name: &str, peer: &str, peer_netns: &Netns) -> Result<()> {
        let peer_link = LinkUnspec::new_with_name(peer)
            .setns_by_fd(peer_netns.file().as_raw_fd())
            .build();
        let pair = vec![
            InfoNetkit::Mode(NetkitMode::L3),
            InfoNetkit::Peer(peer_link),
        ];
        let link = LinkNetkit::new(name, peer, NetkitMode::L3)
            .set_info_data(InfoData::Netkit(pair))
            .build();
        self.handle
            .link()
            .add(link)
            .execute()
            .await
            .with_context(|| format!("add netkit {name} with its peer {peer}"))?;
        self.bring_up(name).await?;
        Self::open(peer_netns)?.bring_up(peer).await
    }

    pub async fn remove_link(&self, name: &str) -> Result<()> {
        self.handle
            .link()
            .del(self.index(name)?)
            .execute()
            .await
            .with_context(|| format!("remove {name}"))
    }

    /// Adds an address that is usable at once: nobody looks for another owner.
    pub async fn add_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let mut request = self.new_address(link, address, prefix)?;
        if address.is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        added(request, link, address).await
    }

    /// As [`add_address`](Self::add_address), but the kernel looks whether another host has it, if the
    /// interface's settings say so.
    pub async fn add_detected_address(
        &self,
        link: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<()> {
        let request = self.new_address(link, address, prefix)?;
        added(request, link, address).await
    }

    fn new_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<AddressAddRequest> {
        let index = self.index(link)?;
        Ok(self.handle.address().add(index, address, prefix))
    }

    pub async fn remove_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let index = self.index(link)?;
        let mut added = self.handle.address().add(index, address, prefix);
        let message = added.message_mut().clone();
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .with_context(|| format!("remove address {address}/{prefix} from {link}"))
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
        let added = self.handle.route().add(route).execute().await;
        added.with_context(|| format!("route {network}/{prefix} by way of {gateway}"))
    }

    /// Routes `network`/`prefix` to whoever is at the other end of a link.
    pub async fn add_link_route(&self, network: IpAddr, prefix: u8, link: &str) -> Result<()> {
        let index = self.index(link)?;
        let route = match network {
            IpAddr::V4(network) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network, prefix)
                .scope(RouteScope::Link)
                .output_interface(index)
                .build(),
            IpAddr::V6(network) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, prefix)
                .output_interface(index)
                .build(),
        };
        let added = self.handle.route().add(route).execute().await;
        added.with_context(|| format!("route {network}/{prefix} by {link}"))
    }

    /// Drops what is to be forwarded to `address`.
    pub async fn add_dead_end(&self, address: IpAddr, kind: DeadEnd) -> Result<()> {
        let kind = match kind {
            DeadEnd::Silent => RouteType::BlackHole,
            DeadEnd::Unreachable => RouteType::Unreachable,
        };
        let route = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .kind(kind)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .kind(kind)
                .build(),
        };
        let added = self.handle.route().add(route).execute().await;
        added.with_context(|| format!("make {address} a dead end"))
    }

    /// The routing rules and the routes of this family, in the kernel's order, as text to compare.
    pub async fn routing(&self, family: IpVersion) -> Result<Vec<String>> {
        let rules = self.handle.rule().get(family.clone()).execute();
        let routes = match family {
            IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let rules = rules
            .map_ok(|rule| format!("{rule:?}"))
            .try_collect::<Vec<_>>()
            .await?;
        let routes = self.handle.route().get(routes).execute();
        let routes = routes.map_ok(|route| format!("{:?} {:?}", route.header, route.attributes));
        let routes = routes.try_collect::<Vec<_>>().await?;
        Ok([rules, routes].concat())
    }

    pub(crate) fn has(&self, link: &str) -> bool {
        self.index(link).is_ok()
    }

    /// Removes the rules of this preference; answers how many there were.
    pub async fn remove_rules(&self, family: IpVersion, preference: u32) -> Result<usize> {
        let rules = self.handle.rule().get(family).execute();
        let rules: Vec<RuleMessage> = rules.try_collect().await?;
        let preference = RuleAttribute::Priority(preference);
        let mut removed = 0;
        for rule in rules {
            if rule.attributes.contains(&preference) {
                let removal = self.handle.rule().del(rule).execute().await;
                removal.context("remove a rule")?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Adds a rule that IPv4 packets with this mark go nowhere.
    pub async fn add_unreachable_mark(&self, mark: u32, preference: u32) -> Result<()> {
        let mut request = self
            .handle
            .rule()
            .add()
            .v4()
            .action(RuleAction::Unreachable);
        let attributes = &mut request.message_mut().attributes;
        attributes.push(RuleAttribute::FwMark(mark));
        attributes.push(RuleAttribute::Priority(preference));
        request.execute().await.context("add a rule")
    }

    /// Removes the routes of this table; answers how many there were.
    pub async fn flush_table(&self, family: IpVersion, table: u32) -> Result<usize> {
        let every_route = match family {
            IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let routes = self.handle.route().get(every_route).execute();
        let routes: Vec<RouteMessage> = routes.try_collect().await?;
        let mut removed = 0;
        for route in routes {
            if route.attributes.contains(&RouteAttribute::Table(table)) {
                let removal = self.handle.route().del(route).execute().await;
                removal.context("remove a route")?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn index(&self, link: &str) -> Result<u32> {
        self.netns
            .run(|| if_nametoindex(link))?
            .with_context(|| format!("find {link} in {}", self.netns.path().display()))
    }
}

async fn added(request: AddressAddRequest, link: &str, address: IpAddr) -> Result<()> {
    let added = request.execute().await;
    added.with_context(|| format!("add address {address} to {link}"))
}
