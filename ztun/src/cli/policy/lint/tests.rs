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
        ("1.yaml", "a: [\n"),
        ("2.json", "{} {}"),
        ("3.yaml", &policy("p", "{}")),
    ]);
    assert_eq!(report.policies, 1);
    let checks: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.severity, finding.check))
        .collect();
    assert_eq!(checks, [(Severity::Error, Check::Unreadable); 2]);
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
fn attributes_of_layer_7_are_told_with_their_consequence() {
    let spec = "\n  rules:\n  - {}\n  - to: [{operation: {methods: [GET]}}]";
    let message = "to[0].operation.methods; so this rule of an ALLOW never matches";
    assert_one(
        &policy("p", spec),
        Check::Layer7,
        8,
        "spec.rules[1]",
        message,
    );
}

#[test]
fn a_selector_that_matches_no_workload_is_told_where_there_are_workloads() {
    let selecting = |label| {
        policy(
            "p",
            &format!("{{selector: {{matchLabels: {{app: {label}}}}}}}"),
        )
    };
    assert_nothing(&selecting("b"));
    assert_nothing(&(POD.to_owned() + &selecting("a")));
    let message = "every workload with app=b of namespace foo";
    for text in [
        selecting("b"),
        selecting("b").replace("AuthorizationPolicy", "PeerAuthentication"),
    ] {
        assert_one(
            &(POD.to_owned() + &text),
            Check::Target,
            9,
            "spec.selector",
            message,
        );
    }
    let elsewhere = policy("p", "{}").replace("foo", "bar");
    let message = "every workload of namespace bar";
    assert_one(
        &(POD.to_owned() + &elsewhere),
        Check::Target,
        8,
        "metadata.namespace",
        message,
    );
    let of_mesh = selecting("a").replace("foo", "istio-system");
    assert_nothing(&(POD.to_owned() + &of_mesh));
}

#[test]
fn what_pods_are_made_from_counts_as_workloads() {
    let template =
        "{metadata: {labels: {app: b}}, spec: {containers: [{ports: [{containerPort: 1}]}]}}";
    let selecting = policy("p", "{selector: {matchLabels: {app: b}}}");
    for (kind, spec) in [
        ("Deployment", format!("{{template: {template}}}")),
        ("StatefulSet", format!("{{template: {template}}}")),
        (
            "CronJob",
            format!("{{jobTemplate: {{spec: {{template: {template}}}}}}}"),
        ),
    ] {
        let maker = format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: d, namespace: foo}}\nspec: {spec}\n"
        );
        assert_nothing(&(maker + &selecting));
    }
    let machine = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: m, namespace: foo}\nspec: {address: 192.0.2.1, labels: {app: b}}\n";
    assert_nothing(&(machine.to_owned() + &selecting));
}

#[test]
fn a_namespace_that_is_not_there_is_told_where_namespaces_are() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bar}\n";
    let message = "namespace `foo` is not in the directory";
    let text = namespace.to_owned() + &policy("p", "{}");
    assert_one(&text, Check::Namespace, 7, "metadata.namespace", message);
    for there in ["bar", "default", "kube-system", "istio-system"] {
        assert_nothing(&text.replace("foo", there));
    }
}

