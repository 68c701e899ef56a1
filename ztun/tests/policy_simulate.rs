//! `ztun policy simulate` as it is called: what it prints, and how it ends.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const MESH: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: foo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: foo, uid: u}
spec: {nodeName: a, serviceAccountName: server, containers: [{name: a, image: a}]}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: foo}
spec: {mtls: {mode: STRICT}}
";

const IN_CLEAR: &str = "2026-01-01T00:00:00.000000Z  INFO access: connection complete src.addr=192.0.2.1:4711 dst.addr=10.0.0.2:80 dst.workload=\"server\" dst.namespace=\"foo\" direction=\"inbound\" bytes_sent=5 bytes_recv=5 duration=1ms\n";
const DENIED: &str = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","fields":{"message":"connection complete","src.addr":"10.0.0.1:4711","src.identity":"spiffe://cluster.local/ns/foo/sa/client","dst.addr":"10.0.0.2:80","direction":"inbound","suppressed":2,"error":"denied by AuthorizationPolicy foo/before: no rule matches"},"target":"access"}
"#;

fn simulate(directory: &Path, log: &str) -> Output {
    let flows = directory.join("flows.log");
    fs::write(&flows, log).unwrap();
    fs::write(directory.join("mesh.yaml"), MESH).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ztun"))
        .args(["policy", "simulate", "--against"])
        .args([&flows, directory])
        .output()
        .unwrap()
}

#[test]
fn what_would_change_is_told_with_the_policy_that_decides() {
    let directory = tempfile::tempdir().unwrap();
    let output = simulate(directory.path(), &format!("{IN_CLEAR}{IN_CLEAR}{DENIED}"));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{printed}");
    let expected = "\
NEWLY DENIED   2 x 192.0.2.1 (plaintext) -> foo/server 10.0.0.2:80
  denied by PeerAuthentication foo/default: mode STRICT requires mutual TLS and the connection is plaintext: enrol the client, or make this port PERMISSIVE while clients move
NEWLY ALLOWED  3 x 10.0.0.1 (spiffe://cluster.local/ns/foo/sa/client) -> 10.0.0.2:80
  no policy denies it, and none has to allow it
  before: denied by AuthorizationPolicy foo/before: no rule matches
connections: 2 newly denied, 3 newly allowed, 0 not judged, 0 still allowed, 0 still denied
";
    assert_eq!(printed, expected);
}

#[test]
fn a_proposal_that_only_opens_or_changes_nothing_ends_with_its_own_code() {
    let directory = tempfile::tempdir().unwrap();
    let output = simulate(directory.path(), DENIED);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let elsewhere = IN_CLEAR
        .replace("10.0.0.2", "10.0.0.9")
        .replace("\"server\"", "\"gone\"");
    let output = simulate(directory.path(), &elsewhere);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("NOT JUDGED     1 x 192.0.2.1"),
        "{printed}"
    );
}

#[test]
fn a_log_without_flows_fails_and_a_line_that_is_cut_off_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let output = simulate(directory.path(), "started\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("no line about an inbound connection"),
        "{error}"
    );

    let output = simulate(directory.path(), &format!("{DENIED}{}", &DENIED[..100]));
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("flows.log:2: left out: "), "{error}");
}
