//! The rules and routes that lead captured packets to loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use thiserror::Error;
use ztun_common::{Family, LOOPBACK_INTERFACE, MARK};

use super::netlink::{Netlink, NetlinkError};

/// The routing table of captured packets: it leads to loopback whatever the destination.
const TABLE: u32 = MARK;
/// Where the rules for captured packets stand: after `local` (0), before anything else.
const PREFERENCE: u32 = 100;

/// Captured packets of one family.
#[derive(Clone, Copy, Debug)]
pub enum Captured {
    V4 {
        /// The address that captured connections show if their sockets aren't bound to one.
        source: Ipv4Addr,
    },
    /// Their source is chosen as that of others.
    V6,
}

/// What was added to a namespace and was not there before.
#[derive(Debug)]
pub enum Added {
    Rule(RuleMessage),
    Route(RouteMessage),
}

/// What of a family's routing is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Missing {
    #[error("the rule for captured packets is missing")]
    Rule,
    #[error("the fence for captured packets is missing")]
    Fence,
    #[error("the route for captured packets is missing")]
    Route,
    #[error("captured packets show an address that the pod has no longer")]
    Source,
}

/// Routes a family's packets with the mark to loopback, and nowhere if that route is gone.
///
/// What is there already stays, or is replaced where it shows another source; `added` gets what was
/// not there.
pub fn install(
    netlink: &Netlink,
    captured: Captured,
    added: &mut Vec<Added>,
) -> Result<(), NetlinkError> {
    let family = match captured {
        Captured::V4 { source } => {
            add_route(netlink, v4_route(LOOPBACK_INTERFACE, source), added)?;
            // A process may bind its socket to an interface after it connected. No route with the
            // mark leads there, and IPv4 would then take the destination for a neighbour and send
            // in clear; a local route leads to loopback whatever interface it names.
            for interface in netlink.interfaces()? {
                add_route(netlink, v4_route(interface, source), added)?;
            }
            Family::V4
        }
        Captured::V6 => {
            add_route(netlink, v6_route(), added)?;
            Family::V6
        }
    };
    add_rule(netlink, lookup_rule(family), added)?;
    add_rule(netlink, fence_rule(family), added)
}

pub fn remove(netlink: &Netlink, added: Added) -> Result<(), NetlinkError> {
    match added {
        Added::Rule(rule) => netlink.request(
            "remove a rule for captured packets",
            netlink.handle().rule().del(rule).execute(),
        ),
        Added::Route(route) => netlink.request(
            "remove a route for captured packets",
            netlink.handle().route().del(route).execute(),
        ),
    }
}

/// What of a family's rules and routes is missing in a pod with these addresses.
pub fn missing(
    netlink: &Netlink,
    family: Family,
    own: &[IpAddr],
) -> Result<Option<Missing>, NetlinkError> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let rules: Vec<RuleMessage> = netlink.request(
        "list the pod's rules",
        netlink.handle().rule().get(version).execute().try_collect(),
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
        return Ok(Some(Missing::Rule));
    }
    if !has(&fence_rule(family)) {
        return Ok(Some(Missing::Fence));
    }
    let mut every_route = RouteMessage::default();
    every_route.header.address_family = address_family(family);
    let routes: Vec<RouteMessage> = netlink.request(
        "list the pod's routes",
        netlink
            .handle()
            .route()
            .get(every_route)
            .execute()
            .try_collect(),
    )?;
    let route_by = |interface| {
        let output = RouteAttribute::Oif(interface);
        routes.iter().find(|route| {
            route.header.kind == RouteType::Local
                && route.header.destination_prefix_length == 0
                && route.attributes.contains(&RouteAttribute::Table(TABLE))
                && route.attributes.contains(&output)
        })
    };
    let mut interfaces = vec![LOOPBACK_INTERFACE];
    if family == Family::V4 {
        interfaces.extend(netlink.interfaces()?);
    }
    for interface in interfaces {
        let Some(route) = route_by(interface) else {
            return Ok(Some(Missing::Route));
        };
        let is_own = route.attributes.iter().all(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => {
                own.contains(&(*source).into())
            }
            _ => true,
        });
        if !is_own {
            return Ok(Some(Missing::Source));
        }
    }
    Ok(None)
}

fn add_route(
    netlink: &Netlink,
    route: RouteMessage,
    added: &mut Vec<Added>,
) -> Result<(), NetlinkError> {
    let action = "add a route for captured packets";
    let add = || netlink.handle().route().add(route.clone());
    match netlink.request(action, add().execute()) {
        Ok(()) => added.push(Added::Route(route)),
        // Its source may have been another address.
        Err(error) if error.is_exists() => netlink.request(action, add().replace().execute())?,
        Err(error) => return Err(error),
    }
    Ok(())
}

fn add_rule(
    netlink: &Netlink,
    rule: RuleMessage,
    added: &mut Vec<Added>,
) -> Result<(), NetlinkError> {
    let mut request = netlink.handle().rule().add();
    *request.message_mut() = rule.clone();
    match netlink.request("add a rule for captured packets", request.execute()) {
        Ok(()) => added.push(Added::Rule(rule)),
        Err(error) if error.is_exists() => {}
        Err(error) => return Err(error),
    }
    Ok(())
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

/// `local default dev INTERFACE table TABLE src SOURCE metric INTERFACE`: unbound sockets take
/// loopback's, which is preferred. There would be no source without one.
fn v4_route(interface: u32, source: Ipv4Addr) -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .pref_source(source)
        .scope(RouteScope::Host)
        .priority(interface);
    local(route, interface)
}

/// `local default dev lo table TABLE`
fn v6_route() -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
        .priority(LOOPBACK_INTERFACE);
    local(route, LOOPBACK_INTERFACE)
}

fn local<T>(route: RouteMessageBuilder<T>, interface: u32) -> RouteMessage {
    route
        .table_id(TABLE)
        .kind(RouteType::Local)
        .protocol(RouteProtocol::Static)
        .output_interface(interface)
        .build()
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
