//! A socket load balancer above the pods' cgroups: it rewrites what they connect to, after `capture` saw it.

use std::net::SocketAddr;

use anyhow::Result;
use ztun_tests::{
    Family, Mesh, app,
    bpf::{Attached, Hook, Target, attached},
    other_owner, scenario, wait,
};

use crate::{MARKER, PORT, SERVICE_PORT, shop_to_enrol};

/// What an application in the client asks for, and where the load balancer of its node sends it.
fn balance(mesh: &Mesh, from: SocketAddr, to: SocketAddr) -> Result<Attached> {
    let root = mesh.node("a").cgroup()?;
    other_owner::load_balancer(from, to)?.attach(Target::Cgroup(&root))
}

/// A load balancer of the service for each family.
fn balance_service(mesh: &Mesh) -> Result<Vec<Attached>> {
    let (service, server) = (mesh.service("shop/server"), mesh.pod("shop/server"));
    Family::ALL
        .into_iter()
        .map(|family| {
            let (from, to) = (service.at(family, SERVICE_PORT), server.at(family, PORT));
            balance(mesh, from, to)
        })
        .collect()
}

#[test]
fn a_service_that_is_balanced_before_capture_is_still_seen_as_the_service() {
    scenario(shop_to_enrol(), async |mesh| {
        let _balancers = balance_service(mesh)?;
        mesh.enrol("shop/client").await?;
        asks_for_service(mesh).await
    });
}

#[test]
fn a_load_balancer_that_comes_after_capture_is_seen_through_too() {
    scenario(shop_to_enrol(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let _balancers = balance_service(mesh)?;
        asks_for_service(mesh).await
    });
}

#[test]
fn what_is_balanced_to_a_place_that_the_mesh_does_not_know_is_reached_there() {
    scenario(shop_to_enrol(), async |mesh| {
        let outside = mesh.pod("outside/client");
        let echo = outside.echo(PORT)?;
        let unknown = SocketAddr::from(([10, 97, 0, 1], SERVICE_PORT));
        // One that balances for pods alone: the daemon must not rely on it for its own connections.
        let pods = mesh.node("a").cgroup()?.join("kubepods");
        let balancer = other_owner::load_balancer(unknown, outside.at(Family::V4, PORT))?;
        let _balancer = balancer.attach(Target::Cgroup(&pods))?;
        let client = mesh.pod("shop/client");
        for enrolled in [false, true] {
            if enrolled {
                mesh.enrol("shop/client").await?;
            }
            let mut stream = client.connect(unknown).await?;
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }
        assert_eq!(echo.peers().len(), 2);
        Ok(())
    });
}

#[test]
fn loopback_that_is_balanced_out_of_the_pod_is_captured() {
    scenario(shop_to_enrol(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let echo = server.echo(PORT)?;
        let node_port = SocketAddr::from(([127, 0, 0, 1], 30080));
        let node_port6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 30080));
        let _v4 = balance(mesh, node_port, server.at(Family::V4, PORT))?;
        let _v6 = balance(mesh, node_port6, server.at(Family::V6, PORT))?;
        mesh.enrol("shop/client").await?;
        let capture = mesh.capture()?;
        for to in [node_port, node_port6] {
            let mut stream = client.connect(to).await?;
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }
        assert_eq!(echo.peers().len(), 2);
        let recording = capture.finish()?;
        assert_eq!(recording.packets_of_port(PORT), 0);
        assert_eq!(recording.flows_with(MARKER), []);
        Ok(())
    });
}

#[test]
fn a_port_that_was_rewritten_once_is_not_taken_for_it_again() {
    scenario(shop_to_enrol(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let (vip, backend) = (
            mesh.service("shop/server").at(Family::V4, SERVICE_PORT),
            server.at(Family::V4, PORT),
        );
        let from_port = |to| async move {
            let socket = client.tcp_socket(to)?;
            socket.set_reuseaddr(true)?;
            // A reset leaves no TIME_WAIT, so that the port is free at once.
            socket.set_zero_linger()?;
            socket.bind(SocketAddr::from((client.v4, 40_000)))?;
            socket.connect(to).await
        };
        let balancer = balance(mesh, vip, backend)?;
        let mut stream = from_port(vip).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        drop(stream);
        wait::until("the service is in the log", async || {
            completed(mesh, true) == 1
        })
        .await?;
        drop(balancer);
        let mut stream = from_port(backend).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        drop(stream);
        wait::until("the pod is in the log", async || {
            completed(mesh, false) == 1
        })
        .await?;
        assert_eq!(completed(mesh, true), 1);
        Ok(())
    });
}

#[test]
fn the_load_balancer_is_left_in_place() {
    scenario(shop_to_enrol(), async |mesh| {
        let _balancers = balance_service(mesh)?;
        let root = mesh.node("a").cgroup()?;
        let count = |hook| attached(hook, Target::Cgroup(&root));
        let before = (count(Hook::Connect4)?, count(Hook::Connect6)?);
        assert_eq!((before.0.len(), before.1.len()), (1, 2));
        let pod = mesh.pod("shop/client").cgroup.path().to_owned();
        mesh.enrol("shop/client").await?;
        for hook in [Hook::Connect4, Hook::Connect6, Hook::SockOps] {
            assert_eq!(attached(hook, Target::Cgroup(&pod))?.len(), 1, "{hook:?}");
        }
        mesh.unenrol("shop/client").await?;
        for hook in [Hook::Connect4, Hook::Connect6, Hook::SockOps] {
            assert_eq!(attached(hook, Target::Cgroup(&pod))?.len(), 0, "{hook:?}");
        }
        assert_eq!((count(Hook::Connect4)?, count(Hook::Connect6)?), before);
        // And it balances: nobody else knows the service's address.
        let service = mesh.service("shop/server").at(Family::V4, SERVICE_PORT);
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mut stream = mesh.pod("shop/client").connect(service).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        Ok(())
    });
}

async fn asks_for_service(mesh: &Mesh) -> Result<()> {
    let client = mesh.pod("shop/client");
    let echo = mesh.pod("shop/server").echo(PORT)?;
    let capture = mesh.capture()?;
    for family in Family::ALL {
        let to = mesh.service("shop/server").at(family, SERVICE_PORT);
        let mut stream = client.connect(to).await?;
        // The load balancer did its work: the kernel shows the backend.
        let backend = mesh.pod("shop/server").at(family, PORT);
        assert_eq!(stream.peer_addr()?, backend);
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
    }
    assert_eq!(echo.peers().len(), Family::ALL.len());
    let recording = capture.finish()?;
    assert_eq!(recording.packets_of_port(PORT), 0);
    assert_eq!(recording.flows_with(MARKER), []);
    wait::until("every connection is logged with its service", async || {
        completed(mesh, true) == Family::ALL.len()
    })
    .await
}

/// How many connections out of the client's node the log has, with the service or without.
fn completed(mesh: &Mesh, with_service: bool) -> usize {
    let log = mesh.node("a").log();
    log.lines()
        .filter(|line| line.contains("connection complete") && line.contains("outbound"))
        .filter(|line| line.contains("dst.service=") == with_service)
        .count()
}
