//! Policies against the workloads, services and namespaces that they are for.

use super::*;

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
fn a_policy_for_workloads_that_are_not_enrolled_is_told() {
    let namespace = |labels: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: foo, labels: {{{labels}}}}}\n---\n"
        )
    };
    let ambient = "istio.io/dataplane-mode: ambient";
    let strict = peer_authentication("p", "{mtls: {mode: STRICT}}");
    let message =
        "none of the workloads that it is for is enrolled (every workload of namespace foo)";
    for text in [policy("p", "{}"), strict.clone()] {
        let text = namespace("") + POD + &text;
        assert_one(&text, Check::NotEnrolled, 12, "metadata.namespace", message);
    }
    let host = POD.replace("spec: {", "spec: {hostNetwork: true, ");
    let text = namespace(ambient) + &host + &strict;
    assert_one(&text, Check::NotEnrolled, 12, "metadata.namespace", message);
    let leaves = POD.replace("app: a", "app: a, istio.io/dataplane-mode: none");
    let text = namespace(ambient) + &leaves + &strict;
    assert_one(&text, Check::NotEnrolled, 12, "metadata.namespace", message);
    for enrolled in [
        namespace(ambient) + POD,
        namespace("") + &POD.replace("app: a", &format!("app: a, {ambient}")),
        // Nothing says what its namespace's labels are.
        POD.to_owned(),
    ] {
        assert_nothing(&(enrolled + &strict));
    }
}

#[test]
fn a_peer_authentication_of_the_root_namespace_with_a_selector_is_told_to_have_no_effect() {
    let spec = "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}";
    let root = peer_authentication("p", spec).replace("foo", "istio-system");
    let text = POD.to_owned() + &root;
    let message = "has no effect, as in Istio";
    assert_one(&text, Check::NoEffect, 9, "spec.selector", message);
}
