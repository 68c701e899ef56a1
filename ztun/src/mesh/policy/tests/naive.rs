//! The semantics of policies written down as simply as can be, to hold the engine against.
//! Of the engine it uses the types that policies are written in, and nothing else.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::{
    Connection, FailClosed, MtlsMode, PeerAuthentication, Policy, PolicyKey, Selector,
    authorization::{
        Action, AuditFinding, AuditOutcome, AuthorizationPolicy, Condition, Operation, Rule,
        ServiceAccount, Source, StringMatch, Values,
    },
};
use crate::mesh::{Identity, Workload};

pub(super) struct Naive<'a> {
    pub(super) root_namespace: &'a str,
    /// In the order of their keys.
    pub(super) policies: Vec<(&'a PolicyKey, &'a Policy)>,
}

/// Which policy refuses, and by which rule.
pub(super) type Refusal = Option<(String, Option<usize>)>;

impl Naive<'_> {
    pub(super) fn refusal(&self, connection: &Connection<'_>) -> Refusal {
        self.closed(connection.destination)
            .or_else(|| self.mutual_tls(connection))
            .map(|policy| (policy, None))
            .or_else(|| self.denied(connection))
            .or_else(|| self.not_allowed(connection).map(|policy| (policy, None)))
    }

    pub(super) fn findings(&self, connection: &Connection<'_>) -> Vec<AuditFinding> {
        let mut findings = Vec::new();
        let nobody_allowed = !self
            .authorizations(connection.destination)
            .any(|(_, policy)| {
                policy.action == Action::Allow && matching_rule(policy, connection).is_some()
            });
        for (key, policy) in self.authorizations(connection.destination) {
            let rule = matching_rule(policy, connection);
            let outcome = match policy.action {
                Action::Audit if rule.is_some() => AuditOutcome::Matched,
                Action::Allow if policy.dry_run && rule.is_some() => AuditOutcome::WouldAllow,
                Action::Allow if policy.dry_run && nobody_allowed => AuditOutcome::WouldDeny,
                Action::Deny if policy.dry_run && rule.is_some() => AuditOutcome::WouldDeny,
                _ => continue,
            };
            findings.push(AuditFinding {
                policy: key.to_string().into(),
                rule,
                outcome,
            });
        }
        findings.sort();
        findings
    }

    fn closed(&self, destination: &Workload) -> Option<String> {
        self.policies.iter().find_map(|(_, policy)| match policy {
            Policy::FailClosed(FailClosed { target, denial })
                if target
                    .namespace
                    .as_ref()
                    .is_none_or(|namespace| *namespace == destination.pod.namespace)
                    && selects(&target.selector, destination) =>
            {
                Some(denial.policy.to_string())
            }
            _ => None,
        })
    }

    fn mutual_tls(&self, connection: &Connection<'_>) -> Option<String> {
        if connection.source.is_some() {
            return None;
        }
        let destination = connection.destination;
        let port = connection.destination_address.port();
        let of_namespace = |policy: &&PeerAuthentication, namespace: &str| {
            policy.selector.0.is_empty() && *policy.namespace == *namespace
        };
        let workload = self.oldest(|policy| {
            !policy.selector.0.is_empty()
                && *policy.namespace != *self.root_namespace
                && policy.namespace == destination.pod.namespace
                && selects(&policy.selector, destination)
        });
        let namespace = self.oldest(|policy| of_namespace(policy, &destination.pod.namespace));
        let mesh = self.oldest(|policy| of_namespace(policy, self.root_namespace));
        let port_mode =
            workload.and_then(|policy| Some((policy.port_modes.get(&port)?.as_ref()?, policy)));
        let (mode, policy) = port_mode
            .or_else(|| Some((workload?.mode.as_ref()?, workload?)))
            .or_else(|| Some((namespace?.mode.as_ref()?, namespace?)))
            .or_else(|| Some((mesh?.mode.as_ref()?, mesh?)))?;
        let refused = *mode == MtlsMode::Strict;
        refused.then(|| format!("PeerAuthentication {}/{}", policy.namespace, policy.name))
    }

    fn oldest(&self, covers: impl Fn(&&PeerAuthentication) -> bool) -> Option<&PeerAuthentication> {
        let policies = self.policies.iter().filter_map(|(_, policy)| match policy {
            Policy::PeerAuthentication(policy) => Some(policy),
            _ => None,
        });
        let mut covering: Vec<_> = policies.filter(covers).collect();
        covering.sort_by_key(|policy| &policy.name);
        let dated = covering.iter().filter(|policy| policy.created.is_some());
        let oldest = dated.min_by_key(|policy| policy.created);
        oldest.or(covering.first()).copied()
    }

    fn denied(&self, connection: &Connection<'_>) -> Refusal {
        self.in_force(Action::Deny, connection.destination)
            .find_map(|(key, policy)| {
                let rule = matching_rule(policy, connection)?;
                Some((key.to_string(), Some(rule)))
            })
    }

    fn not_allowed(&self, connection: &Connection<'_>) -> Option<String> {
        let mut allowing = self.in_force(Action::Allow, connection.destination);
        let (first, _) = allowing.next()?;
        let allowed = self
            .in_force(Action::Allow, connection.destination)
            .any(|(_, policy)| matching_rule(policy, connection).is_some());
        (!allowed).then(|| first.to_string())
    }

    fn in_force<'a>(
        &'a self,
        action: Action,
        destination: &'a Workload,
    ) -> impl Iterator<Item = (&'a PolicyKey, &'a AuthorizationPolicy)> {
        self.authorizations(destination)
            .filter(move |(_, policy)| policy.action == action && !policy.dry_run)
    }

    fn authorizations<'a>(
        &'a self,
        destination: &'a Workload,
    ) -> impl Iterator<Item = (&'a PolicyKey, &'a AuthorizationPolicy)> {
        self.policies.iter().filter_map(move |(key, policy)| {
            let Policy::Authorization(policy) = policy else {
                return None;
            };
            let namespace_fits = *policy.namespace == *self.root_namespace
                || policy.namespace == destination.pod.namespace;
            (namespace_fits && selects(&policy.selector, destination)).then_some((*key, &**policy))
        })
    }
}

