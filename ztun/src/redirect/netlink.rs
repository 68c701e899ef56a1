//! Addresses, rules and routes of the calling thread's network namespace.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, IpVersion, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use thiserror::Error;
use tokio::runtime::{self, Runtime};
use ztun_common::{Family, LOOPBACK_INTERFACE, MARK};

/// The routing table of captured packets: it leads to loopback whatever the destination.
const TABLE: u32 = MARK;
/// Where the rules for captured packets stand: after `local` (0), before anything else.
const PREFERENCE: u32 = 100;

/// A netlink connection into the namespace of the thread that made it.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

#[derive(Debug, Error)]
#[error("cannot {action}: {error}")]
pub struct NetlinkError {
    action: &'static str,
    error: io::Error,
}

/// What was added to a namespace and did not exist before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    Lookup(Family),
    Fence(Family),
    Route(Family),
}

impl Netlink {
    pub fn connect() -> Result<Self, NetlinkError> {
        let failed = |error| NetlinkError {
            action: "open a netlink socket",
            error,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    /// The namespace's addresses, except for loopback's and link-local IPv6 ones.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, NetlinkError> {
        let messages: Vec<_> = self.request(
            "list the pod's addresses",
            self.handle.address().get().execute().try_collect(),
        )?;
        let mut addresses: Vec<IpAddr> = messages
            .into_iter()
            .filter_map(|message| {
                // On a point-to-point link ADDRESS is the peer's, and LOCAL this end's.
                let attributes = &message.attributes;
                let local = attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(ip) => Some(*ip),
                    _ => None,
                });
                local.or_else(|| {
                    attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Address(ip) => Some(*ip),
                        _ => None,
                    })
                })
            })
            .filter(|ip| match ip {
                IpAddr::V4(ip) => !ip.is_loopback(),
                IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
            })
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }

    pub fn bring_loopback_up(&self) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(LOOPBACK_INTERFACE).up().build();
        self.request(
            "bring the pod's loopback interface up",
            self.handle.link().set(link).execute(),
        )
    }

    /// Routes packets with the mark to loopback, and nowhere if that route is gone.
    ///
    /// What is there already stays; `added` gets what was not. `source` is the address that
    /// captured connections show.
    pub fn route_marked(&self, source: IpAddr, added: &mut Vec<Added>) -> Result<(), NetlinkError> {
        let family = family_of(source);
        let action = "add the route for captured packets";
        let add_route = || self.handle.route().add(route(family, Some(source)));
        let result = self.request(action, add_route().execute());
        if !note(result, Added::Route(family), added)? {
            // The pod's address may be another one by now.
            self.request(action, add_route().replace().execute())?;
        }
        for (rule, what) in [
            (lookup_rule(family), Added::Lookup(family)),
            (fence_rule(family), Added::Fence(family)),
        ] {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule;
            let result = self.request("add the rules for captured packets", request.execute());
            note(result, what, added)?;
        }
        Ok(())
    }

    pub fn remove(&self, added: Added) -> Result<(), NetlinkError> {
        match added {
            Added::Lookup(family) => self.request(
                "remove the rule for captured packets",
                self.handle.rule().del(lookup_rule(family)).execute(),
            ),
            Added::Fence(family) => self.request(
                "remove the fence for captured packets",
                self.handle.rule().del(fence_rule(family)).execute(),
            ),
            Added::Route(family) => self.request(
                "remove the route for captured packets",
                self.handle.route().del(route(family, None)).execute(),
            ),
        }
    }

    /// What of the rules and routes of a family is missing.
    pub fn missing(&self, family: Family) -> Result<Option<&'static str>, NetlinkError> {
        let rules: Vec<RuleMessage> = self.request(
            "list the pod's rules",
            self.handle
                .rule()
                .get(match family {
                    Family::V4 => IpVersion::V4,
                    Family::V6 => IpVersion::V6,
                })
                .execute()
                .try_collect(),
        )?;
        let has = |wanted: &RuleMessage| {
            rules.iter().any(|rule| {
                rule.header.action == wanted.header.action
                    && wanted
                        .attributes
                        .iter()
                        .all(|attribute| rule.attributes.contains(attribute))
            })
        };
        if !has(&lookup_rule(family)) {
            return Ok(Some("the rule for captured packets is missing"));
        }
        if !has(&fence_rule(family)) {
            return Ok(Some("the fence for captured packets is missing"));
        }
        let mut every_route = RouteMessage::default();
        every_route.header.address_family = address_family(family);
        let routes: Vec<RouteMessage> = self.request(
            "list the pod's routes",
            self.handle.route().get(every_route).execute().try_collect(),
        )?;
        let routed = routes.iter().any(|route| {
            route.header.kind == RouteType::Local
                && route.header.destination_prefix_length == 0
                && route.attributes.contains(&RouteAttribute::Table(TABLE))
        });
        Ok((!routed).then_some("the route for captured packets is missing"))
    }

    fn request<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetlinkError> {
        self.runtime
            .block_on(request)
            .map_err(|error| NetlinkError {
                action,
                error: match error {
                    rtnetlink::Error::NetlinkError(message) => message.to_io(),
                    other => io::Error::other(other),
                },
            })
    }
}

pub fn family_of(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Notes what was added; `false` if it was there already.
fn note(
    result: Result<(), NetlinkError>,
    what: Added,
    added: &mut Vec<Added>,
) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => {
            added.push(what);
            Ok(true)
        }
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// `from all fwmark MARK lookup TABLE`
fn lookup_rule(family: Family) -> RuleMessage {
    let mut rule = rule(family, PREFERENCE);
    rule.header.action = RuleAction::ToTable;
    rule.attributes.push(RuleAttribute::Table(TABLE));
    rule
}

/// `from all fwmark MARK unreachable`, in case the route is taken away.
fn fence_rule(family: Family) -> RuleMessage {
    let mut rule = rule(family, PREFERENCE + 1);
    rule.header.action = RuleAction::Unreachable;
    rule
}

fn rule(family: Family, preference: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = address_family(family);
    rule.attributes.push(RuleAttribute::Priority(preference));
    rule.attributes.push(RuleAttribute::FwMark(MARK));
    rule
}

/// `local default dev lo table TABLE [src SOURCE]`; IPv4 finds no source by itself there.
fn route(family: Family, source: Option<IpAddr>) -> RouteMessage {
    match family {
        Family::V4 => {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
                .scope(RouteScope::Host);
            if let Some(IpAddr::V4(source)) = source {
                route = route.pref_source(source);
            }
            local_default(route)
        }
        Family::V6 => local_default(
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(Ipv6Addr::UNSPECIFIED, 0),
        ),
    }
}

fn local_default<T>(route: RouteMessageBuilder<T>) -> RouteMessage {
    route
        .table_id(TABLE)
        .kind(RouteType::Local)
        .protocol(RouteProtocol::Static)
        .output_interface(LOOPBACK_INTERFACE)
        .build()
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
