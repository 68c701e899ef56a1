//! Why each policy that applies matches a connection, or why not.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Action, Authorizations,
    compiled::{Check, Checks, Compiled, CompiledRule, Facts, Field, Set, all_hold},
};
use crate::mesh::policy::{Connection, index::Entry};

/// A policy that applies to the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyExplanation {
    /// Such as `AuthorizationPolicy foo/allow-web`.
    pub policy: Arc<str>,
    /// Such as `every workload with app=web of namespace foo`.
    pub target: String,
    pub action: Action,
    /// Then it decides nothing, like AUDIT.
    pub dry_run: bool,
    /// The index of the first rule that matches.
    pub matching_rule: Option<usize>,
    pub rules: Vec<RuleExplanation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleExplanation {
    pub matches: bool,
    /// Every field that keeps it from matching.
    pub mismatches: Vec<Mismatch>,
    /// Paths of attributes that layer 4 can't see.
    pub layer7: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mismatch {
    /// Its path within the rule, such as `from[0].source.namespaces` or `when[1].notValues`.
    pub field: String,
    /// What the connection has there, such as `foo`.
    pub seen: String,
}

impl PolicyExplanation {
    /// Whether it has a say in the decision.
    pub fn in_force(&self) -> bool {
        !self.dry_run && self.action != Action::Audit
    }
}

impl Authorizations {
    /// Of every policy that applies, by namespace and name.
    pub(in crate::mesh::policy) fn explain(
        &self,
        connection: &Connection<'_>,
    ) -> Vec<PolicyExplanation> {
        let facts = Facts::of(connection, &self.trust_domains);
        let in_force = self.in_force.applying(connection.destination);
        let mut applying: Vec<_> = in_force
            .chain(self.reported.applying(connection.destination))
            .collect();
        applying.sort_unstable_by_key(|entry| &entry.key);
        applying
            .into_iter()
            .map(|entry| explain_policy(entry, &facts))
            .collect()
    }
}

fn explain_policy(entry: &Entry<Compiled>, facts: &Facts<'_>) -> PolicyExplanation {
    let Compiled {
        policy,
        title,
        rules,
        ..
    } = &entry.policy;
    let written = policy.rules.iter().map(|rule| &rule.layer7);
    PolicyExplanation {
        policy: Arc::clone(title),
        target: entry.target().to_string(),
        action: policy.action,
        dry_run: policy.dry_run,
        matching_rule: entry.policy.matching_rule(facts),
        rules: rules
            .iter()
            .zip(written)
            .map(|(rule, layer7)| explain_rule(rule, layer7, facts))
            .collect(),
    }
}

fn explain_rule(rule: &CompiledRule, layer7: &[Arc<str>], facts: &Facts<'_>) -> RuleExplanation {
    let unseen = layer7.iter().filter(|_| rule.blind).map(|path| Mismatch {
        field: path.to_string(),
        seen: "nothing: layer 4 can't see it, so a rule of an ALLOW with it never matches"
            .to_owned(),
    });
    let mut mismatches: Vec<Mismatch> = unseen.collect();
    for alternatives in [&rule.from, &rule.to] {
        if alternatives.iter().any(|checks| all_hold(checks, facts)) {
            continue;
        }
        for (index, checks) in alternatives.iter().enumerate() {
            mismatches.extend(failed(checks, index, facts));
        }
    }
    mismatches.extend(failed(&rule.when, 0, facts));
    RuleExplanation {
        matches: rule.matches(facts),
        mismatches,
        layer7: layer7.to_vec(),
    }
}

/// `alternative` is the place of the checks in their part of the rule.
fn failed(
    checks: &Checks,
    alternative: usize,
    facts: &Facts<'_>,
) -> impl Iterator<Item = Mismatch> {
    let failed = checks.iter().filter(|check| !check.holds(facts));
    failed.map(move |check| Mismatch {
        field: path(check, alternative),
        seen: seen(check.set(), facts),
    })
}

fn path(check: &Check, alternative: usize) -> String {
    match check.field {
        Field::Source(name) => format!("from[{alternative}].source.{name}"),
        Field::Operation(name) => format!("to[{alternative}].operation.{name}"),
        Field::Condition { index, values } => format!("when[{index}].{values}"),
    }
}

fn seen(set: &Set, facts: &Facts<'_>) -> String {
    let address = |address: IpAddr| address.to_string();
    match set {
        Set::SourceIps(_) => address(facts.source),
        Set::DestinationIps(_) => address(facts.destination),
        Set::DestinationPorts(_) => facts.port.to_string(),
        Set::Principals(_) | Set::Namespaces(_) | Set::ServiceAccounts(_) => {
            let Some(identity) = facts.identity else {
                return "no identity: the connection is plaintext".to_owned();
            };
            let (namespace, name) = (identity.namespace(), identity.service_account());
            match set {
                Set::Namespaces(_) => namespace.to_owned(),
                Set::ServiceAccounts(_) => format!("{namespace}/{name}"),
                _ => format!("{}/ns/{namespace}/sa/{name}", identity.trust_domain()),
            }
        }
    }
}
