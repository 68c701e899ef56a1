//! Labels that change while pods run, pods that ran before, and what must not set a pod free.

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, Pod, PodSpec, Process, app,
    cni::{CniCommand, When},
    manifest::Manifest,
    mesh::Uid,
    run, scenario, wait,
};

use crate::PORT;

const CLIENT: &str = "late/client";
const SERVER: &str = "late/server";

/// Two pods on two nodes that say nothing, in a namespace that says nothing, and one in the mesh.
fn undeclared() -> MeshBuilder {
    let undeclared = |path, node| PodSpec::new(path).on(node).enrolment(Enrolment::Undeclared);
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(undeclared(CLIENT, "a"))
        .pod(undeclared(SERVER, "b"))
        .pod(PodSpec::new("shop/member").on("a"))
        .manifest(Manifest::unlabelled_namespace("late"))
}

/// The same with the namespace in the mesh, and both pods captured.
async fn labelled(mesh: &Mesh) -> Result<()> {
    mesh.apply(&Manifest::namespace("late"))?;
    runtime_adds_both(mesh).await?;
    become_captured(mesh, [CLIENT, SERVER]).await
}

#[test]
fn a_label_put_on_the_namespace_captures_its_running_pods_and_keeps_their_connections() {
    scenario(undeclared(), async |mesh| {
        runtime_adds_both(mesh).await?;
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        let mut before = open(mesh).await?;
        assert!(!is_encrypted(mesh, &before).await?);

        mesh.apply(&Manifest::namespace("late"))?;
        become_captured(mesh, [CLIENT, SERVER]).await?;
        assert_eq!(
            app::exchange(&mut before, "still here").await?,
            "still here"
        );
        assert!(is_encrypted(mesh, &open(mesh).await?).await?);
        for path in [CLIENT, SERVER] {
            mesh.cni_when(CniCommand::Check, When::InMesh, mesh.pod(path))
                .await?;
        }
        Ok(())
    });
}

#[test]
fn a_label_put_on_a_pod_captures_that_one_alone() {
    scenario(undeclared(), async |mesh| {
        runtime_adds_both(mesh).await?;
        declare(mesh, SERVER, Enrolment::Enrolled)?;
        become_captured(mesh, [SERVER]).await?;
        assert_eq!(capture(mesh, CLIENT).await?, None);
        mesh.cni_when(CniCommand::Check, When::InMesh, mesh.pod(CLIENT))
            .await?;
        Ok(())
    });
}

#[test]
fn a_label_taken_off_the_namespace_sets_its_pods_free_and_put_back_captures_them_again() {
    scenario(undeclared(), async |mesh| {
        labelled(mesh).await?;
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        assert!(is_encrypted(mesh, &open(mesh).await?).await?);

        mesh.apply(&Manifest::unlabelled_namespace("late"))?;
        become_free(mesh, [CLIENT, SERVER]).await?;
        let mut plain = open(mesh).await?;
        assert!(!is_encrypted(mesh, &plain).await?);

        mesh.apply(&Manifest::namespace("late"))?;
        become_captured(mesh, [CLIENT, SERVER]).await?;
        assert!(is_encrypted(mesh, &open(mesh).await?).await?);
        assert_eq!(app::exchange(&mut plain, "still here").await?, "still here");

        mesh.apply(&Manifest::unlabelled_namespace("late"))?;
        become_free(mesh, [CLIENT, SERVER]).await?;
        for node in mesh.nodes() {
            node.kill_daemon().await?;
        }
        // Nothing of the daemon is left in between.
        open(mesh).await?;
        Ok(())
    });
}

#[test]
fn a_pod_that_opts_out_is_set_free_and_its_neighbours_are_not() {
    scenario(undeclared(), async |mesh| {
        labelled(mesh).await?;
        declare(mesh, CLIENT, Enrolment::Later)?;
        become_free(mesh, [CLIENT]).await?;
        assert_eq!(capture(mesh, SERVER).await?.as_deref(), Some("captured"));
        assert_eq!(
            capture(mesh, "shop/member").await?.as_deref(),
            Some("captured")
        );
        Ok(())
    });
}

#[test]
fn a_namespace_whose_object_is_lost_keeps_its_pods_captured_also_over_a_restart() {
    scenario(undeclared(), async |mesh| {
        labelled(mesh).await?;
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        mesh.directory.remove(&Manifest::namespace("late"))?;
        for node in mesh.nodes() {
            wait::until("the loss is reported", async || {
                let status = node.status().await.unwrap_or_default();
                status["mesh"].to_string().contains("Namespace late")
            })
            .await?;
        }
        assert!(is_encrypted(mesh, &open(mesh).await?).await?);
        still_captured(mesh).await?;
        for node in mesh.nodes() {
            node.restart_daemon().await?;
        }
        still_captured(mesh).await?;
        for node in mesh.nodes() {
            node.kill_daemon().await?;
        }
        ensure!(open(mesh).await.is_err(), "the pod talks without a daemon");
        Ok(())
    });
}

