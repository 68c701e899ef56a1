//! A policy made ready to be evaluated.

use std::{net::IpAddr, sync::Arc};

use super::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, Values,
    sets::{Blocks, Namespaces, Ports, Principals, ServiceAccounts},
};
use crate::mesh::{
    identity::{Identity, TrustDomain},
    policy::Connection,
};

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) policy: Arc<AuthorizationPolicy>,
    pub(super) action: Action,
    /// Such as `AuthorizationPolicy foo/allow-web`.
    pub(super) title: Arc<str>,
    pub(super) rules: Box<[CompiledRule]>,
}

#[derive(Clone, Debug)]
pub(super) struct CompiledRule {
    /// Layer 4 can't see all that an ALLOW asks for, so it never matches.
    pub(super) blind: bool,
    /// One of them must hold, if there are any.
    pub(super) from: Box<[Checks]>,
    /// One of them must hold, if there are any.
    pub(super) to: Box<[Checks]>,
    pub(super) when: Checks,
}

/// All of them must hold.
pub(super) type Checks = Box<[Check]>;

#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) field: Field,
    set: Set,
    expected: Expected,
}

/// Where in its part of the rule a check is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Source(&'static str),
    Operation(&'static str),
    Condition { index: usize, values: &'static str },
}

#[derive(Clone, Debug)]
pub(super) enum Set {
    Principals(Principals),
    Namespaces(Namespaces),
    ServiceAccounts(ServiceAccounts),
    SourceIps(Blocks),
    DestinationIps(Blocks),
    DestinationPorts(Ports),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Within,
    Without,
}

/// What policies ask of a connection; addresses are canonical.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) identity: Option<&'a Identity>,
    /// The names of the mesh's trust domain, if it has several.
    pub(super) trust_domains: &'a [TrustDomain],
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) port: u16,
}

impl Compiled {
    pub(super) fn new(policy: Arc<AuthorizationPolicy>, title: Arc<str>) -> Self {
        let rules = policy.rules.iter();
        Self {
            rules: rules
                .map(|rule| CompiledRule::new(rule, policy.action))
                .collect(),
            title,
            action: policy.action,
            policy,
        }
    }

    /// The first rule that matches.
    pub(super) fn matching_rule(&self, facts: &Facts<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(facts))
    }

    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        self.matching_rule(facts).is_some()
    }
}

impl CompiledRule {
    fn new(rule: &Rule, action: Action) -> Self {
        Self {
            blind: action == Action::Allow && !rule.layer7.is_empty(),
            from: rule.from.iter().map(source).collect(),
            to: rule.to.iter().map(operation).collect(),
            when: rule.when.iter().enumerate().flat_map(condition).collect(),
        }
    }

    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        !self.blind
            && one_holds(&self.from, facts)
            && one_holds(&self.to, facts)
            && all_hold(&self.when, facts)
    }
}

impl Check {
    fn pair<T>(
        [field, not_field]: [Field; 2],
        values: &[T],
        not_values: &[T],
        set: impl Fn(&[T]) -> Set,
    ) -> impl Iterator<Item = Self> {
        let check = |field, values: &[T], expected| {
            (!values.is_empty()).then(|| Self {
                field,
                set: set(values),
                expected,
            })
        };
        [
            check(field, values, Expected::Within),
            check(not_field, not_values, Expected::Without),
        ]
        .into_iter()
        .flatten()
    }

    pub(super) fn holds(&self, facts: &Facts<'_>) -> bool {
        self.set.contains(facts) == (self.expected == Expected::Within)
    }

    pub(super) fn set(&self) -> &Set {
        &self.set
    }
}

impl Set {
    /// What has no identity is in no set of identities.
    fn contains(&self, facts: &Facts<'_>) -> bool {
        let identity = facts.identity;
        match self {
            Self::Principals(set) => {
                identity.is_some_and(|identity| set.contains(identity, facts.trust_domains))
            }
            Self::Namespaces(set) => {
                identity.is_some_and(|identity| set.contains(identity.namespace()))
            }
            Self::ServiceAccounts(set) => identity.is_some_and(|identity| set.contains(identity)),
            Self::SourceIps(set) => set.contains(facts.source),
            Self::DestinationIps(set) => set.contains(facts.destination),
            Self::DestinationPorts(set) => set.contains(facts.port),
        }
    }
}

