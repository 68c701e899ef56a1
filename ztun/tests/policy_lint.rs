//! `ztun policy lint` as it is called: what it prints, and how it ends.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: foo}
spec:
  rules:
  - to: [{operation: {methods: [GET]}}]
";

fn lint(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ztun"))
        .args(["policy", "lint"])
        .arg(directory)
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn it_prints_what_it_finds_and_fails_only_on_errors() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("p.yaml");
    fs::write(&file, POLICY).unwrap();
    let output = lint(directory.path(), &[]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    let place = format!(
        "{}:6: warning: AuthorizationPolicy foo/p: spec.rules[0]: ",
        file.display()
    );
    assert!(printed.starts_with(&place), "{printed}");

    fs::write(&file, POLICY.replace("methods", "method")).unwrap();
    let output = lint(directory.path(), &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report,
        json!({
            "policies": 0,
            "findings": [{
                "file": file,
                "line": 6,
                "severity": "error",
                "check": "rejected",
                "object": "AuthorizationPolicy foo/p",
                "field": "spec.rules[0].to[0].operation.method",
                "message": "unknown field: write `methods`",
            }],
        })
    );
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let output = lint(Path::new("/nowhere/at/all"), &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("read the directory /nowhere/at/all: No such file"),
        "{error}"
    );
}
