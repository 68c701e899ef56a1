#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use super::*;
use crate::mesh::{
    Connection, Decision, Denial, Identity, Policies, Workload,
    fixture::workload,
    policy::{Policy, PolicyKind, Selector},
};

fn policy(action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy {
        namespace: "foo".into(),
        name: "p".into(),
        created: None,
        selector: Selector::default(),
        action,
        dry_run: false,
        rules,
    }
}

fn named(name: &str, policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: name.into(),
        ..policy
    }
}

fn dry_run(policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        dry_run: true,
        ..policy
    }
}

fn from(source: Source) -> Rule {
    Rule {
        from: vec![source],
        ..Rule::default()
    }
}

fn namespaces(names: &[&str]) -> Source {
    Source {
        namespaces: names.iter().map(|name| StringMatch::from(*name)).collect(),
        ..Source::default()
    }
}

/// The mesh's policies, and a pod `a` of namespace `foo` that one of namespace `bar` connects to.
struct Case {
    policies: Policies,
    destination: Workload,
    source: Option<Identity>,
    source_address: SocketAddr,
}

impl Case {
    fn new(policies: impl IntoIterator<Item = AuthorizationPolicy>) -> Self {
        let mut all = Policies::default();
        for policy in policies {
            let kind = PolicyKind::AuthorizationPolicy;
            let key = PolicyKey::new(kind, &policy.namespace, &policy.name);
            all.insert(key, Policy::Authorization(Arc::new(policy)));
        }
        Self {
            policies: all,
            destination: workload("a", &["10.0.0.1"]),
            source: Some("spiffe://cluster.local/ns/bar/sa/b".parse().unwrap()),
            source_address: "10.0.0.2:40000".parse().unwrap(),
        }
    }

    fn plaintext(self) -> Self {
        Self {
            source: None,
            ..self
        }
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            source: self.source.as_ref(),
            source_address: self.source_address,
            destination: &self.destination,
            destination_address: "10.0.0.1:80".parse().unwrap(),
        }
    }

    fn denial(&self) -> Option<Denial> {
        match self.policies.authorize(&self.connection()) {
            Decision::Allow => None,
            Decision::Deny(denial) => Some(denial),
        }
    }

    fn is_allowed(&self) -> bool {
        self.denial().is_none()
    }

    fn outcomes(&self) -> Vec<(String, AuditOutcome)> {
        let findings = self.policies.audit(&self.connection());
        let mut outcomes: Vec<_> = findings
            .map(|finding| (finding.policy.to_string(), finding.outcome))
            .collect();
        outcomes.sort();
        outcomes
    }
}

#[test]
fn an_allow_policy_without_rules_allows_nobody_and_a_deny_policy_without_rules_denies_nobody() {
    let denial = Case::new([policy(Action::Allow, vec![])]).denial().unwrap();
    assert_eq!(&*denial.policy, "AuthorizationPolicy foo/p");
    assert_eq!(&*denial.reason, "it has no rules, so it allows nobody");
    assert!(Case::new([policy(Action::Deny, vec![])]).is_allowed());
}

#[test]
fn a_rule_that_asks_for_nothing_matches_everything() {
    for (action, allowed) in [(Action::Allow, true), (Action::Deny, false)] {
        let case = Case::new([policy(action, vec![Rule::default()])]).plaintext();
        assert_eq!(case.is_allowed(), allowed, "{action:?}");
    }
}

#[test]
fn deny_wins_over_allow_and_names_its_rule() {
    let deny = policy(
        Action::Deny,
        vec![from(namespaces(&["qux"])), from(namespaces(&["b*"]))],
    );
    let allow = named("allow", policy(Action::Allow, vec![Rule::default()]));
    let denial = Case::new([allow, deny]).denial().unwrap();
    assert_eq!(&*denial.policy, "AuthorizationPolicy foo/p");
    assert_eq!(&*denial.reason, "its rule 2 (rules[1]) denies it");
}

#[test]
fn one_allow_policy_that_matches_is_enough() {
    let other = named("a", policy(Action::Allow, vec![from(namespaces(&["qux"]))]));
    let matching = policy(Action::Allow, vec![from(namespaces(&["bar"]))]);
    assert!(Case::new([other.clone(), matching]).is_allowed());
    assert!(!Case::new([other]).is_allowed());
}

