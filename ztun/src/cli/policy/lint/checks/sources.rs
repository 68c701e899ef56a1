//! Principals, namespaces and service accounts that nobody has.

use super::{Check, Finding, Inventory, Located, ReadContext};
use crate::{
    mesh::{
        Identity,
        policy::authorization::{
            AuthorizationPolicy, Condition, ServiceAccount, StringMatch, Values,
        },
    },
    source::field::FieldPath,
};

pub(super) fn check(
    located: &Located<'_, AuthorizationPolicy>,
    inventory: &Inventory,
    context: ReadContext<'_>,
) -> Vec<Finding> {
    let mut sources = Sources {
        located,
        inventory,
        context,
        findings: Vec::new(),
    };
    let rules = FieldPath::of("spec.rules");
    for (index, rule) in located.policy.rules.iter().enumerate() {
        let rule_path = rules.index(index);
        for (index, source) in rule.from.iter().enumerate() {
            let path = rule_path.field("from").index(index).field("source");
            let field = |name| {
                let path = path.field(name);
                move |index| path.index(index)
            };
            sources.principals(field("principals"), &source.principals);
            sources.principals(field("notPrincipals"), &source.not_principals);
            sources.namespaces(field("namespaces"), &source.namespaces);
            sources.namespaces(field("notNamespaces"), &source.not_namespaces);
            sources.accounts(field("serviceAccounts"), &source.service_accounts);
            sources.accounts(field("notServiceAccounts"), &source.not_service_accounts);
        }
        // A condition's place among those of layer 7 is not kept.
        let path = rule_path.field("when");
        let when = |_| path.clone();
        for condition in &rule.when {
            match condition {
                Condition::SourcePrincipal(values) => {
                    both(values, |values| sources.principals(when, values));
                }
                Condition::SourceNamespace(values) => {
                    both(values, |values| sources.namespaces(when, values));
                }
                Condition::SourceServiceAccount(values) => {
                    both(values, |values| sources.accounts(when, values));
                }
                _ => {}
            }
        }
    }
    sources.findings
}

fn both<T>(values: &Values<T>, mut check: impl FnMut(&[T])) {
    check(&values.values);
    check(&values.not_values);
}

struct Sources<'a> {
    located: &'a Located<'a, AuthorizationPolicy>,
    inventory: &'a Inventory,
    context: ReadContext<'a>,
    findings: Vec<Finding>,
}

impl Sources<'_> {
    fn principals(&mut self, path: impl Fn(usize) -> FieldPath, patterns: &[StringMatch]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Some(message) = self.principal(pattern) {
                self.add(&path(index), message);
            }
        }
    }

    fn namespaces(&mut self, path: impl Fn(usize) -> FieldPath, patterns: &[StringMatch]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Some(message) = self.namespace(pattern) {
                self.add(&path(index), message);
            }
        }
    }

    fn accounts(&mut self, path: impl Fn(usize) -> FieldPath, accounts: &[ServiceAccount]) {
        for (index, account) in accounts.iter().enumerate() {
            if let Some(message) = self.account(&account.namespace, &account.name) {
                self.add(&path(index), message);
            }
        }
    }

    fn principal(&self, pattern: &StringMatch) -> Option<String> {
        let trust_domain = self.context.trust_domain;
        if let StringMatch::Exact(text) = pattern {
            let identity: Identity = format!("spiffe://{text}").parse().ok()?;
            if identity.trust_domain() != trust_domain {
                return Some(format!(
                    "trust domain `{}` is not the mesh's, `{trust_domain}`",
                    identity.trust_domain()
                ));
            }
            return self.account(identity.namespace(), identity.service_account());
        }
        if !self.inventory.knows_service_accounts() {
            return None;
        }
        let mut accounts = self.inventory.service_accounts();
        let is_someones = accounts.any(|(namespace, name)| {
            pattern.matches(&format!("{trust_domain}/ns/{namespace}/sa/{name}"))
        });
        // The root namespace is often not among the files: gateways are there.
        let root = format!("{trust_domain}/ns/{}/sa/", self.context.root_namespace);
        let may_be_of_root = match pattern {
            StringMatch::Prefix(prefix) => prefix.starts_with(&root) || root.starts_with(&**prefix),
            _ => false,
        };
        (!is_someones && !may_be_of_root).then(|| {
            format!(
                "`{}` matches no service account of the directory",
                text(pattern)
            )
        })
    }

    fn namespace(&self, pattern: &StringMatch) -> Option<String> {
        if !self.inventory.declares_namespaces() && !self.inventory.has_workloads() {
            return None;
        }
        let mut namespaces = self.inventory.namespaces();
        let is_there = namespaces.any(|namespace| pattern.matches(namespace))
            || pattern.matches(self.context.root_namespace);
        (!is_there).then(|| match pattern {
            StringMatch::Exact(name) => format!("namespace `{name}` is not in the directory"),
            _ => format!("`{}` matches no namespace of the directory", text(pattern)),
        })
    }

    fn account(&self, namespace: &str, name: &str) -> Option<String> {
        let inventory = self.inventory;
        let is_root =
            *namespace == *self.context.root_namespace && !inventory.has_namespace(namespace);
        let is_known = inventory.has_service_account(namespace, name);
        if !inventory.knows_service_accounts() || is_root || is_known {
            return None;
        }
        Some(format!(
            "no service account `{namespace}/{name}` is in the directory, and no workload has it"
        ))
    }

    fn add(&mut self, path: &FieldPath, message: String) {
        let finding = self.located.warning(Check::Source, path, message);
        self.findings.push(finding);
    }
}

/// As it was written.
fn text(pattern: &StringMatch) -> String {
    match pattern {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(prefix) => format!("{prefix}*"),
        StringMatch::Suffix(suffix) => format!("*{suffix}"),
        StringMatch::Presence => "*".to_owned(),
    }
}
