//! Policies that can't be taken as they are written never let more in.

use super::*;

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: foo}
spec: {mtls: {mode: STRICT}}
";

#[tokio::test]
async fn a_policy_with_a_typo_keeps_its_last_good_version() {
    let directory = MeshDirectory::start(&[("p.yaml", STRICT), ("a.yaml", &pod("a", "10.0.0.1"))]);
    assert!(
        directory
            .denial("a")
            .unwrap()
            .contains("PeerAuthentication foo/default")
    );
    directory.write("p.yaml", &STRICT.replace("mtls:", "mtl:"));
    directory
        .becomes("the typo is reported", |it| {
            it.reports("PeerAuthentication foo/default", "last good")
        })
        .await;
    directory.assert_reports(
        "PeerAuthentication foo/default",
        "spec.mtl: unknown field: write `mtls`",
    );
    assert!(directory.denial("a").unwrap().contains("mode STRICT"));
}

#[tokio::test]
async fn a_policy_that_was_never_readable_denies_its_target_and_says_so() {
    let selector = "metadata: {name: p, namespace: foo}\nspec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRCT}}\n";
    for (broken, b_is_denied) in [
        (STRICT.replace("STRICT", "STRCT"), true),
        (STRICT.replace("v1", "v7"), true),
        (STRICT.replace("security.istio", "securty.istio"), true),
        (
            STRICT.replace("kind: PeerAuthentication", "kind: PeerAuthentcation"),
            true,
        ),
        (STRICT.replace("{mtls", "{{mtls"), true),
        (
            STRICT
                .replace("metadata: {name: default, ", "metadata:\n name: default\n ")
                .replace("foo}", "foo\n\tx"),
            true,
        ),
        (
            format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n{selector}"),
            false,
        ),
    ] {
        let pods = pod("a", "10.0.0.1") + &pod("b", "10.0.0.2") + &pod_of("bar", "c", "10.0.0.3");
        let directory = MeshDirectory::start(&[("p.yaml", &broken), ("pods.yaml", &pods)]);
        let denial_of_a = directory
            .denial("a")
            .unwrap_or_else(|| panic!("a is open: {broken}"));
        assert!(denial_of_a.contains("can't be read"), "{denial_of_a}");
        assert_eq!(directory.denial("b").is_some(), b_is_denied, "{broken}");
        assert_eq!(
            denial(&directory.mesh.snapshot(), "bar", "c"),
            None,
            "{broken}"
        );

        directory.write("p.yaml", &STRICT.replace("STRICT", "PERMISSIVE"));
        directory
            .becomes("it is repaired", |it| it.denial("a").is_none())
            .await;
    }
}

