//! Ports that nothing selected serves. A policy's ports are those of its workloads, not those of
//! services.

use std::collections::BTreeSet;

use super::{Check, Finding, Inventory, Located};
use crate::{
    cli::policy::lint::inventory::Member,
    mesh::policy::{
        PeerAuthentication,
        authorization::{AuthorizationPolicy, Condition},
    },
    source::field::FieldPath,
};

pub(super) fn of_rules(
    located: &Located<'_, AuthorizationPolicy>,
    inventory: &Inventory,
) -> Vec<Finding> {
    let Some(served) = Served::by(located, inventory) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut check = |path: &dyn Fn(usize) -> FieldPath, ports: &[u16]| {
        for (index, port) in ports.iter().enumerate() {
            findings.extend(served.finding(located, &path(index), *port));
        }
    };
    let rules = FieldPath::of("spec.rules");
    for (index, rule) in located.policy.rules.iter().enumerate() {
        let rule_path = rules.index(index);
        for (index, operation) in rule.to.iter().enumerate() {
            let path = rule_path.field("to").index(index).field("operation");
            check(&|index| path.field("ports").index(index), &operation.ports);
            check(
                &|index| path.field("notPorts").index(index),
                &operation.not_ports,
            );
        }
        // A condition's place among those of layer 7 is not kept.
        let when = |_| rule_path.field("when");
        for condition in &rule.when {
            if let Condition::DestinationPort(values) = condition {
                check(&when, &values.values);
                check(&when, &values.not_values);
            }
        }
    }
    findings
}

pub(super) fn of_modes(
    located: &Located<'_, PeerAuthentication>,
    inventory: &Inventory,
) -> Vec<Finding> {
    let Some(served) = Served::by(located, inventory) else {
        return Vec::new();
    };
    let modes = FieldPath::of("spec.portLevelMtls");
    let ports = located.policy.port_modes.keys();
    ports
        .filter_map(|port| served.finding(located, &modes.field(&port.to_string()), *port))
        .collect()
}

/// What is served by the workloads that a policy is for.
struct Served<'a> {
    members: Vec<&'a Member>,
    ports: BTreeSet<u16>,
}

impl<'a> Served<'a> {
    /// `None` where it isn't known of all of them.
    fn by<P>(located: &Located<'_, P>, inventory: &'a Inventory) -> Option<Self> {
        let members = inventory.selected(&located.target);
        if members.is_empty() || members.iter().any(|member| member.ports.is_empty()) {
            return None;
        }
        let ports = members.iter().flat_map(|member| member.ports.keys());
        Some(Self {
            ports: ports.copied().collect(),
            members,
        })
    }

    fn finding<P>(&self, located: &Located<'_, P>, path: &FieldPath, port: u16) -> Option<Finding> {
        if self.ports.contains(&port) {
            return None;
        }
        let mut of_services = self.members.iter();
        let service = of_services.find_map(|member| member.service_ports.get(&port));
        let message = if let Some((service, target)) = service {
            format!(
                "{port} is the port of service {service}: policies are about the workload's own, which is {target}"
            )
        } else {
            let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
            format!(
                "no workload that the policy is for serves port {port}; they serve {}",
                ports.join(", ")
            )
        };
        Some(located.warning(Check::Port, path, message))
    }
}