#[test]
fn sources_that_nobody_is_are_told() {
    let with_source = |source: &str| {
        POD.to_owned()
            + &policy(
                "p",
                &format!("\n  rules:\n  - from:\n    - source: {source}"),
            )
    };
    let path = |field: &str| format!("spec.rules[0].from[0].source.{field}");
    for (source, field, message) in [
        (
            "{principals: [\"*\", other.org/ns/foo/sa/a]}",
            "principals[1]",
            "trust domain `other.org` is not the mesh's, `cluster.local`",
        ),
        (
            "{principals: [cluster.local/ns/foo/sa/b]}",
            "principals[0]",
            "no service account `foo/b`",
        ),
        (
            "{notPrincipals: [cluster.local/ns/bar/sa/a]}",
            "notPrincipals[0]",
            "no service account `bar/a`",
        ),
        (
            "{principals: [\"cluster.local/ns/bar/*\"]}",
            "principals[0]",
            "`cluster.local/ns/bar/*` matches no service account",
        ),
        (
            "{principals: [\"*/sa/b\"]}",
            "principals[0]",
            "`*/sa/b` matches no service account",
        ),
        (
            "{namespaces: [foo, bar]}",
            "namespaces[1]",
            "namespace `bar` is not in the directory",
        ),
        (
            "{notNamespaces: [\"b*\"]}",
            "notNamespaces[0]",
            "`b*` matches no namespace",
        ),
        (
            "{serviceAccounts: [a, b]}",
            "serviceAccounts[1]",
            "no service account `foo/b`",
        ),
        (
            "{notServiceAccounts: [bar/a]}",
            "notServiceAccounts[0]",
            "no service account `bar/a`",
        ),
    ] {
        assert_one(
            &with_source(source),
            Check::Source,
            12,
            &path(field),
            message,
        );
    }
    for source in [
        "{principals: [cluster.local/ns/foo/sa/a, cluster.local/ns/foo/sa/default]}",
        "{principals: [\"*\", \"cluster.local/*\", \"*/sa/a\", cluster.local/ns/istio-system/sa/gateway]}",
        "{namespaces: [foo, \"f*\", default, istio-system, \"*\"]}",
        "{serviceAccounts: [a, foo/a, istio-system/gateway, default]}",
    ] {
        assert_nothing(&with_source(source));
    }
    let condition = "{rules: [{when: [{key: source.namespace, values: [foo], notValues: [bar]}]}]}";
    let text = POD.to_owned() + &policy("p", condition);
    assert_one(
        &text,
        Check::Source,
        9,
        "spec.rules[0].when",
        "namespace `bar`",
    );
    let account =
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: b, namespace: foo}\n---\n";
    assert_nothing(&(account.to_owned() + &with_source("{serviceAccounts: [b]}")));
    let alone = policy(
        "p",
        "{rules: [{from: [{source: {namespaces: [bar], principals: [cluster.local/ns/x/sa/y]}}]}]}",
    );
    assert_nothing(&alone);
}

#[test]
fn ports_that_no_selected_workload_serves_are_told_where_it_is_known() {
    let mesh = POD.to_owned() + SERVICE;
    let on_port = |port: u16| {
        policy(
            "p",
            &format!("{{rules: [{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}]}}"),
        )
    };
    let field = "spec.rules[0].to[0].operation.ports[0]";
    assert_nothing(&(mesh.clone() + &on_port(8080)));
    assert_nothing(&(mesh.clone() + &on_port(9000)));
    let message =
        "80 is the port of service web: policies are about the workload's own, which is 8080";
    assert_one(
        &(mesh.clone() + &on_port(80)),
        Check::Port,
        14,
        field,
        message,
    );
    let message = "serves port 81; they serve 8080, 9000";
    assert_one(
        &(mesh.clone() + &on_port(81)),
        Check::Port,
        14,
        field,
        message,
    );
    let condition = "{rules: [{when: [{key: destination.port, notValues: [\"81\"]}]}]}";
    assert_one(
        &(mesh.clone() + &policy("p", condition)),
        Check::Port,
        14,
        "spec.rules[0].when",
        message,
    );
    let mode = "{selector: {matchLabels: {app: a}}, portLevelMtls: {8080: {mode: STRICT}, 81: {mode: STRICT}}}";
    assert_one(
        &(mesh + &peer_authentication("p", mode)),
        Check::Port,
        14,
        "spec.portLevelMtls.81",
        message,
    );
    let silent = POD.replace("containerPort: 8080", "containerPort: 53, protocol: UDP");
    assert_nothing(&(silent + &on_port(81)));
    assert_nothing(&on_port(81));
}