#[test]
fn a_pod_that_vanishes_from_the_mesh_state_stays_captured() {
    scenario(undeclared(), async |mesh| {
        labelled(mesh).await?;
        mesh.directory.remove(&mesh.manifest_of(CLIENT))?;
        wait::until("it is unknown", async || {
            let status = mesh.node("a").status().await.unwrap_or_default();
            status["notReady"].to_string().contains(CLIENT)
        })
        .await?;
        assert_eq!(capture(mesh, CLIENT).await?.as_deref(), Some("captured"));
        Ok(())
    });
}

#[test]
fn a_daemon_that_starts_again_knows_the_pods_that_came_before_and_what_changed_meanwhile() {
    scenario(undeclared(), async |mesh| {
        runtime_adds_both(mesh).await?;
        for node in mesh.nodes() {
            node.restart_daemon().await?;
        }
        mesh.apply(&Manifest::namespace("late"))?;
        become_captured(mesh, [CLIENT, SERVER]).await?;

        for node in mesh.nodes() {
            node.kill_daemon().await?;
        }
        mesh.apply(&Manifest::unlabelled_namespace("late"))?;
        for node in mesh.nodes() {
            node.start_daemon().await?;
        }
        become_free(mesh, [CLIENT, SERVER]).await?;
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        open(mesh).await?;
        Ok(())
    });
}

#[test]
fn a_pod_that_was_enrolled_by_request_is_not_set_free_by_labels() {
    scenario(undeclared(), async |mesh| {
        mesh.apply(&Manifest::namespace("late"))?;
        mesh.cni_when(CniCommand::Add, When::Always, mesh.pod(CLIENT))
            .await?;
        mesh.cni_when(CniCommand::Add, When::InMesh, mesh.pod(SERVER))
            .await?;
        mesh.apply(&Manifest::unlabelled_namespace("late"))?;
        become_free(mesh, [SERVER]).await?;
        // The other node has read the change too once it knows a pod that came after it.
        add_marker(mesh).await?;
        assert_eq!(capture(mesh, CLIENT).await?.as_deref(), Some("captured"));
        Ok(())
    });
}

#[test]
fn a_pod_that_was_let_go_by_hand_stays_free_whatever_its_labels_say() {
    scenario(undeclared(), async |mesh| {
        labelled(mesh).await?;
        let output = mesh.node("a").ztun(&["unenrol", "--pod", CLIENT]).await?;
        ensure!(output.status.success(), "{output:?}");
        mesh.node("a").restart_daemon().await?;
        add_marker(mesh).await?;
        let status = mesh.node("a").status().await?;
        let shown = shown(&status, CLIENT).context("it is not shown")?;
        assert_eq!(shown["capture"]["state"], "notCaptured");
        assert!(shown.to_string().contains("ztun enrol"), "{shown}");
        Ok(())
    });
}

#[test]
fn a_known_pod_that_is_deleted_is_not_captured_later() {
    scenario(undeclared(), async |mesh| {
        runtime_adds_both(mesh).await?;
        mesh.cni_when(CniCommand::Del, When::InMesh, mesh.pod(CLIENT))
            .await?;
        mesh.apply(&Manifest::namespace("late"))?;
        become_captured(mesh, [SERVER]).await?;
        wait::until("the other node sees the label", async || {
            capture(mesh, CLIENT).await.is_ok_and(|it| it.is_some())
        })
        .await?;
        assert_eq!(capture(mesh, CLIENT).await?.as_deref(), Some("notCaptured"));
        Ok(())
    });
}

#[test]
fn an_enrolment_that_fails_is_shown_with_its_reason_and_tried_again() {
    scenario(undeclared(), async |mesh| {
        runtime_adds_both(mesh).await?;
        let pod = mesh.pod(CLIENT);
        let (path, nothing) = (pod.netns.path(), None::<&str>);
        mount(Some("/dev/null"), path, nothing, MsFlags::MS_BIND, nothing)?;
        mesh.apply(&Manifest::namespace("late"))?;
        let failure = wait::until("the reason is shown", async || {
            let status = mesh.node("a").status().await.unwrap_or_default();
            shown(&status, CLIENT)
                .is_some_and(|shown| shown.to_string().contains("is not a network namespace"))
        })
        .await;
        let check = mesh.cni_when(CniCommand::Check, When::InMesh, pod).await;
        umount(path)?;
        failure?;
        ensure!(
            check.is_err(),
            "CHECK passes for a pod that is not captured"
        );
        become_captured(mesh, [CLIENT]).await
    });
}

