//! The engine agrees with the naive evaluator, with its own explanations, and with an engine that
//! was built from scratch.

use proptest::{collection::vec, option, prelude::*};

use super::{
    super::{
        Connection, Decision, Explanation, MtlsMode, Policies,
        authorization::{Action, AuditFinding, PolicyExplanation, RuleExplanation},
    },
    naive::{Naive, Refusal},
    strategies::{PolicySet, ROOT, attempt, peer_authentications, policies, policy},
};

fn engine(policies: &PolicySet) -> Policies {
    let mut engine = Policies::new(ROOT);
    for (key, policy) in policies {
        engine.insert(key.clone(), policy.clone());
    }
    engine
}

fn naive(policies: &PolicySet) -> Naive<'_> {
    Naive {
        root_namespace: ROOT,
        policies: policies.iter().collect(),
    }
}

fn refusal(decision: &Decision) -> Refusal {
    let Decision::Deny(denial) = decision else {
        return None;
    };
    let rule = denial.reason.split_once("rules[").map(|(_, rest)| {
        let (index, _) = rest.split_once(']').unwrap();
        index.parse().unwrap()
    });
    Some((denial.policy.to_string(), rule))
}

fn findings(engine: &Policies, connection: &Connection<'_>) -> Vec<AuditFinding> {
    let mut findings: Vec<_> = engine.audit(connection).collect();
    findings.sort();
    findings
}

/// What an explanation says, put together from its parts.
fn explained(explanation: &Explanation, connection: &Connection<'_>) -> Refusal {
    let plaintext = connection.source.is_none();
    let policies = || explanation.policies.iter().filter(|it| it.in_force());
    let allowing = || policies().filter(|it| it.action == Action::Allow);
    let denied = policies().find_map(|it| {
        let denies = it.action == Action::Deny;
        denies.then_some((it, it.matching_rule?))
    });
    if let Some(closed) = explanation.closed.first() {
        Some((closed.policy.to_string(), None))
    } else if plaintext && explanation.mutual_tls.mode == MtlsMode::Strict {
        let policy = explanation.mutual_tls.set_by.as_ref().unwrap();
        Some((policy.to_string(), None))
    } else if let Some((policy, rule)) = denied {
        Some((policy.policy.to_string(), Some(rule)))
    } else if allowing().any(|it| it.matching_rule.is_some()) {
        None
    } else {
        let policy = allowing().next()?;
        Some((policy.policy.to_string(), None))
    }
}

fn rules_say_why(policy: &PolicyExplanation) -> bool {
    let first = policy.rules.iter().position(|rule| rule.matches);
    let why = |rule: &RuleExplanation| rule.matches == rule.mismatches.is_empty();
    first == policy.matching_rule && policy.rules.iter().all(why)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_decision_is_the_naive_one(
        policies in prop_oneof![4 => policies().boxed(), 1 => peer_authentications().boxed()],
        attempts in vec(attempt(), 8),
    ) {
        let (engine, naive) = (engine(&policies), naive(&policies));
        for attempt in &attempts {
            let connection = attempt.connection();
            let decision = engine.authorize(&connection);
            prop_assert_eq!(refusal(&decision), naive.refusal(&connection), "{:?}", connection);
        }
    }

    #[test]
    fn findings_are_the_naive_ones(policies in policies(), attempts in vec(attempt(), 8)) {
        let (engine, naive) = (engine(&policies), naive(&policies));
        for attempt in &attempts {
            let connection = attempt.connection();
            let found = findings(&engine, &connection);
            prop_assert_eq!(found, naive.findings(&connection), "{:?}", connection);
        }
    }

    #[test]
    fn an_explanation_never_disagrees_with_the_decision(
        policies in policies(),
        attempts in vec(attempt(), 8),
    ) {
        let engine = engine(&policies);
        for attempt in &attempts {
            let connection = attempt.connection();
            let decision = engine.authorize(&connection);
            let explanation = engine.explain(&connection);
            prop_assert_eq!(explained(&explanation, &connection), refusal(&decision));
            prop_assert!(explanation.policies.iter().all(rules_say_why), "{:#?}", explanation);
            if let Some((policy, rule)) = refusal(&decision) {
                let decider = explanation.decided_by.as_ref();
                let decider = decider.map(|it| (it.policy.to_string(), it.rule));
                prop_assert_eq!(decider, Some((policy, rule)));
            }
            prop_assert_eq!(explanation.decision, decision);
        }
    }

    #[test]
    fn changes_one_by_one_end_where_building_from_scratch_does(
        first in policies(),
        changes in vec((policy(), option::weighted(0.6, Just(()))), 1..12),
        attempts in vec(attempt(), 4),
    ) {
        let original = engine(&first);
        let mut changed = original.clone();
        let mut policies = first.clone();
        for ((key, policy), inserts) in changes {
            if inserts.is_some() {
                changed.insert(key.clone(), policy.clone());
                policies.insert(key, policy);
            } else {
                changed.remove(&key);
                policies.remove(&key);
            }
        }
        for (engine, policies) in [(&changed, &policies), (&original, &first)] {
            let rebuilt = self::engine(policies);
            for attempt in &attempts {
                let connection = attempt.connection();
                prop_assert_eq!(engine.explain(&connection), rebuilt.explain(&connection));
                prop_assert_eq!(findings(engine, &connection), findings(&rebuilt, &connection));
            }
        }
    }
}
