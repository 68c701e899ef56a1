//! What an enrolment leaves in the kernel and on disk, and that a failed one leaves nothing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::Result;
use rtnetlink::IpVersion;
use serde_json::{Value, json};
use ztun_tests::{
    Enrolment, Mesh, MeshBuilder, PodSpec,
    cni::{self, CniCommand, When},
    netlink::Netlink,
    pod::Pod,
    run, scenario,
};

/// Everything that an enrolment changes.
#[derive(Debug, PartialEq, Eq)]
struct Footprint {
    pins: Vec<String>,
    records: Vec<String>,
    routing: Vec<String>,
    sysctls: BTreeMap<&'static str, String>,
    cgroup_programs: Vec<u32>,
    shown: Value,
}

const SYSCTLS: [&str; 3] = [
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
];

impl Footprint {
    async fn of(mesh: &Mesh, pod: &Pod) -> Result<Self> {
        let netlink = Netlink::open(&pod.netns)?;
        let mut routing = netlink.routing(IpVersion::V4).await?;
        routing.extend(netlink.routing(IpVersion::V6).await?);
        let sysctls = pod.netns.run(|| {
            let value = |key| fs::read_to_string(Path::new("/proc/sys").join(key));
            SYSCTLS
                .into_iter()
                .map(|key| Ok((key, value(key)?)))
                .collect::<Result<_>>()
        })??;
        Ok(Self {
            pins: files_below(&pins(mesh)),
            records: files_below(&mesh.node("a").directory.join("state/pods")),
            routing,
            sysctls,
            cgroup_programs: pod.cgroup.programs()?,
            shown: mesh.node("a").status().await?["pods"].clone(),
        })
    }
}

fn one_pod() -> MeshBuilder {
    let pod = PodSpec::new("shop/pod").enrolment(Enrolment::Later);
    Mesh::builder().nodes(["a"]).pod(pod)
}

#[test]
fn an_enrolment_is_in_the_kernel_when_the_call_returns_and_released_by_del() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let before = Footprint::of(mesh, pod).await?;
        mesh.cni(CniCommand::Add, pod).await?;
        let during = Footprint::of(mesh, pod).await?;
        for name in ["capture4", "capture6", "steer"] {
            let pinned = during.pins.iter().any(|pin| pin.ends_with(name));
            assert!(pinned, "{name} is not pinned: {:?}", during.pins);
        }
        assert_eq!(during.records.len(), 1);
        assert!(during.routing.len() > before.routing.len());
        assert!(during.sysctls.values().all(|value| value.trim() == "1"));
        assert_eq!(
            during.cgroup_programs.len(),
            before.cgroup_programs.len() + 2
        );
        mesh.cni(CniCommand::Add, pod).await?;
        let again = Footprint::of(mesh, pod).await?;
        assert_eq!(again.pins.len(), during.pins.len(), "{:?}", again.pins);
        assert_eq!(again.routing, during.routing);
        assert_eq!(again.cgroup_programs.len(), during.cgroup_programs.len());
        mesh.cni(CniCommand::Del, pod).await?;
        let after = Footprint::of(mesh, pod).await?;
        // Rules, routes and sysctls stay for the sockets that still carry the mark.
        assert_eq!(after.pins, before.pins);
        assert_eq!(after.records, before.records);
        assert_eq!(after.cgroup_programs, before.cgroup_programs);
        assert_eq!(after.shown, before.shown);
        Ok(())
    });
}

#[test]
fn an_enrolment_that_fails_at_once_leaves_nothing_behind() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let before = Footprint::of(mesh, pod).await?;
        let socket = mesh.node("a").socket();
        let mut configuration = cni::configuration(When::Always, pod, &socket)?;
        configuration["runtimeConfig"]["cgroupPath"] = json!("/nonexistent/cgroup");
        let output = cni::run(CniCommand::Add, pod, &configuration.to_string()).await?;
        let error = is_error(&output, 100)?;
        let details = error["details"].as_str().unwrap_or_default();
        assert!(details.contains("nonexistent/cgroup"), "{error}");
        assert_eq!(Footprint::of(mesh, pod).await?, before);
        is_enrolled_next(mesh, pod).await
    });
}

#[test]
fn an_enrolment_that_fails_at_its_last_step_is_taken_back() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        // Where the pod's pins belong; by the time they are made, routes and listeners are there.
        let pins = pins(mesh).join("v1").join(&pod.uid);
        symlink("/nonexistent", &pins)?;
        let before = Footprint::of(mesh, pod).await?;
        let socket = mesh.node("a").socket();
        let configuration = cni::configuration(When::Always, pod, &socket)?;
        let output = cni::run(CniCommand::Add, pod, &configuration.to_string()).await?;
        is_error(&output, 100)?;
        assert_eq!(Footprint::of(mesh, pod).await?, before);
        fs::remove_file(&pins)?;
        is_enrolled_next(mesh, pod).await
    });
}

async fn is_enrolled_next(mesh: &Mesh, pod: &Pod) -> Result<()> {
    mesh.cni(CniCommand::Add, pod).await?;
    mesh.cni(CniCommand::Check, pod).await?;
    Ok(())
}

#[test]
fn a_failure_is_an_error_object_of_the_specification() {
    scenario(one_pod(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let socket = mesh.node("a").socket();
        let good = cni::configuration(When::Always, pod, &socket)?;
        let unchained = {
            let mut configuration = good.clone();
            configuration["prevResult"] = Value::Null;
            configuration.to_string()
        };
        let from_the_future = good.to_string().replace("1.1.0", "9.0.0");
        for (configuration, code) in [
            (unchained.as_str(), 7),
            (from_the_future.as_str(), 1),
            ("{ not json", 6),
        ] {
            let output = cni::run(CniCommand::Add, pod, configuration).await?;
            is_error(&output, code)?;
        }
        mesh.node("a").kill_daemon().await?;
        let output = cni::run(CniCommand::Add, pod, &good.to_string()).await?;
        let error = is_error(&output, 11)?;
        assert_eq!(error["cniVersion"], json!("1.1.0"));
        let details = error["details"].as_str().unwrap_or_default();
        assert!(details.contains(&socket.display().to_string()), "{error}");
        Ok(())
    });
}

fn is_error(output: &Output, code: u32) -> Result<Value> {
    assert!(!output.status.success(), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(error["code"], json!(code), "{error}");
    assert!(
        error["msg"].as_str().is_some_and(|msg| !msg.is_empty()),
        "{error}"
    );
    assert!(error["cniVersion"].is_string(), "{error}");
    Ok(error)
}

fn pins(mesh: &Mesh) -> PathBuf {
    Path::new(run::BPFFS).join(format!("{}a", mesh.name()))
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        }
        found.push(path.display().to_string());
    }
    found.sort();
    found
}
