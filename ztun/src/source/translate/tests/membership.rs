//! Who takes part, and what is left open.

use super::*;
use crate::mesh::workload::Membership;

const PLAIN: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: plain, namespace: foo, uid: u-1}\n";

fn namespace(labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: foo, labels: {labels}}}\n")
}

fn labelled(mode: &str) -> String {
    PLAIN.replace(
        "uid: u-1",
        &format!("uid: u-1, labels: {{istio.io/dataplane-mode: {mode}}}"),
    )
}

const AMBIENT: &str = "{istio.io/dataplane-mode: ambient}";

fn said(text: &str) -> (Membership, TunnelProtocol) {
    said_now(&translated(text).0)
}

fn said_now(snapshot: &Snapshot) -> (Membership, TunnelProtocol) {
    let plain = pod(snapshot, "plain");
    (plain.membership, plain.tunnel_protocol)
}

#[test]
fn a_pod_without_a_label_goes_by_its_namespace_and_is_undecided_without_one() {
    let member = (Membership::Member, TunnelProtocol::Hbone);
    let outside = (Membership::Outside, TunnelProtocol::None);
    for (labels, expected) in [
        (AMBIENT, member),
        ("{}", outside),
        ("{istio.io/dataplane-mode: none}", outside),
    ] {
        let text = format!("{}---\n{PLAIN}", namespace(labels));
        assert_eq!(said(&text), expected, "{labels}");
    }
    let undecided = (Membership::Undecided, TunnelProtocol::None);
    assert_eq!(said(PLAIN), undecided);
}

#[test]
fn a_pod_s_own_word_needs_no_namespace() {
    assert_eq!(said(&labelled("ambient")).0, Membership::Member);
    assert_eq!(said(&labelled("none")).0, Membership::Outside);
    let in_the_mesh = format!("{}---\n{}", namespace(AMBIENT), labelled("none"));
    assert_eq!(said(&in_the_mesh).0, Membership::Outside);
}

#[test]
fn a_namespace_whose_object_is_lost_keeps_its_last_labels_while_it_has_pods() {
    let mut translator = translator();
    insert(
        &mut translator,
        &format!("{}---\n{PLAIN}", namespace(AMBIENT)),
    );
    translator.snapshot();
    let key = |kind, name: &str| ObjectKey {
        namespace: "foo".into(),
        kind,
        name: name.into(),
    };

    translator.remove(&key(Kind::Namespace, "foo"));
    let member = (Membership::Member, TunnelProtocol::Hbone);
    assert_eq!(said_now(&translator.snapshot()), member);
    let problems = translator.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].object, "Namespace foo");

    insert(&mut translator, &namespace("{}"));
    assert_eq!(
        said_now(&translator.snapshot()).0,
        Membership::Outside,
        "an object that is there counts"
    );
    assert_eq!(translator.problems(), []);

    translator.remove(&key(Kind::Pod, "plain"));
    translator.remove(&key(Kind::Namespace, "foo"));
    translator.snapshot();
    assert_eq!(translator.problems(), []);
    insert(&mut translator, PLAIN);
    assert_eq!(
        said_now(&translator.snapshot()).0,
        Membership::Undecided,
        "without a pod nothing was kept"
    );
}

#[test]
fn a_pod_s_uid_is_the_one_that_kubelet_knows() {
    let snapshot = translated(PLAIN).0;
    assert_eq!(&*pod(&snapshot, "plain").pod_uid, "u-1");
    let mirror = PLAIN.replace(
        "uid: u-1",
        "uid: u-1, annotations: {kubernetes.io/config.mirror: of-the-file}",
    );
    let snapshot = translated(&mirror).0;
    assert_eq!(&*pod(&snapshot, "plain").pod_uid, "of-the-file");
}
