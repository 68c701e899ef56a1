#![allow(clippy::unwrap_used)]

mod policies;
mod reported;

use std::{fs, net::IpAddr, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;
use crate::mesh::{
    Connection, Decision, PodName, Snapshot,
    workload::{NetworkMode, TunnelProtocol},
};

struct MeshDirectory {
    directory: TempDir,
    mesh: Arc<Mesh>,
    source: FileSource,
}

impl MeshDirectory {
    fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mesh = Mesh::empty();
        let source = FileSource::start(directory.path(), Arc::clone(&mesh), settings()).unwrap();
        Self {
            directory,
            mesh,
            source,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits until the mesh is as `is` says; the time is only there to end a failing test.
    async fn becomes(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let waiting = async {
            let mut versions = self.mesh.versions();
            while !is(self) {
                // Problems are told right after their snapshot is published.
                let _ = time::timeout(Duration::from_millis(50), versions.changed()).await;
            }
        };
        if time::timeout(Duration::from_secs(30), waiting)
            .await
            .is_err()
        {
            panic!("never: {what}; problems: {:#?}", self.source.problems());
        }
    }

    fn has(&self, name: &str) -> bool {
        let pod = PodName::new("foo", name);
        self.mesh.snapshot().workload_by_pod(&pod).is_some()
    }

    fn reports(&self, object: &str, text: &str) -> bool {
        self.source
            .problems()
            .iter()
            .any(|problem| problem.object == object && problem.message.contains(text))
    }

    fn assert_reports(&self, object: &str, text: &str) {
        assert!(
            self.reports(object, text),
            "{object} {text}: {:#?}",
            self.source.problems()
        );
    }

    /// Why plaintext may not enter the pod of namespace `foo`.
    fn denial(&self, pod: &str) -> Option<String> {
        denial(&self.mesh.snapshot(), "foo", pod)
    }
}

fn denial(snapshot: &Snapshot, namespace: &str, pod: &str) -> Option<String> {
    let destination = snapshot
        .workload_by_pod(&PodName::new(namespace, pod))
        .unwrap();
    let connection = Connection {
        source: None,
        source_address: "192.0.2.1:4000".parse().unwrap(),
        destination,
        destination_address: "10.0.0.1:80".parse().unwrap(),
    };
    match snapshot.authorize(&connection) {
        Decision::Allow => None,
        Decision::Deny(denial) => Some(denial.to_string()),
    }
}

fn settings() -> TranslateSettings {
    TranslateSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        trust_domain_aliases: Arc::default(),
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
    }
}

fn pod(name: &str, address: &str) -> String {
    pod_of("foo", name, address)
}

fn pod_of(namespace: &str, name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\nspec: {{nodeName: n}}\nstatus: {{phase: Running, podIPs: [{{ip: \"{address}\"}}]}}\n"
    )
}

fn address_holder(directory: &MeshDirectory, address: &str) -> Option<String> {
    let address: IpAddr = address.parse().unwrap();
    let snapshot = directory.mesh.snapshot();
    Some(snapshot.workload_by_address(address)?.pod.to_string())
}

#[tokio::test]
async fn the_directory_is_in_the_mesh_when_start_returns() {
    let text = pod("a", "10.0.0.1") + &pod("b", "fd00::2");
    let directory = MeshDirectory::start(&[("pods.yaml", &text)]);
    assert!(directory.mesh.synced());
    assert_eq!(
        address_holder(&directory, "fd00::2").as_deref(),
        Some("foo/b")
    );
    assert_eq!(*directory.source.problems(), []);
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    let missing = Path::new("/nonexistent/mesh");
    let error = FileSource::start(missing, Mesh::empty(), settings()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/mesh"), "{error}");
}

#[tokio::test]
async fn lists_json_and_subdirectories_are_read_and_other_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let sub = directory.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, namespace: foo, creationTimestamp: \"2026-01-02T03:04:05Z\"}\n  status: {podIP: 10.0.0.1}\n- apiVersion: v1\n  kind: ServiceAccount\n  metadata: {name: x, namespace: foo}\n";
    fs::write(sub.join("list.yml"), list).unwrap();
    let json = "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\n\t\"metadata\":{\"name\":\"b\",\"namespace\":\"foo\"}}";
    fs::write(directory.path().join("pod.json"), json).unwrap();
    fs::write(directory.path().join("notes.txt"), "kind: [").unwrap();
    fs::write(directory.path().join(".hidden.yaml"), "kind: [").unwrap();
    symlink("..", sub.join("loop")).unwrap();
    let mesh = Mesh::empty();
    let source = FileSource::start(directory.path(), Arc::clone(&mesh), settings()).unwrap();
    let names: Vec<_> = mesh
        .snapshot()
        .workloads()
        .map(|workload| workload.pod.to_string())
        .collect();
    assert_eq!(names, ["foo/a", "foo/b"]);
    assert_eq!(*source.problems(), []);
}

#[tokio::test]
async fn a_broken_document_leaves_the_others_in_force() {
    let text = pod("a", "10.0.0.1") + "---\nkind: [\n" + &pod("b", "10.0.0.2");
    let directory =
        MeshDirectory::start(&[("pods.yaml", &text), ("more.yaml", &pod("c", "10.0.0.3"))]);
    assert!(directory.has("a") && directory.has("b") && directory.has("c"));
    directory.assert_reports("", "no earlier version is known");
    assert_eq!(directory.source.rejected(), 1);
}

#[tokio::test]
async fn a_wrong_field_is_named_with_file_and_object() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: foo}\nstatus: {podIPs: [{ip: 10.0.0.300}]}\n";
    let directory = MeshDirectory::start(&[("pods.yaml", text)]);
    assert!(!directory.has("a"));
    directory.assert_reports(
        "Pod foo/a",
        "status.podIPs[0].ip: `10.0.0.300` is not an IP address",
    );
    let problems = directory.source.problems();
    assert!(problems[0].file.ends_with("pods.yaml"));
    assert_eq!(directory.source.rejected(), 1);
}

#[tokio::test]
async fn an_object_that_is_broken_later_keeps_its_last_good_version() {
    let directory = MeshDirectory::start(&[("a.yaml", &pod("a", "10.0.0.1"))]);
    directory.write("a.yaml", &(pod("a", "10.0.0.999") + &pod("b", "10.0.0.2")));
    directory.becomes("b is read", |it| it.has("b")).await;
    assert_eq!(
        address_holder(&directory, "10.0.0.1").as_deref(),
        Some("foo/a")
    );
    directory
        .becomes("it is reported", |it| {
            it.reports("Pod foo/a", "last good version")
        })
        .await;

    directory.write("a.yaml", "kind: [\n");
    directory
        .becomes("the file is reported", |it| {
            it.reports("", "stays in force")
        })
        .await;
    assert!(directory.has("a") && directory.has("b"));
}

#[tokio::test]
async fn unknown_kinds_are_told_once_each_and_ignored() {
    let deployment =
        |name| format!("---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n");
    let text = deployment("x") + &deployment("y") + &pod("a", "10.0.0.1");
    let directory = MeshDirectory::start(&[("a.yaml", &text), ("b.yaml", &deployment("z"))]);
    assert!(directory.has("a"));
    assert_eq!(directory.source.problems().len(), 1);
    directory.assert_reports("apps/v1 Deployment", "ignored");
    assert_eq!(directory.source.rejected(), 0);
}

#[tokio::test]
async fn two_pods_with_one_address_are_both_named_and_the_newest_holds_it() {
    let aged = |name, year| {
        pod(name, "10.0.0.1").replace(
            "metadata: {",
            &format!("metadata: {{creationTimestamp: \"{year}-01-01T00:00:00Z\", "),
        )
    };
    let text = aged("new", 2026) + &aged("old", 2025) + &pod("other", "10.0.0.2");
    let directory = MeshDirectory::start(&[("pods.yaml", &text)]);
    assert_eq!(
        address_holder(&directory, "10.0.0.1").as_deref(),
        Some("foo/new")
    );
    assert_eq!(
        address_holder(&directory, "10.0.0.2").as_deref(),
        Some("foo/other")
    );
    directory.assert_reports("Pod foo/old", "10.0.0.1 is also claimed by Pod foo/new");
}

#[tokio::test]
async fn a_pod_that_has_ended_does_not_hold_its_address() {
    let ended = pod("ended", "10.0.0.1").replace("Running", "Succeeded");
    let directory = MeshDirectory::start(&[("pods.yaml", &(ended + &pod("a", "10.0.0.1")))]);
    assert_eq!(
        address_holder(&directory, "10.0.0.1").as_deref(),
        Some("foo/a")
    );
    assert_eq!(*directory.source.problems(), []);
}

#[tokio::test]
async fn a_pod_without_an_address_is_known_and_reachable_once_it_has_one() {
    let directory = MeshDirectory::start(&[("a.yaml", &pod("a", ""))]);
    assert!(directory.has("a"));
    directory.write("a.yaml", &pod("a", "10.0.0.1"));
    directory
        .becomes("a has its address", |it| {
            address_holder(it, "10.0.0.1").is_some()
        })
        .await;
}

#[tokio::test]
async fn enrolment_follows_the_pods_label_then_the_namespaces_and_never_a_host_network_pod() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: foo, labels: {istio.io/dataplane-mode: ambient}}\n";
    let labelled = |name, mode| {
        pod(name, "").replace(
            "labels: {",
            &format!("labels: {{istio.io/dataplane-mode: {mode}, "),
        )
    };
    let text = namespace.to_owned()
        + &pod("by-namespace", "10.0.0.1")
        + &labelled("opted-out", "none")
        + &pod("host", "10.0.0.9").replace("nodeName: n", "hostNetwork: true")
        + &pod_of("bar", "outside", "10.0.0.3")
        + &pod_of("bar", "annotated", "10.0.0.4").replace(
            "metadata: {",
            "metadata: {annotations: {ambient.istio.io/redirection: enabled}, ",
        );
    let directory = MeshDirectory::start(&[("a.yaml", &text)]);
    let snapshot = directory.mesh.snapshot();
    for (namespace, name, protocol) in [
        ("foo", "by-namespace", TunnelProtocol::Hbone),
        ("foo", "opted-out", TunnelProtocol::None),
        ("foo", "host", TunnelProtocol::None),
        ("bar", "outside", TunnelProtocol::None),
        ("bar", "annotated", TunnelProtocol::Hbone),
    ] {
        let workload = snapshot
            .workload_by_pod(&PodName::new(namespace, name))
            .unwrap();
        assert_eq!(workload.tunnel_protocol, protocol, "{name}");
    }
    let host = snapshot
        .workload_by_pod(&PodName::new("foo", "host"))
        .unwrap();
    assert_eq!(host.network_mode, NetworkMode::Host);
}

#[tokio::test]
async fn a_deleted_file_takes_its_objects_along() {
    let directory = MeshDirectory::start(&[
        ("a.yaml", &pod("a", "10.0.0.1")),
        ("b.yaml", &pod("b", "10.0.0.2")),
    ]);
    fs::remove_file(directory.path("a.yaml")).unwrap();
    directory.becomes("a is gone", |it| !it.has("a")).await;
    assert!(directory.has("b"));
}

#[tokio::test]
async fn the_first_file_s_version_of_an_object_counts_until_it_is_gone() {
    let directory = MeshDirectory::start(&[
        ("1.yaml", &pod("a", "10.0.0.1")),
        ("2.yaml", &pod("a", "10.0.0.2")),
    ]);
    assert!(address_holder(&directory, "10.0.0.1").is_some());
    directory.assert_reports("Pod foo/a", "is also in");
    fs::remove_file(directory.path("1.yaml")).unwrap();
    directory
        .becomes("the second counts", |it| {
            address_holder(it, "10.0.0.2").is_some()
        })
        .await;
    directory
        .becomes("no problem is left", |it| it.source.problems().is_empty())
        .await;
}

#[tokio::test]
async fn a_file_renamed_into_place_is_read() {
    let directory = MeshDirectory::start(&[("a.yaml", &pod("a", "10.0.0.1"))]);
    directory.write("a.yaml.tmp", &pod("b", "10.0.0.2"));
    fs::rename(directory.path("a.yaml.tmp"), directory.path("a.yaml")).unwrap();
    directory
        .becomes("b replaces a", |it| it.has("b") && !it.has("a"))
        .await;
}

#[tokio::test]
async fn a_config_map_s_swap_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (version, name) in [("..1", "a"), ("..2", "b")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("pods.yaml"), pod(name, "10.0.0.1")).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/pods.yaml", path("pods.yaml")).unwrap();
    let mesh = Mesh::empty();
    let source = FileSource::start(directory.path(), Arc::clone(&mesh), settings()).unwrap();
    let directory = MeshDirectory {
        directory,
        mesh,
        source,
    };
    assert!(directory.has("a") && !directory.has("b"));
    symlink("..2", directory.path("..data_tmp")).unwrap();
    fs::rename(directory.path("..data_tmp"), directory.path("..data")).unwrap();
    directory
        .becomes("b replaces a", |it| it.has("b") && !it.has("a"))
        .await;
}

