//! Capture that is undone by hand while the daemon runs: found within its interval, repaired, reported.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rtnetlink::IpVersion;
use serde_json::json;
use tokio::{process::Command, time::timeout};
use ztun_tests::{
    Family, Mesh, MeshBuilder, PodSpec, app,
    bpf::{self, Hook, Program},
    netlink::Netlink,
    pod::Pod,
    run, scenario, wait,
};

use crate::{PORT, reaches, shop_and_outsider};

const INTERVAL: &str = "1s";
const MARKER: &str = "marker-of-a-broken-capture";
/// Where `ztun` has its rules, and its routes.
const RULE: u32 = 100;
const FENCE: u32 = 101;
const TABLE: u32 = 0x539;

/// What is promised of the pod's new connections until the repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Captured or refused.
    Closed,
    /// Whoever undid capture has set the pod free.
    Open,
}

fn shop() -> MeshBuilder {
    shop_and_outsider().setting("verifyInterval", json!(INTERVAL))
}

/// Undoes something of a client's capture, and expects that it is captured again.
fn is_repaired(
    what: &'static str,
    until: Until,
    undo: impl AsyncFnOnce(&Mesh, &Pod) -> Result<()>,
) {
    scenario(shop().needs("bpftool"), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let to = server.at(Family::V4, PORT);
        let mut open = client.connect(to).await?;
        app::exchange(&mut open, "before").await?;
        ensure!(repairs(mesh, what)? == 0);

        let capture = mesh.capture()?;
        undo(mesh, client).await?;
        wait::until(format!("the {what} is repaired"), async || {
            // What it reaches before is for the capture to judge.
            let attempt = async {
                let mut stream = client.connect(to).await.ok()?;
                app::exchange(&mut stream, MARKER).await.ok()
            };
            let _ = timeout(Duration::from_millis(100), attempt).await;
            repairs(mesh, what).is_ok_and(|count| count > 0)
        })
        .await?;
        let recording = capture.finish()?;
        if until == Until::Closed {
            assert_eq!(recording.packets_of_port(PORT), 0, "in clear");
        }

        let output = mesh.node("a").ztun(&["verify"]).await?;
        assert!(output.status.success(), "{output:?}");
        let capture = mesh.capture()?;
        for &family in Family::available() {
            assert!(reaches(client, server, family).await, "{family:?}");
        }
        assert_eq!(capture.finish()?.packets_of_port(PORT), 0, "in clear");
        app::exchange(&mut open, "after").await?;
        let log = mesh.node("a").log();
        let reported = |line: &str| line.contains("shop/client") && line.contains("not captured");
        assert!(log.lines().any(reported), "{log}");
        Ok(())
    });
}

#[test]
fn a_removed_rule_comes_back() {
    is_repaired("rule", Until::Closed, async |_, pod| {
        remove_rules(pod, RULE).await
    });
}

#[test]
fn a_removed_fence_comes_back() {
    is_repaired("rule", Until::Closed, async |_, pod| {
        remove_rules(pod, FENCE).await
    });
}

#[test]
fn flushed_routes_come_back() {
    is_repaired("route", Until::Closed, async |_, pod| {
        let netlink = Netlink::open(&pod.netns)?;
        for family in [IpVersion::V4, IpVersion::V6] {
            ensure!(netlink.flush_table(family, TABLE).await? > 0);
        }
        Ok(())
    });
}

#[test]
fn loopback_that_was_taken_down_comes_up_with_its_routes() {
    scenario(shop(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let capture = mesh.capture()?;
        Netlink::open(&client.netns)?.bring_down("lo").await?;
        for &family in Family::available() {
            wait::until("the client is captured again", async || {
                reaches(client, server, family).await
            })
            .await?;
        }
        assert_eq!(capture.finish()?.packets_of_port(PORT), 0, "in clear");
        Ok(())
    });
}

#[test]
fn a_changed_sysctl_is_set_again() {
    is_repaired("sysctl", Until::Closed, async |_, pod| {
        pod.netns.sysctl("net/ipv4/tcp_fwmark_accept", "0")
    });
}

#[test]
fn listeners_that_were_taken_out_of_the_map_are_put_back() {
    is_repaired("listener", Until::Closed, async |mesh, pod| {
        let map = pin(mesh, pod, "LISTENERS")?;
        for key in ["0", "1", "2", "3", "4", "5"] {
            bpftool(&["map", "delete", "pinned", &map, "key", key, "0", "0", "0"]).await?;
        }
        Ok(())
    });
}

#[test]
fn an_address_that_was_taken_out_of_the_map_is_put_back() {
    is_repaired("address", Until::Closed, async |mesh, pod| {
        let map = pin(mesh, pod, "ADDRESSES")?;
        let key = pod
            .v4
            .to_ipv6_mapped()
            .octets()
            .map(|byte| byte.to_string());
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        let delete = ["map", "delete", "pinned", &map, "key"];
        bpftool(&[&delete[..], &key].concat()).await
    });
}

