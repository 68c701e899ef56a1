//! What a role allows: an access rule to an operation, conditions and labels.

use std::sync::Arc;

use super::super::{
    Layer7, Origin, Report,
    legacy::rbac::{AccessRule, Constraint},
    policy::{Condition, Operation},
};
use crate::{mesh::policy::authorization::StringMatch, source::kubernetes_objects::Labels};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Permission {
    pub operation: Operation,
    pub when: Vec<Condition>,
    /// What the workload carries besides its service's labels: all of one of these.
    pub labels: Vec<Labels>,
}

/// `None` where a restriction has no equivalent: a rule is never widened in silence.
pub(super) fn convert(
    rule: &AccessRule,
    namespace: &str,
    origin: &Origin,
    field: &str,
    layer7: Layer7,
    report: &mut Report,
) -> Option<Permission> {
    if let Some(name) = rule.unknown.names().next() {
        let message = "ztun doesn't know this field: the rule is left out with it";
        report.left_out(origin, format!("{field}.{name}"), message);
        return None;
    }
    let mut permission = Permission {
        operation: Operation {
            hosts: rule.hosts.clone(),
            not_hosts: rule.not_hosts.clone(),
            ports: rule.ports.iter().map(u16::to_string).collect(),
            not_ports: rule.not_ports.iter().map(u16::to_string).collect(),
            methods: rule.methods.clone(),
            not_methods: rule.not_methods.clone(),
            paths: rule.paths.clone(),
            not_paths: rule.not_paths.clone(),
        },
        when: Vec::new(),
        labels: vec![Labels::new()],
    };
    permission.without_wildcards(origin, field, report);
    for (index, constraint) in rule.constraints.iter().enumerate() {
        if let Err(why) = permission.constrain(constraint, namespace) {
            let field = format!("{field}.constraints[{index}]");
            let message = format!("{}: {why}: the rule is left out with it", constraint.key);
            report.left_out(origin, field, message);
            return None;
        }
    }
    if let Err(why) = permission.operation.check() {
        let message = format!("{why}: the rule is left out with it");
        report.left_out(origin, field, message);
        return None;
    }
    if layer7 == Layer7::Drop {
        permission.drop_layer7(origin, field, report);
    }
    Some(permission)
}

impl Permission {
    /// A `*` allows whatever there is, as no value does. The latter holds at layer 4 too.
    fn without_wildcards(&mut self, origin: &Origin, field: &str, report: &mut Report) {
        for (name, values) in [
            ("methods", &mut self.operation.methods),
            ("paths", &mut self.operation.paths),
            ("hosts", &mut self.operation.hosts),
        ] {
            if values.iter().any(|value| value == "*") {
                values.clear();
                let message = "`*` is all of them, so the policy names none; where the service was not HTTP, Istio ignored the rule because of it, and now it allows";
                report.note(origin, format!("{field}.{name}"), message);
            }
        }
    }

    fn constrain(&mut self, constraint: &Constraint, namespace: &str) -> Result<(), String> {
        let Constraint {
            key,
            values,
            unknown,
        } = constraint;
        if let Some(name) = unknown.names().next() {
            return Err(format!("ztun doesn't know its field `{name}`"));
        }
        if values.is_empty() {
            return Err("it has no values".to_owned());
        }
        let condition = || Condition::new(key, values.clone());
        condition().check()?;
        match &**key {
            "destination.port" => {
                if self.operation.ports.is_empty() {
                    self.operation.ports.clone_from(values);
                } else {
                    self.when.push(condition());
                }
            }
            "destination.namespace" => {
                let mut patterns = values.iter().map(|value| StringMatch::from(&**value));
                if !patterns.any(|pattern| pattern.matches(namespace)) {
                    return Err(format!("it never matched, the role is for `{namespace}`"));
                }
            }
            "destination.ip" | "connection.sni" => self.when.push(condition()),
            _ if key.starts_with("request.headers[")
                || key.starts_with("experimental.envoy.filters.") =>
            {
                self.when.push(condition());
            }
            _ => match in_brackets(key, "destination.labels") {
                Some(label) => self.label(label, values)?,
                None => return Err("this constraint has no equivalent".to_owned()),
            },
        }
        Ok(())
    }

    /// Labels select, so every value gets a policy of its own.
    fn label(&mut self, label: &str, values: &[String]) -> Result<(), String> {
        if let Some(value) = values.iter().find(|value| value.contains('*')) {
            return Err(format!(
                "today's selectors have no wildcards such as `{value}`"
            ));
        }
        let (label, before): (Arc<str>, _) = (label.into(), std::mem::take(&mut self.labels));
        for labels in before {
            for value in values {
                let mut labels = labels.clone();
                let other = labels.insert(Arc::clone(&label), value.as_str().into());
                if other.is_none_or(|other| *other == **value) {
                    self.labels.push(labels);
                }
            }
        }
        if self.labels.is_empty() {
            return Err("no workload carries two values of a label".to_owned());
        }
        Ok(())
    }

    fn drop_layer7(&mut self, origin: &Origin, field: &str, report: &mut Report) {
        let operation = &mut self.operation;
        for (name, what, values) in [
            ("methods", "every method, not only", &mut operation.methods),
            (
                "notMethods",
                "every method, also",
                &mut operation.not_methods,
            ),
            ("paths", "every path, not only", &mut operation.paths),
            ("notPaths", "every path, also", &mut operation.not_paths),
            ("hosts", "every host, not only", &mut operation.hosts),
            ("notHosts", "every host, also", &mut operation.not_hosts),
        ] {
            if !values.is_empty() {
                let values = std::mem::take(values).join(", ");
                let message = format!("now allows more than before: {what} {values}");
                report.changed(origin, format!("{field}.{name}"), message);
            }
        }
        let conditions = std::mem::take(&mut self.when);
        let (dropped, kept): (Vec<_>, _) = conditions.into_iter().partition(Condition::is_layer7);
        self.when = kept;
        for condition in dropped {
            let message = format!(
                "now allows more than before: whatever {} is, not only {}",
                condition.key,
                condition.values.join(", ")
            );
            report.changed(origin, format!("{field}.constraints"), message);
        }
    }
}

/// `x` of `KEY[x]`.
fn in_brackets<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let name = text
        .strip_prefix(key)?
        .strip_prefix('[')?
        .strip_suffix(']')?;
    (!name.is_empty()).then_some(name)
}
