//! Where access control is on: `ClusterRbacConfig` to policies that allow nobody.

use std::{collections::BTreeSet, sync::Arc};

use super::super::{
    Draft, Input, Outcome, Report, Settings,
    input::Found,
    legacy::rbac::{EnforcementMode, RbacConfigSpec, RbacMode, RbacTarget},
    policy::{Action, AuthorizationPolicySpec, InForce, Rule, Selector},
    services::parse_host_name,
};

/// What the roles were in force for.
#[derive(Debug)]
pub(super) struct Enforcement {
    scope: Scope,
    pub in_force: InForce,
}

#[derive(Debug)]
enum Scope {
    Only(Targets),
    AllBut(Targets),
}

#[derive(Debug, Default)]
struct Targets {
    namespaces: BTreeSet<Arc<str>>,
    /// Namespace and name.
    services: BTreeSet<(Arc<str>, Arc<str>)>,
}

/// How much of a namespace the roles were in force for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    All,
    Some,
    None,
}

impl Enforcement {
    pub fn of_namespace(&self, namespace: &str) -> Coverage {
        match &self.scope {
            Scope::Only(targets) if targets.namespaces.contains(namespace) => Coverage::All,
            Scope::Only(targets) if targets.services.iter().any(|(ns, _)| **ns == *namespace) => {
                Coverage::Some
            }
            Scope::Only(_) => Coverage::None,
            Scope::AllBut(targets) if targets.namespaces.contains(namespace) => Coverage::None,
            // What is excluded of it is open to everybody already.
            Scope::AllBut(_) => Coverage::All,
        }
    }

    pub fn of_service(&self, namespace: &str, name: &str) -> bool {
        let key = (namespace.into(), name.into());
        match (&self.scope, self.of_namespace(namespace)) {
            (Scope::Only(targets), Coverage::Some) => targets.services.contains(&key),
            (Scope::AllBut(targets), Coverage::All) => !targets.services.contains(&key),
            (_, coverage) => coverage == Coverage::All,
        }
    }

    /// The services of a namespace that is [`Coverage::Some`].
    pub fn services<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let services = match &self.scope {
            Scope::Only(targets) => Some(&targets.services),
            Scope::AllBut(_) => None,
        };
        let of_namespace = services.into_iter().flatten();
        of_namespace
            .filter(move |(ns, _)| **ns == *namespace)
            .map(|(_, name)| name)
    }
}

pub(super) fn migrate(input: &Input, settings: &Settings, draft: &mut Draft) -> Enforcement {
    let Some(config) = config(input, &mut draft.report) else {
        if !input.bindings.is_empty() {
            draft.report.overall(
                Outcome::Changed,
                "there is no ClusterRbacConfig named `default` in the input, without which Istio enforced no role; the policies printed for ServiceRoleBindings are in force, and close their targets to everybody else. Add the ClusterRbacConfig if there is one",
            );
        }
        return Enforcement {
            scope: Scope::AllBut(Targets::default()),
            in_force: InForce::Yes,
        };
    };
    for name in config.spec.unknown.names() {
        let message = "ztun doesn't know this field";
        let field = format!("spec.{name}");
        draft.report.left_out(&config.origin, field, message);
    }
    let mut writer = Writer {
        config,
        in_force: match config.spec.enforcement_mode {
            EnforcementMode::Enforced => InForce::Yes,
            EnforcementMode::Permissive => InForce::DryRun,
        },
        input,
        settings,
        draft,
    };
    let scope = match config.spec.mode {
        RbacMode::Off => Scope::Only(Targets::default()),
        RbacMode::On => {
            writer.everything();
            Scope::AllBut(Targets::default())
        }
        RbacMode::OnWithInclusion => Scope::Only(writer.inclusion()),
        RbacMode::OnWithExclusion => Scope::AllBut(writer.exclusion()),
    };
    Enforcement {
        scope,
        in_force: writer.in_force,
    }
}

/// The one that Istio read.
fn config<'a>(input: &'a Input, report: &mut Report) -> Option<&'a Found<RbacConfigSpec>> {
    let all = input
        .cluster_rbac_configs
        .values()
        .chain(input.rbac_configs.values());
    let (named_default, others): (Vec<_>, Vec<_>) =
        all.partition(|config| &*config.name == "default");
    for config in others {
        let message = "Istio reads the one named `default` only: this one was not in force";
        report.left_out(&config.origin, "metadata.name", message);
    }
    let mut configs = named_default.into_iter();
    let first = configs.next()?;
    for config in configs {
        let message = format!("{} was in force instead", first.origin.object);
        report.left_out(&config.origin, "kind", message);
    }
    Some(first)
}

