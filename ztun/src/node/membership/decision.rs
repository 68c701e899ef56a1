//! What is to be done about this node's pods, given what the mesh state says of them: pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    mesh::{PodName, Snapshot, Workload, workload::Membership},
    node::{
        pods::Enrolled,
        records::{Origin, Record, Standing},
    },
    proxy::PodAddresses,
    redirect::PodSandbox,
};

/// What is to be done about one pod.
#[derive(Clone, Debug)]
pub enum Task {
    /// It is known, and is to be captured.
    Enrol(Record),
    /// It is captured, and is to be free.
    Release(Enrolled),
    /// It takes part and is on this node, but nobody told of it.
    Find(Arc<Workload>),
}

/// How the kernel treats a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Captured,
    /// An earlier daemon captured it, and this one could not take it over yet.
    Closed,
    Free,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Enrol,
    Release,
    Nothing,
}

/// What follows for a pod of which the mesh state says `said`, if it knows the pod.
///
/// A pod is set free only by a word that says so: not because something about it is missing.
pub fn decide(state: State, origin: Origin, said: Option<Membership>) -> Step {
    match (state, origin, said) {
        (State::Closed, _, _) => Step::Enrol,
        (_, Origin::Asked, _) => Step::Nothing,
        (State::Free, _, Some(Membership::Member)) => Step::Enrol,
        (State::Captured, _, Some(Membership::Outside)) => Step::Release,
        _ => Step::Nothing,
    }
}

/// Every task, by pod.
pub fn tasks(
    node: &str,
    snapshot: &Snapshot,
    enrolled: &[Enrolled],
    known: &[Record],
) -> BTreeMap<PodName, Task> {
    let said = |sandbox, addresses| {
        let workload = workload_of(node, snapshot, sandbox, addresses)?;
        Some(workload.membership)
    };
    let found = missing(node, snapshot, enrolled, known)
        .map(|workload| (workload.pod.clone(), Task::Find(workload.clone())));
    let freed = enrolled.iter().filter_map(|entry| {
        let said = said(&entry.sandbox, Some(&entry.addresses));
        let step = decide(State::Captured, entry.origin, said);
        let task = || (entry.sandbox.pod.clone(), Task::Release(entry.clone()));
        (step == Step::Release).then(task)
    });
    let caught = known.iter().filter_map(|record| {
        let state = match record.standing {
            Standing::Enrolled => State::Closed,
            Standing::Known => State::Free,
        };
        let step = decide(state, record.origin, said(&record.sandbox, None));
        let task = || (record.sandbox.pod.clone(), Task::Enrol(record.clone()));
        (step == Step::Enrol).then(task)
    });
    // What is here already comes before what is looked for.
    found.chain(freed).chain(caught).collect()
}

/// The workloads that take part on this node and that are none of the pods it holds.
pub fn missing<'a>(
    node: &str,
    snapshot: &'a Snapshot,
    enrolled: &'a [Enrolled],
    known: &'a [Record],
) -> impl Iterator<Item = &'a Arc<Workload>> {
    let enrolled = enrolled
        .iter()
        .map(|entry| (&entry.sandbox, Some(&entry.addresses)));
    let known = known.iter().map(|record| (&record.sandbox, None));
    let mut held: HashMap<&PodName, Vec<_>> = HashMap::new();
    for (sandbox, addresses) in enrolled.chain(known) {
        held.entry(&sandbox.pod)
            .or_default()
            .push((sandbox, addresses));
    }
    snapshot.workloads_on(node).filter(move |workload| {
        let mut of_name = held.get(&workload.pod).into_iter().flatten();
        workload.membership == Membership::Member
            && !of_name.any(|&(sandbox, addresses)| is_pod(node, workload, sandbox, addresses))
    })
}

/// The workload that is the pod in the sandbox.
pub fn workload_of<'a>(
    node: &str,
    snapshot: &'a Snapshot,
    sandbox: &PodSandbox,
    addresses: Option<&PodAddresses>,
) -> Option<&'a Arc<Workload>> {
    snapshot
        .workload_by_pod(&sandbox.pod)
        .filter(|workload| is_pod(node, workload, sandbox, addresses))
}