#[test]
fn a_rule_that_another_of_its_policy_covers_is_told() {
    let namespaces = "{from: [{source: {namespaces: [a]}}]}";
    let port = "{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: [\"80\"]}}]}";
    let both = "{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]}";
    let when = "{when: [{key: source.ip, values: [10.0.0.1]}]}";
    let unseen = "{to: [{operation: {methods: [GET]}}]}";
    for (rules, shadowed, by) in [
        ([namespaces, namespaces], 1, 0),
        ([namespaces, port], 1, 0),
        ([port, namespaces], 0, 1),
        ([both, namespaces], 1, 0),
        ([when, "{}"], 0, 1),
        (["{}", "{}"], 1, 0),
    ] {
        let text = policy("p", &format!("{{rules: [{}]}}", rules.join(", ")));
        let message = format!("has no effect: spec.rules[{by}] matches all that it does");
        assert_one(
            &text,
            Check::Shadowed,
            5,
            &format!("spec.rules[{shadowed}]"),
            &message,
        );
    }
    assert_nothing(&policy("p", &format!("{{rules: [{namespaces}, {when}]}}")));
    let text = policy("p", &format!("{{rules: [{unseen}, {namespaces}]}}"));
    assert!(
        lint_text(&text)
            .iter()
            .all(|finding| finding.check == Check::Layer7)
    );
}

#[test]
fn a_policy_that_another_decides_for_is_told() {
    let deny_all = policy("deny", "{action: DENY, rules: [{}]}");
    let allow_all = policy("allow", "{rules: [{}]}");
    let some = policy(
        "some",
        "{selector: {matchLabels: {app: a}}, rules: [{from: [{source: {namespaces: [a]}}]}]}",
    );
    let message = "has no effect: AuthorizationPolicy foo/deny denies everything";
    assert_one(&(deny_all.clone() + &some), Check::Shadowed, 7, "", message);
    let message = "has no effect: AuthorizationPolicy foo/allow allows everything";
    assert_one(
        &(some.clone() + &allow_all),
        Check::Shadowed,
        2,
        "",
        message,
    );
    let of_mesh = deny_all.replace("foo", "istio-system");
    let message = "AuthorizationPolicy istio-system/deny denies everything";
    assert_one(&(of_mesh + &some), Check::Shadowed, 7, "", message);
    let twice = allow_all.clone() + &allow_all.replace("name: allow", "name: same");
    assert_one(
        &twice,
        Check::Shadowed,
        7,
        "",
        "AuthorizationPolicy foo/allow allows everything",
    );
    for elsewhere in [
        deny_all.replace("foo", "bar"),
        deny_all.replace(
            "{action",
            "{selector: {matchLabels: {app: a, v: b}}, action",
        ),
        deny_all.replace(
            "namespace: foo",
            "namespace: foo, annotations: {istio.io/dry-run: \"true\"}",
        ),
        deny_all.replace("DENY", "AUDIT"),
        deny_all.replace("[{}]", "[{when: [{key: source.ip, values: [10.0.0.1]}]}]"),
    ] {
        assert_nothing(&(elsewhere + &some));
    }
}

#[test]
fn an_audit_without_rules_reports_nothing() {
    let text = policy("p", "{action: AUDIT}");
    assert_one(
        &text,
        Check::NoEffect,
        5,
        "spec.rules",
        "an AUDIT without rules reports nothing",
    );
}

#[test]
fn peer_authentications_for_the_same_workloads_are_told() {
    let selecting = |name, labels| {
        peer_authentication(
            name,
            &format!("{{selector: {{matchLabels: {labels}}}, mtls: {{mode: STRICT}}}}"),
        )
    };
    let whole = |name| peer_authentication(name, "{mtls: {mode: STRICT}}");
    let message = "is not in force where PeerAuthentication foo/a is for the same workloads, which wins by its name";
    assert_one(&(whole("b") + &whole("a")), Check::Tie, 2, "", message);
    let same = selecting("a", "{app: a}") + &selecting("b", "{app: a}");
    assert_one(&same, Check::Tie, 7, "", message);
    let old = whole("b").replace(
        "name: b",
        "name: b, creationTimestamp: 2020-01-01T00:00:00Z",
    );
    assert_one(
        &(whole("a") + &old),
        Check::Tie,
        2,
        "",
        "PeerAuthentication foo/b is for the same workloads, which wins as the older one",
    );
    let pod = POD.replace("{app: a}", "{app: a, v: b}");
    let crossing = pod + &selecting("a", "{app: a}") + &selecting("b", "{v: b}");
    assert_one(&crossing, Check::Tie, 11, "", message);
    assert_nothing(&(selecting("a", "{app: a}") + &selecting("b", "{v: b}") + &whole("c")));
    assert_nothing(&(whole("a") + &whole("a").replace("foo", "bar")));
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