#[test]
fn detached_links_are_attached_again() {
    for name in ["capture4", "capture6", "steer"] {
        is_repaired("link", Until::Open, async |mesh, pod| {
            bpftool(&["link", "detach", "pinned", &pin(mesh, pod, name)?]).await
        });
    }
}

#[test]
fn links_whose_pins_were_removed_are_attached_again() {
    is_repaired("link", Until::Open, async |mesh, pod| {
        for name in ["capture4", "note"] {
            fs::remove_file(pin(mesh, pod, name)?)?;
        }
        Ok(())
    });
}

#[test]
fn a_program_that_was_replaced_gives_way_to_the_right_one() {
    is_repaired("program", Until::Open, async |mesh, pod| {
        let pass = [
            [0xb7, 0, 0, 0, 1, 0, 0, 0], // r0 = 1
            [0x95, 0, 0, 0, 0, 0, 0, 0], // exit
        ];
        let program = Program::load(Hook::Connect4, &pass)?;
        bpf::replace(Path::new(&pin(mesh, pod, "capture4")?), &program)
    });
}

#[test]
fn a_pod_whose_pins_are_all_removed_is_captured_anew() {
    is_repaired("pins", Until::Open, async |mesh, pod| {
        Ok(fs::remove_dir_all(pins(mesh).join(&pod.uid))?)
    });
}

#[test]
fn a_pod_that_cannot_be_captured_again_shows_in_readiness_and_metrics_until_it_is() {
    scenario(shop(), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/client"));
        let pods = |state| node.counted("ztun_pods", &[("state", state)]);
        assert_eq!((pods("captured")?, pods("not_captured")?), (1, 0));
        let pins = pins(mesh).join(&pod.uid);
        fs::remove_dir_all(&pins)?;
        symlink("/nonexistent", &pins)?;
        wait::until("the node is not ready", async || {
            node.readiness().is_ok_and(|(code, missing)| {
                code == 503 && missing.contains("shop/client: not captured")
            })
        })
        .await?;
        assert_eq!((pods("captured")?, pods("not_captured")?), (0, 1));
        assert!(!node.ztun(&["verify"]).await?.status.success());

        fs::remove_file(&pins)?;
        wait::until("the node is ready", async || {
            node.readiness().is_ok_and(|(code, _)| code == 200)
        })
        .await?;
        assert_eq!((pods("captured")?, pods("not_captured")?), (1, 0));
        assert_eq!(repairs(mesh, "pins")?, 1);
        Ok(())
    });
}

#[test]
fn a_pod_that_was_let_go_is_not_captured_again() {
    let other = PodSpec::new("shop/other").on("a");
    scenario(shop().pod(other), async |mesh| {
        let node = mesh.node("a");
        let output = node.ztun(&["unenrol", "--pod", "shop/client"]).await?;
        assert!(output.status.success(), "{output:?}");
        // When this one is repaired, both have been looked at.
        remove_rules(mesh.pod("shop/other"), RULE).await?;
        wait::until("the other pod is repaired", async || {
            repairs(mesh, "rule").is_ok_and(|count| count > 0)
        })
        .await?;
        assert!(!pins(mesh).join(&mesh.pod("shop/client").uid).exists());
        Ok(())
    });
}

/// How often the daemon of the node `a` repaired this.
fn repairs(mesh: &Mesh, what: &str) -> Result<u64> {
    mesh.node("a")
        .counted("ztun_capture_repairs_total", &[("what", what)])
}

async fn remove_rules(pod: &Pod, preference: u32) -> Result<()> {
    let netlink = Netlink::open(&pod.netns)?;
    for family in [IpVersion::V4, IpVersion::V6] {
        ensure!(netlink.remove_rules(family, preference).await? == 1);
    }
    Ok(())
}

/// Where the node `a` has the pins of its pods.
fn pins(mesh: &Mesh) -> PathBuf {
    Path::new(run::BPFFS)
        .join(format!("{}a", mesh.name()))
        .join("v1")
}

/// The pin of this name of a pod that was captured once.
fn pin(mesh: &Mesh, pod: &Pod, name: &str) -> Result<String> {
    let path = pins(mesh).join(&pod.uid).join("1").join(name);
    ensure!(path.exists(), "no {}", path.display());
    Ok(path.display().to_string())
}

async fn bpftool(arguments: &[&str]) -> Result<()> {
    let output = Command::new("bpftool").args(arguments).output().await;
    let output = output.context("start bpftool")?;
    ensure!(output.status.success(), "bpftool {arguments:?}: {output:?}");
    Ok(())
}