#[test]
fn a_known_pod_whose_namespace_is_gone_is_forgotten() {
    scenario(undeclared(), async |mesh| {
        runtime_adds_both(mesh).await?;
        run::remove_netns(mesh.pod(CLIENT).netns.path())?;
        wait::until("the log tells of it", async || {
            let log = mesh.node("a").log();
            log.lines()
                .any(|line| line.contains(CLIENT) && line.contains("pod is gone"))
        })
        .await
    });
}

#[test]
fn what_the_mesh_says_of_a_predecessor_does_not_count_for_a_pod_of_the_same_name() {
    scenario(undeclared(), async |mesh| {
        runtime_adds_both(mesh).await?;
        let former = mesh.replace_pod(CLIENT, Uid::New).await?;
        // The mesh directory still has the former, outside of the mesh.
        let (pod, described) = (mesh.pod(CLIENT), mesh.manifest_of(CLIENT));
        let add = mesh.cni_when(CniCommand::Add, When::InMesh, pod);
        let label = async {
            mesh.apply(&Manifest::namespace("late"))?;
            mesh.apply(&described)
        };
        let (added, applied) = tokio::join!(add, label);
        applied?;
        added?;
        become_captured(mesh, [CLIENT]).await?;
        mesh.cni_when(CniCommand::Del, When::InMesh, &former)
            .await?;
        assert_eq!(capture(mesh, CLIENT).await?.as_deref(), Some("captured"));
        Ok(())
    });
}

#[test]
fn a_pod_outside_that_follows_a_captured_one_of_its_name_is_free_and_the_former_stays_closed() {
    scenario(undeclared(), async |mesh| {
        labelled(mesh).await?;
        let former = mesh.replace_pod(CLIENT, Uid::New).await?;
        declare(mesh, CLIENT, Enrolment::Later)?;
        mesh.cni_when(CniCommand::Add, When::InMesh, mesh.pod(CLIENT))
            .await?;
        assert_eq!(capture(mesh, CLIENT).await?, None);
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        open(mesh).await?;
        let to = mesh.pod(SERVER).at(Family::V4, PORT);
        ensure!(former.connect(to).await.is_err(), "the former was set free");
        mesh.cni_when(CniCommand::Del, When::InMesh, &former)
            .await?;
        former.connect(to).await?;
        Ok(())
    });
}

fn ran_before() -> MeshBuilder {
    let claimed = |path, node| {
        PodSpec::new(path)
            .on(node)
            .enrolment(Enrolment::Claimed)
            .in_kubelet_cgroup()
    };
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(claimed(CLIENT, "a"))
        .pod(claimed(SERVER, "b"))
        .pod(PodSpec::new("shop/member").on("a"))
}

#[test]
fn pods_that_ran_before_the_daemon_are_found_and_captured() {
    scenario(ran_before(), async |mesh| {
        become_captured(mesh, [CLIENT, SERVER]).await?;
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        assert!(is_encrypted(mesh, &open(mesh).await?).await?);
        mesh.node("a").restart_daemon().await?;
        become_captured(mesh, [CLIENT]).await?;
        declare(mesh, CLIENT, Enrolment::Later)?;
        become_free(mesh, [CLIENT]).await?;
        declare(mesh, CLIENT, Enrolment::Claimed)?;
        become_captured(mesh, [CLIENT]).await
    });
}

#[test]
fn a_running_pod_whose_namespace_has_no_name_is_found_by_its_processes() {
    scenario(ran_before(), async |mesh| {
        become_captured(mesh, [CLIENT, SERVER]).await?;
        let spec = PodSpec::new("late/nameless")
            .on("a")
            .enrolment(Enrolment::Claimed)
            .in_kubelet_cgroup();
        let path = mesh.add_pod(spec).await?.path();
        let pod = mesh.pod(&path);
        run::remove_netns(pod.netns.path())?;
        mesh.apply(&mesh.manifest_of(&path))?;
        become_captured(mesh, [path.as_str()]).await?;
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        mesh.node("a").restart_daemon().await?;
        become_captured(mesh, [path.as_str()]).await?;
        mesh.node("a").kill_daemon().await?;
        let to = mesh.pod(SERVER).at(Family::V4, PORT);
        ensure!(pod.connect(to).await.is_err(), "the pod was set free");
        Ok(())
    });
}