#[test]
fn a_denial_names_the_allow_policies_that_do_not_match() {
    let allowing = |count| {
        let names = ('a'..='z').take(count).map(|name| name.to_string());
        let policies = names.map(|name| named(&name, policy(Action::Allow, vec![])));
        Case::new(policies).denial().unwrap()
    };
    let two = allowing(2);
    assert_eq!(&*two.policy, "AuthorizationPolicy foo/a");
    let reason = "no rule of the ALLOW policies that apply (foo/a, foo/b) matches";
    assert_eq!(&*two.reason, reason);
    let seven = allowing(7).reason;
    assert!(seven.contains("foo/e and 2 more)"), "{seven}");
    assert!(!allowing(5).reason.contains("more"));
}

#[test]
fn a_rule_with_layer_7_attributes_never_allows_and_denies_whatever_they_are() {
    let rule = Rule {
        layer7: vec!["to[0].operation.methods".into()],
        ..Rule::default()
    };
    for action in [Action::Allow, Action::Deny] {
        assert!(!Case::new([policy(action, vec![rule.clone()])]).is_allowed());
    }
    let case = Case::new([policy(Action::Allow, vec![rule])]);
    let explanation = case.policies.explain(&case.connection());
    let mismatch = &explanation.policies[0].rules[0].mismatches[0];
    assert_eq!(mismatch.field, "to[0].operation.methods");
}

/// As Istio has it (ISTIO-SECURITY-2021-004): who proves no identity has none that a `not` names.
#[test]
fn plaintext_matches_no_identity_and_every_not() {
    let principal = StringMatch::Exact("cluster.local/ns/bar/sa/b".into());
    let account = ServiceAccount {
        namespace: "bar".into(),
        name: "b".into(),
    };
    let named = [
        Source {
            principals: vec![principal.clone(), StringMatch::Presence],
            ..Source::default()
        },
        namespaces(&["bar", "*"]),
        Source {
            service_accounts: vec![account.clone()],
            ..Source::default()
        },
    ];
    let not_named = [
        Source {
            not_principals: vec![principal, StringMatch::Presence],
            ..Source::default()
        },
        Source {
            not_namespaces: namespaces(&["bar", "*"]).namespaces,
            ..Source::default()
        },
        Source {
            not_service_accounts: vec![account],
            ..Source::default()
        },
    ];
    let case = |source: &Source| Case::new([policy(Action::Allow, vec![from(source.clone())])]);
    for source in &named {
        assert!(case(source).is_allowed());
        let denial = case(source).plaintext().denial().unwrap();
        assert!(denial.hint.contains("plaintext"), "{denial}");
    }
    for source in &not_named {
        assert!(!case(source).is_allowed());
        assert!(case(source).plaintext().is_allowed());
    }
}

#[test]
fn a_selector_of_the_root_namespace_selects_in_every_namespace() {
    let of_root = |app: &str| AuthorizationPolicy {
        namespace: "istio-system".into(),
        selector: Selector([("app".into(), app.into())].into()),
        ..policy(Action::Deny, vec![Rule::default()])
    };
    assert!(!Case::new([of_root("a")]).is_allowed());
    assert!(Case::new([of_root("b")]).is_allowed());
}

#[test]
fn mapped_and_plain_ipv4_are_the_same_in_addresses_and_in_blocks() {
    for block in ["10.0.0.0/24", "::ffff:10.0.0.0/120", "10.0.0.2/32"] {
        let source = Source {
            ip_blocks: vec![block.parse().unwrap()],
            ..Source::default()
        };
        for address in ["10.0.0.2:1", "[::ffff:10.0.0.2]:1"] {
            let mut case = Case::new([policy(Action::Allow, vec![from(source.clone())])]);
            case.source_address = address.parse().unwrap();
            assert!(case.is_allowed(), "{address} is within {block}");
            case.source_address = "[fd00::1]:1".parse().unwrap();
            assert!(!case.is_allowed(), "{block}");
        }
    }
}

#[test]
fn audit_and_dry_run_decide_nothing_and_are_reported() {
    let everything = || vec![Rule::default()];
    let case = Case::new([
        named("audit", policy(Action::Audit, everything())),
        named("deny", dry_run(policy(Action::Deny, everything()))),
        named("silent", dry_run(policy(Action::Deny, vec![]))),
        named("unmatched", policy(Action::Audit, vec![])),
    ]);
    assert!(case.is_allowed());
    let title = |name: &str| format!("AuthorizationPolicy foo/{name}");
    let expected = [
        (title("audit"), AuditOutcome::Matched),
        (title("deny"), AuditOutcome::WouldDeny),
    ];
    assert_eq!(case.outcomes(), expected);
}

