//! The kubelet's probes pass under STRICT, and nothing else of the node does.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use socket2::SockRef;
use ztun_tests::{
    Family, Mesh, MeshBuilder, MtlsMode, Node, Process, app,
    cgroup::{self, Cgroup},
    scenario, wait,
};

use crate::{PORT, shop_and_outsider};

const KUBELET: &str = "kubelet";

fn strict_shop() -> MeshBuilder {
    shop_and_outsider().peer_authentication("shop", MtlsMode::Strict)
}

#[test]
fn the_kubelet_gets_in_and_another_process_of_the_node_does_not() {
    scenario(strict_shop(), async |mesh| {
        let server = mesh.pod("shop/server");
        let echo = server.echo(PORT)?;
        let node = mesh.node("b");
        let kubelet = kubelet(node).await?;
        let other = node.process("other")?;
        for family in Family::ALL {
            let to = server.at(family, PORT);
            let probe = probe(&kubelet, to).await?;
            assert_eq!(echo.peers().last(), Some(&probe), "{family:?}");
            assert!(other.failure(to).await.is_some(), "{family:?}: got through");
        }
        assert_eq!(echo.peers().len(), Family::ALL.len());
        let labels = [("pod", "server"), ("verdict", "probe_passed")];
        assert_eq!(node.counted("ztun_kernel_verdicts_total", &labels)?, 3);
        Ok(())
    });
}

#[test]
fn the_kubelet_of_another_node_does_not_get_in() {
    scenario(strict_shop(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let elsewhere = kubelet(mesh.node("a")).await?;
        let end = elsewhere.failure(server.at(Family::V4, PORT)).await;
        assert!(end.is_some(), "got through");
        Ok(())
    });
}

#[test]
fn a_port_that_a_probe_had_lets_nobody_else_in() {
    scenario(strict_shop(), async |mesh| {
        let server = mesh.pod("shop/server");
        let echo = server.echo(PORT)?;
        let node = mesh.node("b");
        let (kubelet, other) = (kubelet(node).await?, node.process("other")?);
        let to = server.at(Family::V4, PORT);
        let mut stream = kubelet.connect(to).await?;
        app::exchange(&mut stream, "probe").await?;
        let from = stream.local_addr()?;
        // Ended by a reset: the port is free at once.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        drop(stream);
        let socket = other.tcp_socket(to)?;
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
        let exchanged = match socket.connect(to).await {
            Ok(mut stream) => app::exchange(&mut stream, "not a probe").await,
            Err(error) => Err(error),
        };
        assert!(exchanged.is_err(), "{exchanged:?}");
        assert_eq!(echo.peers(), [from], "the application heard of it");
        Ok(())
    });
}

#[test]
fn a_pod_below_the_kubelets_cgroup_is_not_taken_for_the_kubelet() {
    scenario(strict_shop(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let node = mesh.node("a");
        let _kubelet = kubelet(node).await?;
        let below = Cgroup::create(&node.kubelet_cgroup()?.join("pod"))?;
        let near = mesh.pod("shop/client");
        let _near = near.echo(PORT)?;
        let outsider = Process::start(&mesh.pod("outside/client").netns, &below)?;
        for pod in [server, near] {
            let end = outsider.failure(pod.at(Family::V4, PORT)).await;
            assert!(end.is_some(), "got through to {}", pod.path());
        }
        Ok(())
    });
}

#[test]
fn probes_pass_while_the_daemon_is_dead_and_after_it_is_back() {
    scenario(strict_shop(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let node = mesh.node("b");
        let (kubelet, other) = (kubelet(node).await?, node.process("other")?);
        let to = server.at(Family::V4, PORT);
        node.kill_daemon().await?;
        probe(&kubelet, to).await?;
        assert!(other.failure(to).await.is_some(), "got through");
        node.start_daemon().await?;
        probe(&kubelet, to).await?;
        assert!(other.failure(to).await.is_some(), "got through");
        Ok(())
    });
}

#[test]
fn a_kubelet_that_starts_anew_in_a_new_cgroup_gets_in_again() {
    scenario(strict_shop(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let node = mesh.node("b");
        let first = kubelet(node).await?;
        let to = server.at(Family::V4, PORT);
        probe(&first, to).await?;
        drop(first);
        cgroup::remove_tree(&node.kubelet_cgroup()?)?;
        let second = kubelet(node).await?;
        probe(&second, to).await?;
        Ok(())
    });
}

#[test]
fn status_says_whose_probes_pass() {
    scenario(strict_shop(), async |mesh| {
        let node = mesh.node("a");
        let none = line(mesh, "a").await?;
        assert!(none.contains("none here"), "{none}");
        let _kubelet = kubelet(node).await?;
        let passing = line(mesh, "a").await?;
        let cgroup = node.kubelet_cgroup()?.display().to_string();
        assert!(passing.contains(&cgroup), "{passing}");
        Ok(())
    });
}

/// A kubelet of the node, once the daemon knows of it.
async fn kubelet(node: &Node) -> Result<Process> {
    let before = node.log().matches("probes pass").count();
    let kubelet = node.process(KUBELET)?;
    wait::until("the daemon lets the kubelet's probes pass", async || {
        node.log().matches("probes pass").count() > before
    })
    .await?;
    Ok(kubelet)
}

/// Opens a connection, exchanges something, and closes it; answers its own address.
async fn probe(kubelet: &Process, to: SocketAddr) -> Result<SocketAddr> {
    let mut stream = kubelet.connect(to).await.context("probe")?;
    let from = stream.local_addr()?;
    assert_eq!(app::exchange(&mut stream, "probe").await?, "probe");
    Ok(SocketAddr::new(from.ip().to_canonical(), from.port()))
}

async fn line(mesh: &Mesh, node: &str) -> Result<String> {
    let output = mesh.node(node).ztun(&["status"]).await?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find(|line| line.starts_with("kubelet: "));
    Ok(line.context("no line about the kubelet")?.to_owned())
}
