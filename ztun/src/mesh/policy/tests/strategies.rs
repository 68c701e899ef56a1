//! Policies and connections from alphabets so small that they meet.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use time::OffsetDateTime;

use super::super::{
    Connection, Denial, FailClosed, MtlsMode, PeerAuthentication, Policy, PolicyKey, PolicyKind,
    Selector, Target,
    authorization::{
        Action, AuthorizationPolicy, Condition, Operation, Rule, ServiceAccount, Source,
        StringMatch, Values,
    },
};
use crate::mesh::{
    Identity, Workload,
    fixture::{ip, workload},
};

pub(super) const ROOT: &str = "root";

const NAMESPACES: [&str; 3] = ["a", "ab", ROOT];
const TRUST_DOMAINS: [&str; 2] = ["td", "t"];
const SERVICE_ACCOUNTS: [&str; 2] = ["s", "as"];
const PORTS: [u16; 3] = [80, 81, 443];
const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.1.0.1",
    "192.0.2.1",
    "::ffff:10.0.0.1",
    "::ffff:10.1.0.1",
    "fd00::1",
    "fd00::1:1",
];

/// What a [`Connection`] borrows.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    source: Option<Identity>,
    source_address: SocketAddr,
    destination: Workload,
    destination_address: SocketAddr,
}

impl Attempt {
    pub(super) fn connection(&self) -> Connection<'_> {
        Connection {
            source: self.source.as_ref(),
            source_address: self.source_address,
            destination: &self.destination,
            destination_address: self.destination_address,
        }
    }
}

pub(super) fn attempt() -> impl Strategy<Value = Attempt> {
    let socket_address = || (address(), select(&PORTS)).prop_map(SocketAddr::from);
    let source = proptest::option::weighted(0.8, identity());
    (source, socket_address(), destination(), socket_address()).prop_map(
        |(source, source_address, destination, destination_address)| Attempt {
            source,
            source_address,
            destination,
            destination_address,
        },
    )
}

fn destination() -> impl Strategy<Value = Workload> {
    (select(&NAMESPACES), labels(0..=3)).prop_map(|(namespace, labels)| {
        let mut workload = workload("w", &["10.0.0.1"]);
        workload.pod.namespace = namespace.into();
        workload.labels = labels;
        workload
    })
}

pub(super) type PolicySet = BTreeMap<PolicyKey, Policy>;

pub(super) fn policies() -> impl Strategy<Value = PolicySet> {
    vec(policy(), 0..8).prop_map(PolicySet::from_iter)
}

pub(super) fn peer_authentications() -> impl Strategy<Value = PolicySet> {
    let policy = named().prop_flat_map(|(namespace, name)| peer_authentication(namespace, name));
    vec(policy, 0..8).prop_map(PolicySet::from_iter)
}

pub(super) fn policy() -> impl Strategy<Value = (PolicyKey, Policy)> {
    named().prop_flat_map(|(namespace, name)| {
        prop_oneof![
            20 => authorization(namespace, name),
            3 => peer_authentication(namespace, name),
            1 => fail_closed(namespace, name),
        ]
    })
}

/// So few that they are taken again and again.
fn named() -> impl Strategy<Value = (&'static str, &'static str)> {
    (select(&NAMESPACES), select(&["p", "q", "r"]))
}

fn authorization(
    namespace: &'static str,
    name: &'static str,
) -> impl Strategy<Value = (PolicyKey, Policy)> {
    let action = prop_oneof![
        4 => Just(Action::Allow),
        3 => Just(Action::Deny),
        1 => Just(Action::Audit),
    ];
    let dry_run = proptest::bool::weighted(0.2);
    (selector(), action, dry_run, vec(rule(), 0..4)).prop_map(
        move |(selector, action, dry_run, rules)| {
            let key = PolicyKey::new(PolicyKind::AuthorizationPolicy, namespace, name);
            let policy = AuthorizationPolicy {
                namespace: namespace.into(),
                name: name.into(),
                created: None,
                selector,
                action,
                dry_run,
                rules,
            };
            (key, Policy::Authorization(Arc::new(policy)))
        },
    )
}

fn peer_authentication(
    namespace: &'static str,
    name: &'static str,
) -> impl Strategy<Value = (PolicyKey, Policy)> {
    let mode = || proptest::option::of(select(&[MtlsMode::Strict, MtlsMode::Permissive]));
    let created = proptest::option::of(0..3_i64).prop_map(|seconds| {
        seconds.map(|seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap())
    });
    let port_modes = btree_map(select(&PORTS), mode(), 0..3);
    (created, selector(), mode(), port_modes).prop_map(
        move |(created, selector, mode, port_modes)| {
            let key = PolicyKey::new(PolicyKind::PeerAuthentication, namespace, name);
            let policy = PeerAuthentication {
                namespace: namespace.into(),
                name: name.into(),
                created,
                selector,
                mode,
                port_modes,
            };
            (key, Policy::PeerAuthentication(policy))
        },
    )
}

