//! In whatever order a node comes back, and whatever of it is lost. Pods before their daemon are in
//! `scenarios::membership`; a daemon that never comes, in `enrolment`.

use std::{
    fs, mem,
    path::{Path, PathBuf},
    slice,
};

use anyhow::{Context, Result, ensure};
use ztun_tests::{Enrolment, Mesh, PodSpec, cni::CniCommand, mesh::Uid, run, scenario, wait};

use crate::closed::{is_closed, two_nodes, works};

/// As the daemon lays its pins out.
const LAYOUT: &str = "v1";

#[test]
fn a_node_that_was_rebooted_takes_its_pods_in_their_new_sandboxes() {
    rebooted(Comes::First);
}

#[test]
fn pods_whose_runtime_asks_before_the_daemon_is_back_are_taken_when_it_asks_again() {
    rebooted(Comes::Last);
}

/// When the daemon comes, relative to the pods' sandboxes.
#[derive(Clone, Copy, PartialEq)]
enum Comes {
    First,
    Last,
}

fn rebooted(daemon: Comes) {
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        mesh.node("a").kill_daemon().await?;
        // Of a reboot the records stay, and nothing of the kernel.
        let former = mesh.replace_pod("shop/pod", Uid::Kept).await?;
        run::remove_netns(former.netns.path())?;
        ztun_tests::cgroup::remove_tree(former.cgroup.path())?;
        drop(former);
        fs::remove_dir_all(&mesh.node("a").pins)?;
        mesh.apply(&mesh.manifest_of("shop/pod"))?;
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        if daemon == Comes::First {
            node.start_daemon().await?;
        } else {
            let refused = mesh.cni(CniCommand::Add, pod).await;
            ensure!(refused.is_err(), "nobody can have enrolled it");
            node.start_daemon().await?;
        }
        mesh.cni(CniCommand::Add, pod).await?;
        works(mesh, pod).await?;
        assert_eq!(pinned(mesh)?, slice::from_ref(&pod.uid));
        node.kill_daemon().await?;
        let tried = is_closed(mesh, pod).await?;
        println!("{tried} connections tried without a daemon, 0 bytes in clear");
        Ok(())
    });
}

#[test]
fn a_lost_state_directory_leaves_pods_closed_until_they_are_enrolled_again() {
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        node.kill_daemon().await?;
        fs::remove_dir_all(node.directory.join("state"))?;
        node.start_daemon().await?;
        let tried = is_closed(mesh, pod).await?;
        println!("{tried} connections tried, 0 bytes in clear");
        ensure!(node.log().contains("its record is lost"), "it is not said");
        mesh.cni(CniCommand::Add, pod).await?;
        works(mesh, pod).await
    });
}

#[test]
fn a_daemon_that_starts_without_its_pins_captures_its_pods_anew() {
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        node.kill_daemon().await?;
        fs::remove_dir_all(&mesh.node("a").pins)?;
        wait::until("the pod is free", async || {
            pod.cgroup
                .programs()
                .is_ok_and(|programs| programs.is_empty())
        })
        .await?;
        node.start_daemon().await?;
        works(mesh, pod).await?;
        node.kill_daemon().await?;
        is_closed(mesh, pod).await?;
        ensure!(node.log().contains("captured anew"), "it is not said");
        Ok(())
    });
}

#[test]
fn pins_that_are_lost_while_the_daemon_runs_are_reported() {
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        fs::remove_dir_all(mesh.node("a").pins.join(LAYOUT).join(&pod.uid))?;
        let mut state = String::new();
        wait::until("its status says so", async || {
            let status = node.status().await.unwrap_or_default();
            state = status["pods"][0]["capture"].to_string();
            state.contains("notCaptured") || node.log().contains("captured anew")
        })
        .await
        .context(mem::take(&mut state))?;
        node.restart_daemon().await?;
        works(mesh, pod).await?;
        node.kill_daemon().await?;
        is_closed(mesh, pod).await.map(drop)
    });
}

#[test]
fn what_older_and_newer_versions_left_behind_harms_nobody() {
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        node.kill_daemon().await?;
        let pins = &node.pins;
        // Layouts that are not ours, what was never a capture, and one that was begun.
        let others = ["v0/some-pod/1", "v99/some-pod/1/programs-1", "v99-node"];
        let ours = [
            "v1/never-a-pod/neither-a-number",
            "v1/begun/1/programs-unknown",
            "v1-node/programs-unknown",
        ];
        for name in others.iter().chain(&ours) {
            fs::create_dir_all(pins.join(name))?;
        }
        // And of the pod itself, programs of another version.
        let generation = only(&pins.join(LAYOUT).join(&pod.uid))?;
        let marks = entries(&generation)?;
        let is_mark = |path: &&PathBuf| path.is_dir();
        let mark = marks.iter().find(is_mark).context("no mark")?;
        fs::remove_dir(mark)?;
        fs::create_dir(generation.join("programs-of-another-version"))?;

        node.start_daemon().await?;
        ensure!(
            node.log().contains("captured anew"),
            "programs that are not ours"
        );
        works(mesh, pod).await?;
        for name in others {
            ensure!(pins.join(name).is_dir(), "{name} is another version's own");
        }
        ensure!(
            !pins.join("v1/begun").exists(),
            "a pod that never was is kept"
        );
        node.kill_daemon().await?;
        let tried = is_closed(mesh, pod).await?;
        println!("{tried} connections tried, 0 bytes in clear");
        Ok(())
    });
}

#[test]
fn a_pod_that_ran_before_its_daemon_is_closed_and_open_as_any_other() {
    let before = PodSpec::new("shop/pod").enrolment(Enrolment::Claimed);
    scenario(two_nodes(before.in_kubelet_cgroup()), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        wait::until("the daemon finds it", async || {
            let status = node.status().await.unwrap_or_default();
            status["pods"][0]["capture"]["state"] == "captured"
        })
        .await?;
        works(mesh, pod).await?;
        node.kill_daemon().await?;
        is_closed(mesh, pod).await?;
        node.start_daemon().await?;
        works(mesh, pod).await
    });
}

/// The UIDs of the pods that are pinned.
fn pinned(mesh: &Mesh) -> Result<Vec<String>> {
    let names = entries(&mesh.node("a").pins.join(LAYOUT))?.into_iter();
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    Ok(names.filter_map(name).collect())
}

fn only(directory: &Path) -> Result<PathBuf> {
    entries(directory)?.pop().context("it is empty")
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
