//! Pods that come twice, go without a word, or never were.

use std::fs;

use anyhow::Result;
use serde_json::json;
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, PodSpec, cni::CniCommand, namespace::Netns, run,
    scenario, wait,
};

use crate::{PORT, reaches, shop_and_outsider};

#[test]
fn a_pod_whose_namespace_is_deleted_does_not_hold_up_the_others() {
    let mesh = shop_and_outsider().pod(PodSpec::new("shop/doomed").on("a"));
    scenario(mesh, async |mesh| {
        let name = run::pod_namespace(mesh.name(), "shop-doomed");
        run::remove_named_namespace(&name)?;
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        assert!(reaches(client, server, Family::V4).await);
        wait::until("the log tells of it", async || {
            let log = mesh.node("a").log();
            log.lines()
                .any(|line| line.contains("shop/doomed") && line.contains("network namespace"))
        })
        .await?;
        // The runtime tells of it late, and the daemon must not mind.
        mesh.cni(CniCommand::Del, mesh.pod("shop/doomed")).await?;
        assert!(reaches(client, server, Family::V4).await);
        // A daemon that starts afterwards finds no namespace to reconcile.
        mesh.node("a").restart_daemon().await?;
        assert!(reaches(client, server, Family::V4).await);
        Ok(())
    });
}

#[test]
fn enrolling_a_pod_without_a_namespace_fails_and_leaves_nothing() {
    let pod = PodSpec::new("shop/gone").enrolment(Enrolment::Later);
    scenario(Mesh::builder().nodes(["a"]).pod(pod), async |mesh| {
        let name = run::pod_namespace(mesh.name(), "shop-gone");
        run::remove_named_namespace(&name)?;
        let refused = mesh.cni(CniCommand::Add, mesh.pod("shop/gone")).await;
        let error = format!("{:#}", refused.expect_err("it was enrolled"));
        assert!(error.contains(&name), "{error}");
        let status = mesh.node("a").status().await?;
        assert!(!status["pods"].to_string().contains("gone"), "{status}");
        Ok(())
    });
}

#[test]
fn a_pod_without_an_address_is_not_enrolled_and_the_error_says_why() {
    scenario(one_outside(), async |mesh| {
        let netns = Netns::create(&run::pod_namespace(mesh.name(), "bare"))?;
        let (netns, pod) = (netns.path().display().to_string(), mesh.pod("shop/pod"));
        let cgroup = pod.cgroup.path().display().to_string();
        let node = mesh.node("a");
        let enrol = [
            "enrol", "--netns", &netns, "--cgroup", &cgroup, "--pod", "shop/pod",
        ];
        let output = node.ztun(&enrol).await?;
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr)?;
        assert!(error.contains("no address but loopback's"), "{error}");
        assert_eq!(node.status().await?["pods"], json!([]));
        Ok(())
    });
}

#[test]
fn enrolment_by_hand_is_the_same_as_by_cni() {
    scenario(one_outside(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let netns = pod.netns.path().display().to_string();
        let cgroup = pod.cgroup.path().display().to_string();
        let node = mesh.node("a");
        let arguments = [
            "enrol", "--netns", &netns, "--cgroup", &cgroup, "--pod", "shop/pod", "--uid", &pod.uid,
        ];
        for _ in 0..2 {
            let output = node.ztun(&arguments).await?;
            assert!(output.status.success(), "{output:?}");
        }
        mesh.cni(CniCommand::Check, pod).await?;
        let output = node.ztun(&["unenrol", "--pod", "shop/pod"]).await?;
        assert!(output.status.success(), "{output:?}");
        assert!(mesh.cni(CniCommand::Check, pod).await.is_err());
        Ok(())
    });
}

#[test]
fn an_unenrolled_pod_talks_in_clear_again() {
    scenario(shop_and_outsider(), async |mesh| {
        let outside = mesh.pod("outside/client");
        let _echo = outside.echo(PORT)?;
        mesh.unenrol("shop/client").await?;
        mesh.node("a").kill_daemon().await?;
        let client = mesh.pod("shop/client");
        wait::until("the pod talks without a daemon", async || {
            reaches(client, outside, Family::V4).await
        })
        .await
    });
}

#[test]
fn pods_that_come_and_go_leave_no_descriptor_in_the_daemon() {
    scenario(one_outside(), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        let descriptors = format!("/proc/{}/fd", node.daemon_pid().await?);
        let open = || -> Result<usize> { Ok(fs::read_dir(&descriptors)?.count()) };
        let [v4, v6] = [Family::V4, Family::V6].map(|family| pod.address_with_host(family, 200));
        let come_and_go = async || -> Result<()> {
            mesh.enrol("shop/pod").await?;
            let first = [pod.v4.into(), pod.v6.into()];
            for ip in [v4, v6] {
                pod.add_address(ip).await?;
            }
            mesh.captures("shop/pod", &[first, [v4, v6]].concat())
                .await?;
            for ip in [v4, v6] {
                pod.remove_address(ip).await?;
            }
            mesh.unenrol("shop/pod").await
        };
        let before = open()?;
        for _ in 0..4 {
            come_and_go().await?;
            wait::until("the descriptors are as few as before", async || {
                open().is_ok_and(|now| now <= before)
            })
            .await?;
        }
        Ok(())
    });
}

fn one_outside() -> MeshBuilder {
    let pod = PodSpec::new("shop/pod").enrolment(Enrolment::Later);
    Mesh::builder().nodes(["a"]).pod(pod)
}
