//! The CNI plugin, called the way a container runtime does.

use anyhow::Context;
use serde_json::{Value, json};
use tokio::process::Command;
use ztun_tests::{
    Enrolment, Mesh, MeshBuilder, PodSpec,
    cni::{CniCommand, When, previous_result},
    daemon, scenario,
};

fn one_pod() -> MeshBuilder {
    let pod = PodSpec::new("shop/pod").enrolment(Enrolment::Later);
    Mesh::builder().nodes(["a"]).pod(pod)
}

#[test]
fn add_passes_the_previous_result_through() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let result = mesh.cni(CniCommand::Add, pod).await?;
        let result = result.context("ADD printed nothing")?;
        let previous = previous_result(pod);
        for key in ["cniVersion", "interfaces", "ips"] {
            assert_eq!(result[key], previous[key], "{key}");
        }
        Ok(())
    });
}

#[test]
fn add_twice_is_the_same_as_once() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let first = mesh.cni(CniCommand::Add, pod).await?;
        let second = mesh.cni(CniCommand::Add, pod).await?;
        assert_eq!(first, second);
        mesh.cni(CniCommand::Check, pod).await?;
        Ok(())
    });
}

#[test]
fn check_fails_for_a_pod_that_is_not_enrolled() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        assert!(mesh.cni(CniCommand::Check, pod).await.is_err());
        mesh.cni(CniCommand::Add, pod).await?;
        mesh.cni(CniCommand::Check, pod).await?;
        mesh.cni(CniCommand::Del, pod).await?;
        assert!(mesh.cni(CniCommand::Check, pod).await.is_err());
        Ok(())
    });
}

#[test]
fn del_of_an_unknown_pod_succeeds() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        assert_eq!(mesh.cni(CniCommand::Del, pod).await?, None);
        assert_eq!(mesh.cni(CniCommand::Del, pod).await?, None);
        Ok(())
    });
}

#[test]
fn add_of_a_pod_outside_the_mesh_succeeds_without_capturing_it() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let result = mesh.cni_when(CniCommand::Add, When::InMesh, pod).await?;
        assert_eq!(result, Some(previous_result(pod)));
        assert!(mesh.cni(CniCommand::Check, pod).await.is_err());
        Ok(())
    });
}

#[test]
fn add_fails_when_the_daemon_is_gone() {
    scenario(one_pod(), async |mesh| {
        mesh.node("a").kill_daemon().await?;
        let pod = mesh.pod("shop/pod");
        assert!(mesh.cni(CniCommand::Add, pod).await.is_err());
        Ok(())
    });
}

#[test]
fn version_names_the_supported_versions() {
    scenario(one_pod(), async |_| {
        let output = Command::new(daemon::binary()?)
            .arg("cni")
            .env("CNI_COMMAND", "VERSION")
            .output()
            .await?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let supported = answer["supportedVersions"].as_array();
        let supported = supported.context("no supportedVersions")?;
        for version in ["1.0.0", "1.1.0"] {
            assert!(supported.contains(&json!(version)), "{answer}");
        }
        Ok(())
    });
}