/// Whether the workload is the pod in the sandbox, and not another of the same name before or after it.
///
/// Its UID tells where both sides know it. Else it must be on this node, and have one of the
/// sandbox's addresses where they are known.
fn is_pod(
    node: &str,
    workload: &Workload,
    sandbox: &PodSandbox,
    addresses: Option<&PodAddresses>,
) -> bool {
    if sandbox.pod != workload.pod {
        return false;
    }
    if !sandbox.uid.is_empty() && !workload.pod_uid.is_empty() {
        return *sandbox.uid == *workload.pod_uid;
    }
    let is_here = workload.node.is_empty() || *workload.node == *node;
    is_here && addresses.is_none_or(|own| workload.addresses.iter().any(|ip| own.contains(*ip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::fixture::{arc, workload};

    const NODE: &str = "node";

    fn sandbox(name: &str, uid: &str) -> PodSandbox {
        PodSandbox {
            pod: PodName::new("foo", name),
            uid: uid.to_owned(),
            sandbox_id: "s".to_owned(),
            netns: "/run/netns/x".into(),
            cgroup: "/sys/fs/cgroup/x".into(),
        }
    }

    fn known(name: &str, uid: &str) -> Record {
        Record {
            sandbox: sandbox(name, uid),
            origin: Origin::Runtime,
            standing: Standing::Known,
        }
    }

    fn with_uid(name: &str, uid: &str) -> Workload {
        Workload {
            pod_uid: uid.into(),
            ..workload(name, &["10.0.0.1"])
        }
    }

    fn snapshot(workloads: impl IntoIterator<Item = Workload>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for workload in workloads {
            snapshot.insert_workload(arc(workload));
        }
        snapshot
    }

    fn shown(tasks: BTreeMap<PodName, Task>) -> Vec<String> {
        let shown = tasks.into_iter().map(|(pod, task)| match task {
            Task::Enrol(_) => format!("enrol {}", pod.name),
            Task::Release(_) => format!("release {}", pod.name),
            Task::Find(_) => format!("find {}", pod.name),
        });
        shown.collect()
    }

    #[test]
    fn only_a_word_that_says_so_sets_a_captured_pod_free() {
        use Membership::{Member, Outside, Undecided};
        for origin in [Origin::Runtime, Origin::Found] {
            for said in [None, Some(Undecided), Some(Member)] {
                assert_eq!(decide(State::Captured, origin, said), Step::Nothing);
            }
            let freed = decide(State::Captured, origin, Some(Outside));
            assert_eq!(freed, Step::Release);
        }
    }

    #[test]
    fn a_known_pod_is_captured_when_it_takes_part_and_not_before() {
        use Membership::{Member, Outside, Undecided};
        for said in [None, Some(Undecided), Some(Outside)] {
            assert_eq!(decide(State::Free, Origin::Runtime, said), Step::Nothing);
        }
        let caught = decide(State::Free, Origin::Runtime, Some(Member));
        assert_eq!(caught, Step::Enrol);
    }

    #[test]
    fn labels_change_nothing_for_a_pod_that_somebody_enrolled_or_let_go_by_hand() {
        for said in [Membership::Member, Membership::Outside] {
            for state in [State::Captured, State::Free] {
                assert_eq!(decide(state, Origin::Asked, Some(said)), Step::Nothing);
            }
        }
    }

    #[test]
    fn a_pod_that_could_not_be_taken_over_is_tried_again_whatever_the_mesh_says() {
        for origin in [Origin::Asked, Origin::Runtime, Origin::Found] {
            for said in [None, Some(Membership::Outside)] {
                assert_eq!(decide(State::Closed, origin, said), Step::Enrol);
            }
        }
    }

    #[test]
    fn a_predecessor_s_label_does_not_count_for_a_pod_of_the_same_name() {
        let snapshot = snapshot([with_uid("a", "former")]);
        let held = [known("a", "successor")];
        // The former is not here any more, but the mesh state says so: it is looked for.
        assert_eq!(shown(tasks(NODE, &snapshot, &[], &held)), ["find a"]);
        let held = [known("a", "former")];
        assert_eq!(shown(tasks(NODE, &snapshot, &[], &held)), ["enrol a"]);
    }

    #[test]
    fn without_a_uid_on_either_side_name_node_and_address_tell() {
        let here = |sandbox_uid: &str, workload_uid: &str, own: Option<&PodAddresses>| {
            is_pod(
                NODE,
                &with_uid("a", workload_uid),
                &sandbox("a", sandbox_uid),
                own,
            )
        };
        let at = |host| PodAddresses::new(vec![[10, 0, 0, host].into()]);
        let (same, other) = (at(1), at(2));
        for (sandbox, workload) in [("", ""), ("u", ""), ("", "u")] {
            assert!(here(sandbox, workload, None));
            assert!(here(sandbox, workload, Some(&same)));
            assert!(!here(sandbox, workload, Some(&other)));
        }
        assert!(here("u", "u", Some(&other)));
        let elsewhere = with_uid("a", "");
        assert!(!is_pod("elsewhere", &elsewhere, &sandbox("a", ""), None));
    }

    #[test]
    fn members_of_this_node_that_nobody_told_of_are_looked_for_and_no_others() {
        let mut elsewhere = workload("elsewhere", &["10.0.0.2"]);
        elsewhere.node = "other".into();
        let mut outside = workload("outside", &["10.0.0.3"]);
        outside.membership = Membership::Outside;
        let snapshot = snapshot([workload("here", &["10.0.0.1"]), elsewhere, outside]);
        assert_eq!(shown(tasks(NODE, &snapshot, &[], &[])), ["find here"]);
    }
}