/// Under the key of either kind.
fn fail_closed(
    namespace: &'static str,
    name: &'static str,
) -> impl Strategy<Value = (PolicyKey, Policy)> {
    let kind = select(&[
        PolicyKind::PeerAuthentication,
        PolicyKind::AuthorizationPolicy,
    ]);
    let target = (proptest::option::of(select(&NAMESPACES)), selector());
    (kind, target).prop_map(move |(kind, (target_namespace, selector))| {
        let key = PolicyKey::new(kind, namespace, name);
        let policy = FailClosed {
            target: Target {
                namespace: target_namespace.map(Arc::from),
                selector,
            },
            denial: Denial {
                policy: key.to_string().into(),
                reason: "it can't be read".into(),
                hint: "correct it".into(),
            },
        };
        (key, Policy::FailClosed(policy))
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let layer7 = proptest::option::weighted(0.1, Just(Arc::from("to[0].operation.methods")));
    let condition = proptest::option::weighted(0.3, condition());
    (
        vec(source(), 0..3),
        vec(operation(), 0..2),
        condition,
        layer7,
    )
        .prop_map(|(from, to, when, layer7)| Rule {
            from,
            to,
            when: when.into_iter().collect(),
            layer7: layer7.into_iter().collect(),
        })
}

fn source() -> impl Strategy<Value = Source> {
    (
        sparse(principal()),
        sparse(principal()),
        sparse(namespace()),
        sparse(namespace()),
        sparse(account()),
        sparse(account()),
        sparse(block()),
        sparse(block()),
        sparse(block()),
        sparse(block()),
    )
        .prop_map(|fields| Source {
            principals: fields.0,
            not_principals: fields.1,
            namespaces: fields.2,
            not_namespaces: fields.3,
            service_accounts: fields.4,
            not_service_accounts: fields.5,
            ip_blocks: fields.6,
            not_ip_blocks: fields.7,
            remote_ip_blocks: fields.8,
            not_remote_ip_blocks: fields.9,
        })
}

/// Mostly nothing, so that a source with many fields matches now and then.
fn sparse<T: Clone + Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::option::weighted(0.15, vec(value, 1..4)).prop_map(Option::unwrap_or_default)
}

fn operation() -> impl Strategy<Value = Operation> {
    let ports = || vec(select(&PORTS), 0..3);
    (ports(), ports()).prop_map(|(ports, not_ports)| Operation { ports, not_ports })
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        values(block()).prop_map(Condition::SourceIp),
        values(block()).prop_map(Condition::RemoteIp),
        values(namespace()).prop_map(Condition::SourceNamespace),
        values(principal()).prop_map(Condition::SourcePrincipal),
        values(account()).prop_map(Condition::SourceServiceAccount),
        values(block()).prop_map(Condition::DestinationIp),
        values(select(&PORTS)).prop_map(Condition::DestinationPort),
    ]
}

fn values<T: Clone + Debug>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Values<T>> {
    (vec(value.clone(), 0..3), vec(value, 0..2))
        .prop_map(|(values, not_values)| Values { values, not_values })
}

fn principal() -> impl Strategy<Value = StringMatch> + Clone {
    let text = identity().prop_map(|identity| identity.to_string().replace("spiffe://", ""));
    prop_oneof![
        6 => text.prop_flat_map(part_of),
        1 => Just(StringMatch::Exact("not-an/identity".into())),
    ]
}

fn namespace() -> impl Strategy<Value = StringMatch> + Clone {
    select(&NAMESPACES).prop_flat_map(|name| part_of(name.to_owned()))
}

/// All of `text`, its start or its end, or that there is any.
fn part_of(text: String) -> impl Strategy<Value = StringMatch> + Clone {
    let cut = 0..=text.len();
    (0..4_u8, cut).prop_map(move |(form, cut)| match form {
        0 => StringMatch::Exact(text.as_str().into()),
        1 => StringMatch::Prefix(text[..cut].into()),
        2 => StringMatch::Suffix(text[cut..].into()),
        _ => StringMatch::Presence,
    })
}

fn account() -> impl Strategy<Value = ServiceAccount> + Clone {
    (select(&NAMESPACES), select(&SERVICE_ACCOUNTS)).prop_map(|(namespace, name)| ServiceAccount {
        namespace: namespace.into(),
        name: name.into(),
    })
}

fn identity() -> impl Strategy<Value = Identity> + Clone {
    let names = (
        select(&TRUST_DOMAINS),
        select(&NAMESPACES),
        select(&SERVICE_ACCOUNTS),
    );
    names.prop_map(|(trust_domain, namespace, account)| {
        Identity::new(trust_domain.parse().unwrap(), namespace, account).unwrap()
    })
}

/// As long as an address, or a few bits or many bits less; host bits are not cleared.
fn block() -> impl Strategy<Value = IpNet> + Clone {
    let less = select(&[0_u8, 1, 2, 8, 16, 24, 31, 32, 33, 64, 128]);
    (address(), less).prop_map(|(address, less)| {
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, bits.saturating_sub(less)).unwrap()
    })
}

fn address() -> impl Strategy<Value = IpAddr> + Clone {
    select(&ADDRESSES).prop_map(ip)
}

fn selector() -> impl Strategy<Value = Selector> {
    labels(0..=2).prop_map(Selector)
}

fn labels(count: RangeInclusive<usize>) -> impl Strategy<Value = BTreeMap<Arc<str>, Arc<str>>> {
    let key = select(&["app", "tier", "version"]);
    let value = select(&["x", "y"]);
    btree_map(key.prop_map(Arc::from), value.prop_map(Arc::from), count)
}