const ALLOW_PORT: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: foo}
spec:
  selector: {matchLabels: {app: a}}
  action: ALLOW
  rules:
  - to:
    - operation: {ports: [\"80\"]}
";

#[tokio::test]
async fn an_authorization_policy_decides_as_it_is_written() {
    let policy = |from: &str, to: &str| ALLOW_PORT.replace(from, to);
    let pods = pod("a", "10.0.0.1") + &pod("b", "10.0.0.2");
    // The connections of these tests are to port 80.
    for (policy, a_is_denied, b_is_denied) in [
        (policy("", ""), false, false),
        (policy("80", "81"), true, false),
        (policy("ALLOW", "DENY"), true, false),
        (policy("ALLOW", "AUDIT"), false, false),
        (policy("app: a", "app: b"), false, false),
        (
            policy("  selector: {matchLabels: {app: a}}\n", "").replace("80", "81"),
            true,
            true,
        ),
        (policy("app: a", "app: b").replace("80", "81"), false, true),
        (
            policy("namespace: foo", "namespace: istio-system").replace("80", "81"),
            true,
            false,
        ),
        (
            policy("namespace: foo", "namespace: bar").replace("80", "81"),
            false,
            false,
        ),
    ] {
        let directory = MeshDirectory::start(&[("p.yaml", &policy), ("pods.yaml", &pods)]);
        assert_eq!(*directory.source.problems(), [], "{policy}");
        assert_eq!(directory.denial("a").is_some(), a_is_denied, "{policy}");
        assert_eq!(directory.denial("b").is_some(), b_is_denied, "{policy}");
    }
}

#[tokio::test]
async fn an_authorization_policy_that_cannot_be_taken_closes_its_target_until_it_can() {
    let custom = ALLOW_PORT.replace("ALLOW", "CUSTOM");
    let pods = pod("a", "10.0.0.1") + &pod("b", "10.0.0.2");
    let directory = MeshDirectory::start(&[("p.yaml", &custom), ("pods.yaml", &pods)]);
    let denial = directory.denial("a").unwrap();
    assert!(denial.contains("AuthorizationPolicy foo/p"), "{denial}");
    assert!(
        denial.contains("CUSTOM asks an external authorizer"),
        "{denial}"
    );
    assert_eq!(directory.denial("b"), None);
    directory.assert_reports("AuthorizationPolicy foo/p", "line 1: spec.action: CUSTOM");

    directory.write("p.yaml", ALLOW_PORT);
    directory
        .becomes("the policy lets port 80 in", |it| it.denial("a").is_none())
        .await;
    directory.write("p.yaml", &ALLOW_PORT.replace("operation:", "operations:"));
    directory
        .becomes("the typo is reported", |it| {
            it.reports(
                "AuthorizationPolicy foo/p",
                "last good version stays in force",
            )
        })
        .await;
    assert_eq!(directory.denial("a"), None);
}

#[tokio::test]
async fn what_layer_4_cannot_enforce_is_reported_and_never_permissive() {
    let to_methods = ALLOW_PORT.replace("ports: [\"80\"]", "methods: [GET]");
    for (policy, consequence) in [
        (to_methods.clone(), "this rule of an ALLOW never matches"),
        (
            to_methods.replace("ALLOW", "DENY"),
            "this rule denies every connection",
        ),
    ] {
        let pods = pod("a", "10.0.0.1");
        let directory = MeshDirectory::start(&[("p.yaml", &policy), ("pods.yaml", &pods)]);
        assert!(directory.denial("a").is_some(), "{policy}");
        let message = format!(
            "spec.rules[0]: not enforceable at layer 4: to[0].operation.methods; so {consequence}"
        );
        directory.assert_reports("AuthorizationPolicy foo/p", &message);
    }
}

#[tokio::test]
async fn modes_and_port_exceptions_are_read_as_users_write_them() {
    let strict_except_80 = "
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: a, namespace: foo}
spec:
  selector: {matchLabels: {app: a}}
  mtls: {mode: STRICT}
  portLevelMtls:
    80: {mode: DISABLE}
";
    for (policy, denied) in [
        (STRICT.to_owned(), true),
        (STRICT.replace("STRICT", "DISABLE"), false),
        (STRICT.replace("STRICT", "PERMISSIVE"), false),
        (STRICT.replace("STRICT", "UNSET"), false),
        (strict_except_80.to_owned(), false),
        (strict_except_80.replace("80:", "81:"), true),
    ] {
        let directory =
            MeshDirectory::start(&[("p.yaml", &policy), ("pods.yaml", &pod("a", "10.0.0.1"))]);
        assert_eq!(*directory.source.problems(), [], "{policy}");
        assert_eq!(directory.denial("a").is_some(), denied, "{policy}");
    }
}

#[tokio::test]
async fn a_list_that_is_broken_later_keeps_its_policies_and_closes_nothing_else() {
    let item = |text: String| {
        "- ".to_owned()
            + text
                .trim()
                .trim_start_matches("---\n")
                .replace('\n', "\n  ")
                .trim()
    };
    let items = [
        item(pod("a", "10.0.0.1")),
        item(pod_of("bar", "c", "10.0.0.3")),
        item(STRICT.to_owned()),
    ];
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}\n", items.join("\n"));
    let directory = MeshDirectory::start(&[("all.yaml", &list)]);
    directory.write("all.yaml", &(list + "  broken: [\n"));
    directory
        .becomes("it is reported", |it| it.reports("", "stays in force"))
        .await;
    assert!(
        directory
            .denial("a")
            .is_some_and(|denial| denial.contains("mode STRICT"))
    );
    assert_eq!(denial(&directory.mesh.snapshot(), "bar", "c"), None);
}