#[test]
fn a_pod_that_is_reached_by_a_process_stays_captured_when_that_process_ends() {
    scenario(undeclared(), async |mesh| {
        let (pod, node) = (mesh.pod(CLIENT), mesh.node("a"));
        let process = Process::start(&pod.netns, &pod.cgroup)?;
        let cgroup = pod.cgroup.path().display().to_string();
        let enrol = [
            "enrol",
            "--pod",
            CLIENT,
            "--netns",
            &format!("/proc/{}/ns/net", process.pid()),
            "--cgroup",
            &cgroup,
        ];
        let output = node.ztun(&enrol).await?;
        ensure!(output.status.success(), "{output:?}");
        drop(process);
        become_captured(mesh, [CLIENT]).await?;
        node.kill_daemon().await?;
        let _echo = mesh.pod(SERVER).echo(PORT)?;
        ensure!(open(mesh).await.is_err(), "the pod was set free");
        Ok(())
    });
}

async fn runtime_adds_both(mesh: &Mesh) -> Result<()> {
    for path in [CLIENT, SERVER] {
        mesh.cni_when(CniCommand::Add, When::InMesh, mesh.pod(path))
            .await?;
    }
    Ok(())
}

/// Rewrites what a pod says of itself.
fn declare(mesh: &Mesh, path: &str, enrolment: Enrolment) -> Result<()> {
    let pod = mesh.pod(path);
    let spec = pod.spec.clone().enrolment(enrolment);
    let addresses = [pod.v4.into(), pod.v6.into()];
    mesh.apply(&Manifest::pod(&spec, &pod.uid, &spec.node, &addresses))
}

/// A connection from the client to the server that carries data.
async fn open(mesh: &Mesh) -> Result<TcpStream> {
    let to = mesh.pod(SERVER).at(Family::V4, PORT);
    let mut stream = mesh.pod(CLIENT).connect(to).await?;
    app::exchange(&mut stream, "hello").await?;
    Ok(stream)
}

/// Whether the client's daemon carries the connection, in a tunnel.
async fn is_encrypted(mesh: &Mesh, stream: &TcpStream) -> Result<bool> {
    let status = mesh.node("a").status().await?;
    let source = stream.local_addr()?.to_string();
    let connections = status["connections"].as_array().context("connections")?;
    Ok(connections
        .iter()
        .any(|it| it["source"]["address"] == source.as_str() && it["encrypted"] == json!(true)))
}

async fn still_captured(mesh: &Mesh) -> Result<()> {
    for path in [CLIENT, SERVER] {
        assert_eq!(capture(mesh, path).await?.as_deref(), Some("captured"));
    }
    Ok(())
}

async fn become_captured(mesh: &Mesh, pods: impl IntoIterator<Item = &str>) -> Result<()> {
    for path in pods {
        wait::until(format_args!("{path} is captured"), async || {
            capture(mesh, path)
                .await
                .is_ok_and(|state| state.as_deref() == Some("captured"))
        })
        .await?;
    }
    Ok(())
}

async fn become_free(mesh: &Mesh, pods: impl IntoIterator<Item = &str>) -> Result<()> {
    for path in pods {
        wait::until(format_args!("{path} is free"), async || {
            capture(mesh, path).await.is_ok_and(|state| state.is_none())
        })
        .await?;
    }
    Ok(())
}

/// Waits until the daemon of node a has acted on a change that was made after all others.
async fn add_marker(mesh: &mut Mesh) -> Result<()> {
    let spec = PodSpec::new("shop/marker")
        .on("a")
        .enrolment(Enrolment::Undeclared);
    mesh.add_pod(spec).await?;
    let pod = mesh.pod("shop/marker");
    declare(mesh, "shop/marker", Enrolment::Later)?;
    mesh.cni_when(CniCommand::Add, When::InMesh, pod).await?;
    declare(mesh, "shop/marker", Enrolment::Enrolled)?;
    become_captured(mesh, ["shop/marker"]).await
}

/// How the pod's node shows it, if it does.
async fn capture(mesh: &Mesh, path: &str) -> Result<Option<String>> {
    let pod: &Pod = mesh.pod(path);
    let status = mesh.node_of(pod).status().await?;
    let state = shown(&status, path).and_then(|shown| shown["capture"]["state"].as_str());
    Ok(state.map(str::to_owned))
}

fn shown<'a>(status: &'a Value, path: &str) -> Option<&'a Value> {
    let (namespace, name) = path.split_once('/')?;
    let pods = status["pods"].as_array()?;
    pods.iter()
        .find(|shown| shown["pod"] == json!({ "namespace": namespace, "name": name }))
}
