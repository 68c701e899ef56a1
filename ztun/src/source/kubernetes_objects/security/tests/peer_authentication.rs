use std::collections::BTreeMap;

use super::*;
use crate::mesh::policy::MtlsMode;

const STRICT: Option<MtlsMode> = Some(MtlsMode::Strict);
const PERMISSIVE: Option<MtlsMode> = Some(MtlsMode::Permissive);

#[test]
fn every_mode_is_read_and_what_is_not_said_inherits() {
    for (rest, mode) in [
        ("", None),
        ("spec:", None),
        ("spec: {}", None),
        ("spec: {mtls: }", None),
        ("spec: {mtls: {}}", None),
        ("spec: {mtls: {mode: }}", None),
        ("spec: {mtls: {mode: UNSET}}", None),
        ("spec: {mtls: {mode: DISABLE}}", PERMISSIVE),
        ("spec: {mtls: {mode: PERMISSIVE}}", PERMISSIVE),
        ("spec: {mtls: {mode: STRICT}}", STRICT),
    ] {
        assert_eq!(peer_authentication(rest).mode, mode, "{rest}");
    }
}

#[test]
fn ports_have_modes_of_their_own() {
    let policy = peer_authentication(
        "spec: {selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: DISABLE}, \"81\": {mode: STRICT}, 82: {}}}",
    );
    let expected = BTreeMap::from([(80, PERMISSIVE), (81, STRICT), (82, None)]);
    assert_eq!(policy.port_modes, expected);
    assert_eq!(policy.selector.0.len(), 1);
}

#[test]
fn every_field_is_refused_in_whatever_way_it_is_wrong() {
    let spec = |text: &str| object("PeerAuthentication", &format!("spec: {text}"));
    let on_ports = |text: &str| {
        spec(&format!(
            "{{selector: {{matchLabels: {{app: a}}}}, portLevelMtls: {text}}}"
        ))
    };
    let cases = r#"
        STRICT => - => expected an object with selector, mtls or portLevelMtls, found text
        {tls: {mode: STRICT}} => .tls => unknown field, expected selector, mtls or portLevelMtls
        {mTLS: {mode: STRICT}} => .mTLS => write `mtls`
        {mode: STRICT} => .mode => unknown field
        {peers: []} => .peers => unknown field
        {mtls: STRICT} => .mtls => expected an object with mode, found text
        {mtls: [{mode: STRICT}]} => .mtls => found a list
        {mtls: {Mode: STRICT}} => .mtls.Mode => write `mode`
        {mtls: {mode: strict}} => .mtls.mode => `strict` is not known, expected UNSET, DISABLE, PERMISSIVE or STRICT: write STRICT
        {mtls: {mode: STRCT}} => .mtls.mode => `STRCT` is not known, expected
        {mtls: {mode: ISTIO_MUTUAL}} => .mtls.mode => is not known
        {mtls: {mode: 3}} => .mtls.mode => expected text, found a number
        {mtls: {mode: true}} => .mtls.mode => expected text, found true or false
        {mtls: {mode: ""}} => .mtls.mode => must not be empty
        {selector: {app: a}} => .selector.app => only `matchLabels`
        {selector: {matchLabels: {app: 1}}} => .selector.matchLabels.app => put it in quotes
        {portLevelMtls: {80: {mode: STRICT}}} => .portLevelMtls => needs `spec.selector`
        {selector: {}, portLevelMtls: {80: {mode: STRICT}}} => .portLevelMtls => needs `spec.selector`
    "#;
    assert_wrong(cases, spec, "spec");
    let cases = r"
        [80] => - => expected port numbers, each with its `mode`, found a list
        80 => - => found a number
        {0: {mode: STRICT}} => .0 => from 1 to 65535
        {70000: {mode: STRICT}} => .70000 => from 1 to 65535
        {-1: {mode: STRICT}} => .-1 => from 1 to 65535
        {http: {mode: STRICT}} => .http => names and ranges are not possible
        {80: STRICT} => .80 => expected an object with mode, found text
        {80: } => .80 => found nothing
        {80: {mode: strict}} => .80.mode => write STRICT
        {80: {modes: STRICT}} => .80.modes => write `mode`
    ";
    assert_wrong(cases, on_ports, "spec.portLevelMtls");
}
