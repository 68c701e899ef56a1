//! The end of a pod: its connections last as long as its processes, and DEL leaves nothing of it in the kernel,
//! counted with bpftool.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;
use ztun_tests::{
    Enrolment, Family, Mesh, MtlsMode, PodSpec, app, cni::CniCommand, pod::Pod, scenario, wait,
};

const PORT: u16 = 8080;
/// `TCP_LISTEN`, as `/proc/net/tcp` has it.
const LISTENING: &str = "0A";
/// Every pod's programs use this map, and it is the node's.
const OF_THE_NODE: &str = "PROBES";
/// The daemon's listeners in a pod, and its links there.
const LISTENERS: usize = 3;
const LINKS: usize = 4;

/// What the kernel has for one pod, by the kernel's numbers.
#[derive(Debug, Default, PartialEq, Eq)]
struct OfPod {
    links: BTreeSet<u64>,
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
}

impl OfPod {
    /// Everything that is attached to the pod's network namespace or cgroup, and what that uses.
    async fn read(pod: &Pod) -> Result<Self> {
        let netns = pod.netns.file().metadata()?.ino();
        let cgroup = fs::metadata(pod.cgroup.path())?.ino();
        let mut found = Self::default();
        for link in list(&["link", "show"]).await? {
            if link["netns_ino"] == netns || link["cgroup_id"] == cgroup {
                found.links.extend(link["id"].as_u64());
                found.programs.extend(link["prog_id"].as_u64());
            }
        }
        let of_pod = |program: &Value| {
            program["id"]
                .as_u64()
                .is_some_and(|id| found.programs.contains(&id))
        };
        let programs = list(&["prog", "show"]).await?;
        let maps: BTreeSet<u64> = programs
            .iter()
            .filter(|program| of_pod(program))
            .filter_map(|program| program["map_ids"].as_array())
            .flatten()
            .filter_map(Value::as_u64)
            .collect();
        for map in list(&["map", "show"]).await? {
            if map["name"] != OF_THE_NODE {
                found
                    .maps
                    .extend(map["id"].as_u64().filter(|id| maps.contains(id)));
            }
        }
        Ok(found)
    }

    /// What of it the kernel still has.
    async fn left(&self) -> Result<Self> {
        Ok(Self {
            links: still("link", &self.links).await?,
            programs: still("prog", &self.programs).await?,
            maps: still("map", &self.maps).await?,
        })
    }
}

#[test]
fn del_leaves_no_link_program_map_or_listener_of_the_pod() {
    let pod = PodSpec::new("shop/pod").enrolment(Enrolment::Later);
    let mesh = Mesh::builder().nodes(["a"]).pod(pod).needs("bpftool");
    scenario(mesh, async |mesh| {
        let pod = mesh.pod("shop/pod");
        assert_eq!(OfPod::read(pod).await?, OfPod::default());
        assert_eq!(listeners(pod)?, 0);

        mesh.cni(CniCommand::Add, pod).await?;
        let during = OfPod::read(pod).await?;
        assert_eq!(during.links.len(), LINKS, "{during:?}");
        assert_eq!(during.programs.len(), LINKS, "{during:?}");
        assert!(during.maps.len() >= 5, "{during:?}");
        assert_eq!(listeners(pod)?, LISTENERS * pod.addresses().len());
        assert_eq!(during.left().await?, during);

        mesh.cni(CniCommand::Del, pod).await?;
        // At once: what is attached.
        assert_eq!(OfPod::read(pod).await?, OfPod::default());
        // The kernel frees the rest, and the daemon closes its listeners, in their own time.
        wait::until("nothing of the pod is left", async || {
            let left = during.left().await;
            left.is_ok_and(|left| left == OfPod::default())
                && listeners(pod).is_ok_and(|count| count == 0)
        })
        .await
    });
}

#[test]
fn a_terminating_pod_keeps_its_connections_until_del() {
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/server").on("b"));
    scenario(mesh, async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let (_echo, _other) = (server.echo(PORT)?, client.echo(PORT)?);
        let mut out = client.connect(server.at(Family::V4, PORT)).await?;
        let mut into = server.connect(client.at(Family::V4, PORT)).await?;
        app::exchange(&mut out, "before").await?;
        app::exchange(&mut into, "before").await?;

        mesh.apply(&mesh.manifest_of("shop/client").terminating())?;
        // What follows in the directory has been read when it is in force.
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        wait::until("the mesh state is read", async || {
            let output = mesh.node("a").ztun(&["dump", "mesh"]).await;
            output.is_ok_and(|output| {
                String::from_utf8_lossy(&output.stdout)
                    .to_lowercase()
                    .contains("strict")
            })
        })
        .await?;
        let capture = mesh.capture()?;
        app::exchange(&mut out, "terminating").await?;
        app::exchange(&mut into, "terminating").await?;
        let mut late = client.connect(server.at(Family::V4, PORT)).await?;
        app::exchange(&mut late, "late").await?;
        assert_eq!(capture.finish()?.packets_of_port(PORT), 0, "in clear");

        mesh.cni(CniCommand::Del, client).await?;
        assert!(app::exchange(&mut out, "after").await.is_err());
        Ok(())
    });
}

/// How many listening TCP sockets there are in the pod's network namespace.
fn listeners(pod: &Pod) -> Result<usize> {
    pod.netns.run(|| {
        let mut count = 0;
        for table in ["tcp", "tcp6"] {
            let path = format!("/proc/thread-self/net/{table}");
            let text = fs::read_to_string(path).unwrap_or_default();
            let states = text
                .lines()
                .skip(1)
                .filter_map(|line| line.split_whitespace().nth(3));
            count += states.filter(|state| *state == LISTENING).count();
        }
        count
    })
}

/// Those of the objects that the kernel still has.
async fn still(kind: &str, ids: &BTreeSet<u64>) -> Result<BTreeSet<u64>> {
    let there = list(&[kind, "show"]).await?;
    let there: BTreeSet<u64> = there
        .iter()
        .filter_map(|object| object["id"].as_u64())
        .collect();
    Ok(ids.intersection(&there).copied().collect())
}

/// What bpftool lists; again if something ended while it did.
async fn list(arguments: &[&str]) -> Result<Vec<Value>> {
    let mut failure = String::new();
    for _ in 0..10 {
        let output = Command::new("bpftool")
            .arg("-j")
            .args(arguments)
            .output()
            .await?;
        if output.status.success() {
            let listed: Value = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("read what bpftool {arguments:?} says"))?;
            return Ok(listed.as_array().cloned().unwrap_or_default());
        }
        failure = format!("{output:?}");
    }
    bail!("bpftool {arguments:?}: {failure}")
}