struct Writer<'a> {
    config: &'a Found<RbacConfigSpec>,
    in_force: InForce,
    input: &'a Input,
    settings: &'a Settings,
    draft: &'a mut Draft,
}

impl Writer<'_> {
    fn everything(&mut self) {
        let root = Arc::clone(&self.settings.root_namespace);
        self.write(&root, "deny-by-default", AuthorizationPolicySpec::default());
        self.draft.report.note(
            &self.config.origin,
            "spec.mode",
            "the policy that allows nobody is for every workload of the mesh, also for gateways, where roles were not in force",
        );
    }

    fn inclusion(&mut self) -> Targets {
        let targets = self.targets(&self.config.spec.inclusion, "spec.inclusion");
        for namespace in &targets.namespaces {
            if *namespace == self.settings.root_namespace {
                self.draft.report.left_out(
                    &self.config.origin,
                    "spec.inclusion.namespaces",
                    format!(
                        "`{namespace}` is the root namespace: a policy there that allows nobody would be for the whole mesh. Write one with a selector for each workload"
                    ),
                );
                continue;
            }
            self.write(
                namespace,
                "deny-by-default",
                AuthorizationPolicySpec::default(),
            );
        }
        for (namespace, name) in &targets.services {
            if targets.namespaces.contains(namespace) {
                continue;
            }
            if let Some(selector) = self.selector(namespace, name, "spec.inclusion.services") {
                let spec = AuthorizationPolicySpec {
                    selector,
                    ..AuthorizationPolicySpec::default()
                };
                self.write(namespace, &format!("deny-by-default-{name}"), spec);
            }
        }
        targets
    }

    /// ALLOW policies add up: one that allows everybody takes its target out of the mesh-wide one
    /// that allows nobody.
    fn exclusion(&mut self) -> Targets {
        self.everything();
        let targets = self.targets(&self.config.spec.exclusion, "spec.exclusion");
        let allow_all = |selector| AuthorizationPolicySpec {
            selector,
            action: Some(Action::Allow),
            rules: vec![Rule::default()],
        };
        for namespace in &targets.namespaces {
            if *namespace == self.settings.root_namespace {
                self.draft.report.left_out(
                    &self.config.origin,
                    "spec.exclusion.namespaces",
                    format!(
                        "`{namespace}` is the root namespace: a policy there that allows everybody would open the whole mesh. What is enrolled there is closed now: write an ALLOW policy with a selector for each workload"
                    ),
                );
                continue;
            }
            self.write(namespace, "rbac-excluded", allow_all(Selector::default()));
        }
        for (namespace, name) in &targets.services {
            if let Some(selector) = self.selector(namespace, name, "spec.exclusion.services") {
                self.write(
                    namespace,
                    &format!("rbac-excluded-{name}"),
                    allow_all(selector),
                );
            }
        }
        targets
    }

    fn targets(&mut self, target: &RbacTarget, field: &str) -> Targets {
        let report = &mut self.draft.report;
        for name in target.unknown.names() {
            let message = "ztun doesn't know this field";
            report.left_out(&self.config.origin, format!("{field}.{name}"), message);
        }
        let mut services = BTreeSet::new();
        for (index, host) in target.services.iter().enumerate() {
            match parse_host_name(host, &self.settings.cluster_domain) {
                Some((namespace, name)) => {
                    services.insert((namespace.into(), name.into()));
                }
                None => report.left_out(
                    &self.config.origin,
                    format!("{field}.services[{index}]"),
                    format!(
                        "`{host}` is not the whole name of a service, NAME.NAMESPACE.svc.{}, with which Istio compared it",
                        self.settings.cluster_domain
                    ),
                ),
            }
        }
        Targets {
            namespaces: target.namespaces.iter().cloned().collect(),
            services,
        }
    }

    fn selector(&mut self, namespace: &Arc<str>, name: &str, field: &str) -> Option<Selector> {
        let report = &mut self.draft.report;
        if *namespace == self.settings.root_namespace {
            let message = format!(
                "{name} is in the root namespace, where a policy is for workloads with these labels in every namespace: write it by hand"
            );
            report.left_out(&self.config.origin, field, message);
            return None;
        }
        let selector = self.input.services.selector(namespace, name);
        selector
            .map_err(|why| report.left_out(&self.config.origin, field, why))
            .ok()
    }

    fn write(&mut self, namespace: &Arc<str>, name: &str, spec: AuthorizationPolicySpec) {
        let from = vec![self.config.origin.clone()];
        self.draft
            .authorization_policy(namespace, name, from, self.in_force, spec);
    }
}
