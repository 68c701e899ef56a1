mod effect;
mod mesh;

use std::fs;

use super::{finding::Check, *};

/// Findings of one file.
fn lint_text(text: &str) -> Vec<Finding> {
    lint_files(&[("all.yaml", text)]).findings
}

fn lint_files(files: &[(&str, &str)]) -> Report {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let args = LintArgs {
        directory: directory.path().to_owned(),
        output: Output::Table,
        trust_domain: "cluster.local".parse().unwrap(),
        root_namespace: "istio-system".into(),
    };
    lint(&args).unwrap()
}

/// Exactly one finding: its check, line, field and a part of its message.
fn assert_one(text: &str, check: Check, line: usize, field: &str, message: &str) {
    let findings = lint_text(text);
    let [finding] = &findings[..] else {
        panic!("not one finding: {findings:#?}\n{text}");
    };
    assert_eq!(finding.check, check, "{finding}");
    assert_eq!((finding.line, &*finding.field), (line, field), "{finding}");
    assert!(finding.message.contains(message), "{finding}");
}

fn assert_nothing(text: &str) {
    let findings = lint_text(text);
    assert!(findings.is_empty(), "{findings:#?}\n{text}");
}

/// Two documents: `Pod foo/a` on lines 1 to 4, with the service account `a` and port 8080.
const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: foo, labels: {app: a}}
spec: {serviceAccountName: a, containers: [{ports: [{name: http, containerPort: 8080}]}]}
";
const SERVICE: &str = "\
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: http}, {port: 9000}]}
";

/// An `AuthorizationPolicy foo/NAME`, whose spec is on the fifth line.
fn policy(name: &str, spec: &str) -> String {
    object("AuthorizationPolicy", name, spec)
}

fn peer_authentication(name: &str, spec: &str) -> String {
    object("PeerAuthentication", name, spec)
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: foo}}\nspec: {spec}\n"
    )
}

#[test]
fn a_file_that_is_not_yaml_is_an_error_and_the_others_are_read() {
    let report = lint_files(&[
        ("1.yaml", "# none\n---\nb: {\nc: d\n}: [\n"),
        ("2.json", "{}\n{}"),
        ("3.yaml", &policy("p", "{}")),
    ]);
    assert_eq!(report.policies, 1);
    let [yaml, json] = &report.findings[..] else {
        panic!("{report}");
    };
    for finding in [yaml, json] {
        let kind = (finding.severity, finding.check);
        assert_eq!(kind, (Severity::Error, Check::Unreadable), "{finding}");
    }
    assert!((3..=6).contains(&yaml.line), "{yaml}");
    assert_eq!(json.line, 2, "{json}");
}

#[test]
fn each_wrong_field_of_an_object_is_an_error_on_its_line() {
    let text = "\
# policies
---
apiVersion: v1
kind: List
items:
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata:
    name: p
    namespace: foo
  spec:
    action: deny
    rules:
    - from:
      - source:
          ipBlocks:
          - 10.0.0.0/8
          - 10.0.0.0/99
    - to: [{operation: {port: [\"80\"]}}]
";
    let findings = lint_text(text);
    let told: Vec<_> = findings
        .iter()
        .map(|finding| {
            (
                finding.line,
                finding.severity,
                &*finding.object,
                &*finding.field,
            )
        })
        .collect();
    let object = "AuthorizationPolicy foo/p";
    assert_eq!(
        told,
        [
            (12, Severity::Error, object, "spec.action"),
            (
                18,
                Severity::Error,
                object,
                "spec.rules[0].from[0].source.ipBlocks[1]"
            ),
            (
                19,
                Severity::Error,
                object,
                "spec.rules[1].to[0].operation.port"
            ),
        ]
    );
}

#[test]
fn an_object_that_is_there_twice_is_an_error() {
    let report = lint_files(&[
        ("1.yaml", &policy("p", "{}")),
        ("2.yaml", &policy("p", "{}")),
    ]);
    let [finding] = &report.findings[..] else {
        panic!("{report:?}");
    };
    assert_eq!(
        (finding.severity, finding.check),
        (Severity::Error, Check::Duplicate)
    );
    assert!(finding.file.ends_with("2.yaml"), "{finding}");
    assert!(
        finding
            .message
            .contains("1.yaml:2, whose version is in force"),
        "{finding}"
    );
}

#[test]
fn a_kind_of_former_versions_has_no_effect() {
    for group in ["rbac.istio.io/v1alpha1", "authentication.istio.io/v1alpha1"] {
        let text = format!("apiVersion: {group}\nkind: Policy\nmetadata: {{name: p}}\n");
        assert_one(&text, Check::Legacy, 1, "", "ztun policy migrate");
    }
    assert_nothing("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n");
}

#[test]
fn a_finding_reads_as_compilers_write_them() {
    let text = "\n".to_owned() + &policy("p", "{action: deny}");
    let report = lint_files(&[("p.yaml", &text)]).to_string();
    let (first, rest) = report.split_once('\n').unwrap();
    assert!(
        first.contains(
            "/p.yaml:6: error: AuthorizationPolicy foo/p: spec.action: `deny` is not known"
        ),
        "{report}"
    );
    assert_eq!(rest, "readable policies: 0; errors: 1; warnings: 0\n");
}
