//! `DestinationRule`: clients no longer choose between plaintext and mutual TLS.

use super::{
    Input, Outcome, Report,
    input::Found,
    legacy::destination_rule::{DestinationRuleSpec, Tls, TlsMode, TrafficPolicy},
};

pub(super) fn report(input: &Input, report: &mut Report) {
    let mut others = false;
    for rule in input.destination_rules.values() {
        others |= policy(
            rule,
            &rule.spec.traffic_policy,
            "spec.trafficPolicy",
            report,
        );
        for subset in &rule.spec.subsets {
            let field = format!("spec.subsets[{}].trafficPolicy", subset.name);
            others |= policy(rule, &subset.traffic_policy, &field, report);
        }
        others |= !rule.spec.subsets.is_empty();
    }
    if others {
        let message = "subsets, load balancing, connection pools and the like of DestinationRules have nothing to do with mutual TLS: they are not looked at, and ztun doesn't read them";
        report.overall(Outcome::Note, message);
    }
}

/// Answers whether there is something else than TLS.
fn policy(
    rule: &Found<DestinationRuleSpec>,
    policy: &TrafficPolicy,
    field: &str,
    report: &mut Report,
) -> bool {
    let mut others = !policy.others.is_empty();
    tls(rule, policy.tls.as_ref(), &format!("{field}.tls"), report);
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let field = format!("{field}.portLevelSettings[{index}].tls");
        tls(rule, settings.tls.as_ref(), &field, report);
        others |= !settings.others.is_empty();
    }
    others
}

fn tls(rule: &Found<DestinationRuleSpec>, tls: Option<&Tls>, field: &str, report: &mut Report) {
    let Some(tls) = tls else {
        return;
    };
    let host = &rule.spec.host;
    let message = match tls.mode {
        TlsMode::IstioMutual => format!(
            "ISTIO_MUTUAL to `{host}` needs no rule: ztun uses mutual TLS to every destination that is enrolled. It is no guarantee either: one that is not enrolled is reached in clear"
        ),
        TlsMode::Disable => format!(
            "DISABLE to `{host}` has no equivalent: ztun uses mutual TLS to every destination that is enrolled. Take the workload out of the mesh if it must be reached in clear"
        ),
        TlsMode::Simple => format!(
            "SIMPLE to `{host}` has no equivalent: ztun starts no TLS of its own, what the client sends in clear leaves in clear. Let the client itself use TLS, or an egress gateway"
        ),
        TlsMode::Mutual => format!(
            "MUTUAL to `{host}`, with certificates of its own, has no equivalent: ztun starts no such TLS, what the client sends in clear leaves in clear. Let the client itself use TLS, or an egress gateway"
        ),
    };
    report.left_out(&rule.origin, format!("{field}.mode"), message);
}