#[tokio::test]
async fn a_directory_that_vanishes_leaves_its_last_state_in_force() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("mesh");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let mut state = DirectoryState::new(&root, settings());
    assert_eq!(state.reload(&Reported::everywhere()), Ok(true));
    fs::remove_dir_all(&root).unwrap();
    assert!(state.reload(&Reported::everywhere()).is_err());
    assert_eq!(state.snapshot().workloads().count(), 1);
}

#[test]
fn the_last_file_that_goes_leaves_the_last_state_in_force_and_an_empty_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let mut state = DirectoryState::new(directory.path(), settings());
    assert_eq!(state.reload(&Reported::everywhere()), Ok(true));
    fs::remove_file(path("a.yaml")).unwrap();
    let mut single = Reported::default();
    single.add(vec![path("a.yaml")]);
    for reported in [&single, &Reported::everywhere()] {
        let refused = state.reload(reported).unwrap_err();
        assert!(refused.contains("no YAML or JSON file"), "{refused}");
        assert_eq!(state.snapshot().workloads().count(), 1);
    }
    fs::write(path("empty.yaml"), "").unwrap();
    assert_eq!(state.reload(&Reported::everywhere()), Ok(true));
    assert_eq!(state.snapshot().workloads().count(), 0);
}

#[tokio::test]
async fn an_oversized_or_binary_file_is_refused_without_harm() {
    let directory = MeshDirectory::start(&[("a.yaml", &pod("a", "10.0.0.1"))]);
    fs::write(directory.path("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let sparse = fs::File::create(directory.path("huge.yaml")).unwrap();
    sparse.set_len((64 << 20) + 1).unwrap();
    directory
        .becomes("both are reported", |it| {
            it.reports("", "not UTF-8") && it.reports("", "larger than")
        })
        .await;
    assert!(directory.has("a"));
}