fn selects(selector: &Selector, workload: &Workload) -> bool {
    let labels = selector.0.iter();
    labels.fold(true, |selected, (key, value)| {
        selected && workload.labels.get(key).is_some_and(|label| label == value)
    })
}

fn matching_rule(policy: &AuthorizationPolicy, connection: &Connection<'_>) -> Option<usize> {
    (0..policy.rules.len()).find(|&index| {
        let rule = &policy.rules[index];
        let layer7 = policy.action == Action::Allow && !rule.layer7.is_empty();
        !layer7 && rule_matches(rule, connection)
    })
}

fn rule_matches(rule: &Rule, connection: &Connection<'_>) -> bool {
    let from = rule.from.is_empty()
        || rule
            .from
            .iter()
            .any(|source| source_matches(source, connection));
    let to = rule.to.is_empty()
        || rule
            .to
            .iter()
            .any(|operation| operation_matches(operation, connection));
    let when = rule
        .when
        .iter()
        .all(|condition| condition_matches(condition, connection));
    from && to && when
}

fn source_matches(source: &Source, connection: &Connection<'_>) -> bool {
    let identity = connection.source;
    let address = connection.source_address.ip();
    field(&source.principals, &source.not_principals, |it| {
        is_principal(it, identity)
    }) && field(&source.namespaces, &source.not_namespaces, |it| {
        is_namespace(it, identity)
    }) && field(
        &source.service_accounts,
        &source.not_service_accounts,
        |it| is_service_account(it, identity),
    ) && field(&source.ip_blocks, &source.not_ip_blocks, |it| {
        is_within(*it, address)
    }) && field(
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
        |it| is_within(*it, address),
    )
}

fn operation_matches(operation: &Operation, connection: &Connection<'_>) -> bool {
    let port = connection.destination_address.port();
    field(&operation.ports, &operation.not_ports, |it| *it == port)
}

fn condition_matches(condition: &Condition, connection: &Connection<'_>) -> bool {
    fn holds<T>(values: &Values<T>, is: impl Fn(&T) -> bool) -> bool {
        field(&values.values, &values.not_values, is)
    }
    let identity = connection.source;
    let (source, destination) = (connection.source_address, connection.destination_address);
    match condition {
        Condition::SourceIp(values) | Condition::RemoteIp(values) => {
            holds(values, |it| is_within(*it, source.ip()))
        }
        Condition::SourceNamespace(values) => holds(values, |it| is_namespace(it, identity)),
        Condition::SourcePrincipal(values) => holds(values, |it| is_principal(it, identity)),
        Condition::SourceServiceAccount(values) => {
            holds(values, |it| is_service_account(it, identity))
        }
        Condition::DestinationIp(values) => holds(values, |it| is_within(*it, destination.ip())),
        Condition::DestinationPort(values) => holds(values, |it| *it == destination.port()),
    }
}

fn field<T>(values: &[T], not_values: &[T], is: impl Fn(&T) -> bool) -> bool {
    let one_of = values.is_empty() || values.iter().any(&is);
    let none_of = !not_values.iter().any(&is);
    one_of && none_of
}

fn is_principal(pattern: &StringMatch, identity: Option<&Identity>) -> bool {
    identity.is_some_and(|identity| {
        let text = identity.to_string();
        is_text(pattern, &text["spiffe://".len()..])
    })
}

fn is_namespace(pattern: &StringMatch, identity: Option<&Identity>) -> bool {
    identity.is_some_and(|identity| is_text(pattern, identity.namespace()))
}

fn is_service_account(account: &ServiceAccount, identity: Option<&Identity>) -> bool {
    identity.is_some_and(|identity| {
        *identity.namespace() == *account.namespace && *identity.service_account() == *account.name
    })
}

fn is_text(pattern: &StringMatch, text: &str) -> bool {
    let text = text.as_bytes();
    match pattern {
        StringMatch::Exact(exact) => text == exact.as_bytes(),
        StringMatch::Prefix(prefix) => text.get(..prefix.len()) == Some(prefix.as_bytes()),
        StringMatch::Suffix(suffix) => {
            let start = text.len().checked_sub(suffix.len());
            start.is_some_and(|start| text[start..] == *suffix.as_bytes())
        }
        StringMatch::Presence => true,
    }
}

/// In the space of IPv6, where an IPv4 address is its mapped one, which only a block of mapped
/// addresses holds.
fn is_within(block: IpNet, address: IpAddr) -> bool {
    let bits = |address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    let is_v4 = address.to_canonical().is_ipv4();
    let length = match block {
        IpNet::V4(block) => 96 + u32::from(block.prefix_len()),
        IpNet::V6(block) => u32::from(block.prefix_len()),
    };
    if is_v4 && length < 96 {
        return false;
    }
    let differing = bits(block.addr()) ^ bits(address);
    differing.leading_zeros() >= length
}
