//! The CNI plugin, called the way a container runtime does.

use anyhow::Context;
use serde_json::{Value, json};
use tokio::process::Command;
use ztun_tests::{
    Enrolment, Mesh, MeshBuilder, PodSpec,
    cni::{self, CniCommand, When, previous_result},
    daemon, scenario,
};

fn one_pod() -> MeshBuilder {
    let pod = PodSpec::new("shop/pod").enrolment(Enrolment::Later);
    Mesh::builder().nodes(["a"]).pod(pod)
}

#[test]
fn add_passes_the_previous_result_through_in_either_version_byte_by_byte() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let mut configuration = cni::configuration(When::Always, pod, &mesh.node("a").socket())?;
        for version in ["1.0.0", "1.1.0"] {
            // The order, the spacing, unknown fields and large numbers are the plugin's before ours.
            let previous = format!(
                r#"{{"zebra": [1.50, 18446744073709551616],  "cniVersion":"{version}", "ips":[{{"address":"{}/24","interface":0}}], "interfaces":[{{"name":"eth0","sandbox":"{}","mtu":1500}}], "dns":{{}}}}"#,
                pod.v4,
                pod.netns.path().display()
            );
            configuration["cniVersion"] = json!(version);
            configuration["prevResult"] = json!("PREVIOUS");
            let text = configuration.to_string().replace("\"PREVIOUS\"", &previous);
            let output = cni::run(CniCommand::Add, pod, &text).await?;
            let printed = String::from_utf8(output.stdout)?;
            assert_eq!(printed.trim_end(), previous);
            let output = cni::run(CniCommand::Check, pod, &text).await?;
            assert!(output.status.success(), "{output:?}");
            let output = cni::run(CniCommand::Del, pod, &text).await?;
            assert!(output.status.success(), "{output:?}");
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
