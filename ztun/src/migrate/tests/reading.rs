//! Files to objects: what can't be read is told, all of it.

use super::*;

const MESH_POLICY: &str = "apiVersion: authentication.istio.io/v1alpha1
kind: MeshPolicy
metadata: {name: default}
spec: {peers: [{mtls: {}}]}
";

fn problems(yaml: &str) -> Vec<String> {
    read(yaml)
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_wrong_field_is_told_with_file_object_and_path() {
    for (wrong, message) in [
        (
            MESH_POLICY.replace("{mtls: {}}", "{mtls: {mode: STRCT}}"),
            "test.yaml: MeshPolicy default: line 1: spec.peers[0].mtls.mode: unknown variant `STRCT`, expected `STRICT` or `PERMISSIVE`",
        ),
        (
            MESH_POLICY.replace("{name: default}", "{}"),
            "test.yaml: MeshPolicy: line 1: metadata: missing field `name`",
        ),
        (
            rbac_config("{mode: MAYBE}"),
            "test.yaml: ClusterRbacConfig default: line 1: spec.mode: unknown variant `MAYBE`, expected one of `OFF`, `ON`, `ON_WITH_INCLUSION`, `ON_WITH_EXCLUSION`",
        ),
        (
            grant(CART, "{user: [a]}"),
            "test.yaml: ServiceRoleBinding shop/bind: line 11: spec.subjects[0].user: invalid type: sequence, expected a string",
        ),
        (
            grant("{services: cart}", ALICE),
            "test.yaml: ServiceRole shop/role: line 6: spec.rules[0].services: invalid type: string \"cart\", expected a sequence",
        ),
        (
            "a: b".to_owned(),
            "test.yaml: line 1: not a Kubernetes object: `apiVersion` or `kind` is missing",
        ),
    ] {
        assert_eq!(problems(&wrong), [message]);
    }
}

#[test]
fn every_document_that_cannot_be_read_is_told() {
    let found = problems("a: [\n---\nb: {\n---\nc: 1\n");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn lists_and_json_are_read() {
    let list = format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [{}]}}"#,
        r#"{"apiVersion": "authentication.istio.io/v1alpha1", "kind": "MeshPolicy", "metadata": {"name": "default"}, "spec": {}}"#
    );
    let mut input = Input::default();
    input.read("test.json", Format::Json, &list);
    assert_eq!(input.problems(), []);
    assert!(!input.is_empty());
}

#[test]
fn the_same_object_twice_is_one_and_a_contradiction_is_told() {
    let twice = format!("{MESH_POLICY}---\n{MESH_POLICY}");
    assert_eq!(run(&twice).policies.len(), 1);
    let found = problems(&twice.replacen("{mtls: {}}", "", 1));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("test.yaml:1 says something else"),
        "{found:?}"
    );
}

#[test]
fn a_typo_in_the_group_does_not_make_a_policy_disappear() {
    for (kind, group) in [
        ("MeshPolicy", "authn.istio.io"),
        ("ServiceRole", "config.istio.io"),
        ("Policy", "authentification.istio.io"),
    ] {
        let yaml = format!("apiVersion: {group}/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\n");
        assert!(!read(&yaml).is_empty(), "{yaml}");
    }
}

#[test]
fn kinds_of_others_are_passed_over_and_unknown_ones_of_legacy_groups_are_listed() {
    let others = "apiVersion: kyverno.io/v1\nkind: Policy\nmetadata: {name: x}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    assert!(read(others).is_empty());
    let migration =
        run("apiVersion: rbac.istio.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\n");
    assert_listed(&migration, Outcome::LeftOut, "kind", "no equivalent");
}

#[test]
fn texts_of_the_input_cannot_break_out_of_comments() {
    let migration = run(&grant(CART, ALICE).replace("name: role", "name: \"a\\nkind: Evil\""));
    let object = &migration.policies[1].from[1].object;
    assert_eq!(&**object, "ServiceRole shop/a\u{fffd}kind: Evil");
}
