//! A node is ready when every enrolled pod can be served, and says what is missing.

use anyhow::Result;
use rcgen::{CertificateParams, IsCa, KeyPair};
use std::{fs, time::Duration};
use time::OffsetDateTime;
use ztun_tests::{
    Enrolment, Mesh, MeshBuilder, Node, PodSpec, cni::CniCommand, manifest::Manifest, scenario,
    wait,
};

fn one_node() -> MeshBuilder {
    Mesh::builder().nodes(["a"]).pod(PodSpec::new("shop/pod"))
}

#[test]
fn a_node_with_a_pod_that_the_mesh_does_not_know_is_not_ready_until_it_does() {
    let unknown = PodSpec::new("shop/unknown").enrolment(Enrolment::Outside);
    scenario(one_node().pod(unknown), async |mesh| {
        let node = mesh.node("a");
        assert_eq!(node.readiness()?.0, 200);
        let pod = mesh.pod("shop/unknown");
        mesh.cni(CniCommand::Add, pod).await?;
        let (code, missing) = node.readiness()?;
        assert_eq!(code, 503);
        assert!(missing.contains("shop/unknown"), "{missing}");
        let spec = pod.spec.clone().enrolment(Enrolment::Enrolled);
        let addresses = [pod.v4.into(), pod.v6.into()];
        mesh.apply(&Manifest::pod(&spec, &pod.uid, "a", &addresses))?;
        becomes_ready(node).await
    });
}

#[test]
fn a_node_without_certificates_is_not_ready_until_it_has_them() {
    scenario(one_node(), async |mesh| {
        let node = mesh.node("a");
        node.kill_daemon().await?;
        let file = |name| mesh.ca_directory().join(name);
        let root = [file("root-key.pem"), file("root-cert.pem")];
        let good = [fs::read(&root[0])?, fs::read(&root[1])?];
        fs::write(&root[1], expired_root(&fs::read_to_string(&root[0])?)?)?;
        node.launch_daemon().await?;
        wait::until("the daemon says what is missing", async || {
            node.readiness().is_ok_and(|(code, missing)| {
                code == 503
                    && missing.contains("spiffe://cluster.local/ns/shop/sa/pod")
                    && missing.contains("expired")
            })
        })
        .await?;
        node.kill_daemon().await?;
        fs::write(&root[1], &good[1])?;
        node.start_daemon().await
    });
}

#[test]
fn a_pod_that_is_gone_is_not_waited_for() {
    let unknown = PodSpec::new("shop/unknown").enrolment(Enrolment::Outside);
    scenario(one_node().pod(unknown), async |mesh| {
        let pod = mesh.pod("shop/unknown");
        mesh.cni(CniCommand::Add, pod).await?;
        assert_eq!(mesh.node("a").readiness()?.0, 503);
        mesh.cni(CniCommand::Del, pod).await?;
        becomes_ready(mesh.node("a")).await
    });
}

async fn becomes_ready(node: &Node) -> Result<()> {
    wait::until("the node is ready", async || {
        node.readiness().is_ok_and(|(code, _)| code == 200)
    })
    .await
}

/// A certificate of the root key that was valid until an hour ago: an authority with it signs nothing.
fn expired_root(key: &str) -> Result<String> {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.not_before = OffsetDateTime::now_utc() - Duration::from_hours(2);
    root.not_after = OffsetDateTime::now_utc() - Duration::from_hours(1);
    Ok(root.self_signed(&KeyPair::from_pem(key)?)?.pem())
}