impl<'a> Facts<'a> {
    pub(super) fn of(connection: &Connection<'a>, trust_domains: &'a [TrustDomain]) -> Self {
        Self {
            identity: connection.source,
            trust_domains,
            source: connection.source_address.ip().to_canonical(),
            destination: connection.destination_address.ip().to_canonical(),
            port: connection.destination_address.port(),
        }
    }
}

/// Without alternatives, there is nothing to ask.
fn one_holds(alternatives: &[Checks], facts: &Facts<'_>) -> bool {
    alternatives.is_empty() || alternatives.iter().any(|checks| all_hold(checks, facts))
}

pub(super) fn all_hold(checks: &[Check], facts: &Facts<'_>) -> bool {
    checks.iter().all(|check| check.holds(facts))
}

fn source(source: &Source) -> Checks {
    let fields = |field, not_field| [Field::Source(field), Field::Source(not_field)];
    let source_ips = |blocks: &[_]| Set::SourceIps(Blocks::new(blocks));
    // What rules out most and costs least comes first.
    let namespaces = Check::pair(
        fields("namespaces", "notNamespaces"),
        &source.namespaces,
        &source.not_namespaces,
        |values| Set::Namespaces(Namespaces::new(values)),
    );
    let service_accounts = Check::pair(
        fields("serviceAccounts", "notServiceAccounts"),
        &source.service_accounts,
        &source.not_service_accounts,
        |values| Set::ServiceAccounts(ServiceAccounts::new(values)),
    );
    let principals = Check::pair(
        fields("principals", "notPrincipals"),
        &source.principals,
        &source.not_principals,
        |values| Set::Principals(Principals::new(values)),
    );
    let ip_blocks = Check::pair(
        fields("ipBlocks", "notIpBlocks"),
        &source.ip_blocks,
        &source.not_ip_blocks,
        source_ips,
    );
    let remote_ip_blocks = Check::pair(
        fields("remoteIpBlocks", "notRemoteIpBlocks"),
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
        source_ips,
    );
    namespaces
        .chain(service_accounts)
        .chain(principals)
        .chain(ip_blocks)
        .chain(remote_ip_blocks)
        .collect()
}

fn operation(operation: &Operation) -> Checks {
    let fields = [Field::Operation("ports"), Field::Operation("notPorts")];
    let ports = |ports: &[_]| Set::DestinationPorts(Ports::new(ports));
    Check::pair(fields, &operation.ports, &operation.not_ports, ports).collect()
}

fn condition((index, condition): (usize, &Condition)) -> Vec<Check> {
    fn checks<T>(index: usize, values: &Values<T>, set: impl Fn(&[T]) -> Set) -> Vec<Check> {
        let fields = ["values", "notValues"].map(|values| Field::Condition { index, values });
        Check::pair(fields, &values.values, &values.not_values, set).collect()
    }
    match condition {
        Condition::SourceIp(values) | Condition::RemoteIp(values) => {
            checks(index, values, |blocks| Set::SourceIps(Blocks::new(blocks)))
        }
        Condition::SourceNamespace(values) => checks(index, values, |values| {
            Set::Namespaces(Namespaces::new(values))
        }),
        Condition::SourcePrincipal(values) => checks(index, values, |values| {
            Set::Principals(Principals::new(values))
        }),
        Condition::SourceServiceAccount(values) => checks(index, values, |values| {
            Set::ServiceAccounts(ServiceAccounts::new(values))
        }),
        Condition::DestinationIp(values) => checks(index, values, |blocks| {
            Set::DestinationIps(Blocks::new(blocks))
        }),
        Condition::DestinationPort(values) => checks(index, values, |ports| {
            Set::DestinationPorts(Ports::new(ports))
        }),
    }
}