#[test]
fn dry_run_allow_policies_would_deny_only_what_none_of_them_and_none_in_force_allows() {
    let allow = |name: &str, namespace: &str| {
        let rules = vec![from(namespaces(&[namespace]))];
        named(name, policy(Action::Allow, rules))
    };
    let (first, second) = (dry_run(allow("a", "qux")), dry_run(allow("b", "bar")));
    let title = |name: &str| format!("AuthorizationPolicy foo/{name}");
    let alone = Case::new([first.clone()]);
    assert!(alone.is_allowed());
    assert_eq!(alone.outcomes(), [(title("a"), AuditOutcome::WouldDeny)]);
    let both = Case::new([first.clone(), second]);
    assert_eq!(both.outcomes(), [(title("b"), AuditOutcome::WouldAllow)]);
    let beside_one_in_force = Case::new([first, allow("c", "bar")]);
    assert_eq!(beside_one_in_force.outcomes(), []);
}

#[test]
fn an_explanation_tells_the_field_and_what_was_seen_there() {
    let rule = Rule {
        from: vec![
            namespaces(&["qux"]),
            Source {
                not_ip_blocks: vec!["10.0.0.0/8".parse().unwrap()],
                ..Source::default()
            },
        ],
        to: vec![Operation {
            ports: vec![80],
            not_ports: vec![],
        }],
        when: vec![Condition::SourcePrincipal(Values {
            values: vec![],
            not_values: vec!["*/sa/b".into()],
        })],
        layer7: vec![],
    };
    let case = Case::new([policy(Action::Allow, vec![rule])]);
    let explanation = case.policies.explain(&case.connection());
    let mismatches: Vec<_> = explanation.policies[0].rules[0]
        .mismatches
        .iter()
        .map(|mismatch| (mismatch.field.as_str(), mismatch.seen.as_str()))
        .collect();
    let expected = [
        ("from[0].source.namespaces", "bar"),
        ("from[1].source.notIpBlocks", "10.0.0.2"),
        ("when[0].notValues", "cluster.local/ns/bar/sa/b"),
    ];
    assert_eq!(mismatches, expected);
}

#[test]
fn an_explanation_is_written_as_json_that_names_the_decider() {
    let case = Case::new([policy(Action::Deny, vec![from(namespaces(&["bar"]))])]);
    let explanation = case.policies.explain(&case.connection());
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(
        json["decision"]["deny"]["policy"],
        "AuthorizationPolicy foo/p"
    );
    assert_eq!(json["decidedBy"]["rule"], 0);
    assert_eq!(json["mutualTls"]["mode"], "PERMISSIVE");
    assert_eq!(json["policies"][0]["action"], "DENY");
    let target = "every workload of namespace foo";
    assert_eq!(json["policies"][0]["target"], target);
    let case = Case::new([]);
    let explanation = case.policies.explain(&case.connection());
    assert_eq!(
        serde_json::to_value(&explanation).unwrap()["decision"],
        "allow"
    );
    assert_eq!(explanation.decided_by, None);
}

#[test]
fn a_principal_that_names_one_name_of_the_meshs_trust_domain_means_all_of_them() {
    let principals = |patterns: &[&str]| -> Vec<StringMatch> {
        patterns.iter().map(|pattern| (*pattern).into()).collect()
    };
    let allowed = |source: Source, identity: &str| {
        let mut case = Case::new([policy(Action::Allow, vec![from(source)])]);
        let names = ["cluster.local", "former"].map(|name| name.parse().unwrap());
        case.policies = case.policies.with_trust_domains(names.into());
        case.source = Some(identity.parse().unwrap());
        case.is_allowed()
    };
    let (own, former, other) = (
        "spiffe://cluster.local/ns/bar/sa/b",
        "spiffe://former/ns/bar/sa/b",
        "spiffe://other/ns/bar/sa/b",
    );
    for pattern in [
        "cluster.local/ns/bar/sa/b",
        "former/ns/bar/sa/b",
        "former/ns/bar/*",
    ] {
        let by_name = |identity| {
            let principals = principals(&[pattern]);
            allowed(
                Source {
                    principals,
                    ..Source::default()
                },
                identity,
            )
        };
        assert!(by_name(own) && by_name(former), "{pattern}");
        assert!(!by_name(other), "{pattern}");
        let but_name = |identity| {
            let not_principals = principals(&[pattern]);
            allowed(
                Source {
                    not_principals,
                    ..Source::default()
                },
                identity,
            )
        };
        assert!(!but_name(own) && !but_name(former), "{pattern}");
        assert!(but_name(other), "{pattern}");
    }
    let principals = principals(&["other/ns/bar/sa/b"]);
    let of_other = Source {
        principals,
        ..Source::default()
    };
    assert!(allowed(of_other.clone(), other));
    assert!(!allowed(of_other.clone(), own) && !allowed(of_other, former));
}
