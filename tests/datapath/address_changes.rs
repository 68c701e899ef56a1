//! Addresses that an enrolled pod gains and loses.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use rtnetlink::IpVersion;
use tokio::{net::TcpStream, time::timeout};
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, PodSpec, ServiceSpec, app, cni::CniCommand,
    netlink::Netlink, pod::Pod, rogue::HBONE_PORT, scenario, wait,
};

use crate::{PORT, SERVICE_PORT, two_nodes};

const MARKER: &str = "marker-of-a-new-address";
/// The host's byte of new addresses.
const NEW: u8 = 200;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// A connection between daemons that is dead is found by its keepalive after 30 s.
const BEFORE_KEEPALIVE: Duration = Duration::from_secs(15);
/// `ztun_common::MAX_ADDRESSES`
const MOST_ADDRESSES: u8 = 32;

#[test]
fn an_address_that_a_server_gains_is_reached_encrypted() {
    scenario(two_nodes(), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        let echo = far.echo(PORT)?;
        let new = gain(mesh, "shop/far", NEW).await?;
        for ip in new {
            let to = SocketAddr::new(ip, PORT);
            // The client's node learns of it in its own time.
            wait::until(format!("{to} is reached encrypted"), async || {
                let reached = reaches_encrypted(mesh, client, to).await;
                reached.is_ok_and(|reached| reached)
            })
            .await?;
            let own = both(client).contains(&echo.peers().last().context("no peer")?.ip());
            assert!(own, "{:?}", echo.peers());
        }
        Ok(())
    });
}

#[test]
fn an_address_that_a_server_gains_is_reached_from_its_node_and_from_outside_of_the_mesh() {
    let outside = PodSpec::new("outside/client").on("b");
    let mesh = two_nodes().pod(outside.enrolment(Enrolment::Outside));
    scenario(mesh, async |mesh| {
        let near = mesh.pod("shop/near");
        let echo = near.echo(PORT)?;
        let new = gain(mesh, "shop/near", NEW).await?;
        for from in ["shop/client", "outside/client"] {
            for ip in new {
                let to = SocketAddr::new(ip, PORT);
                wait::until(format!("{from} reaches {to}"), async || {
                    reaches(mesh.pod(from), to).await
                })
                .await?;
                let seen = echo.peers().last().map(SocketAddr::ip);
                assert!(seen.is_some_and(|ip| both(mesh.pod(from)).contains(&ip)));
            }
        }
        Ok(())
    });
}

#[test]
fn a_client_talks_encrypted_from_an_address_that_it_gained() {
    scenario(two_nodes(), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        let _echo = far.echo(PORT)?;
        let new = gain(mesh, "shop/client", NEW).await?;
        let capture = mesh.capture()?;
        for (family, source) in FAMILIES.into_iter().zip(new) {
            let to = far.at(family, PORT);
            let mut stream = client.connect_from(source, to).await?;
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }
        let recording = capture.finish()?;
        assert!(recording.packets_of_port(HBONE_PORT) > 0);
        assert_eq!(recording.packets_of_port(PORT), 0);
        Ok(())
    });
}

#[test]
fn servers_see_the_one_of_a_clients_addresses_that_it_has_bound_to() {
    let outside = PodSpec::new("outside/server").on("b");
    let mesh = two_nodes().pod(outside.enrolment(Enrolment::Outside));
    scenario(mesh, async |mesh| {
        let client = mesh.pod("shop/client");
        let new = gain(mesh, "shop/client", NEW).await?;
        for server in ["shop/near", "shop/far", "outside/server"] {
            let server = mesh.pod(server);
            let echo = server.echo(PORT)?;
            for (family, new) in FAMILIES.into_iter().zip(new) {
                for source in [new, client.at(family, 0).ip(), new] {
                    let mut stream = client.connect_from(source, server.at(family, PORT)).await?;
                    assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
                    let seen = echo.peers().last().map(SocketAddr::ip);
                    assert_eq!(seen, Some(source), "{}", server.path());
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_pod_reaches_itself_at_and_from_an_address_that_it_gained() {
    let mesh = Mesh::builder()
        .nodes(["a"])
        .pod(PodSpec::new("shop/alone").on("a"))
        .service(ServiceSpec::new("shop/alone").port(SERVICE_PORT, PORT));
    scenario(mesh, async |mesh| {
        let alone = mesh.pod("shop/alone");
        let echo = alone.echo(PORT)?;
        let new = gain(mesh, "shop/alone", NEW).await?;
        for (family, ip) in FAMILIES.into_iter().zip(new) {
            let itself = SocketAddr::new(ip, PORT);
            let service = mesh.service("shop/alone").at(family, SERVICE_PORT);
            for to in [itself, service] {
                let mut stream = alone.connect_from(ip, to).await?;
                assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
                assert_eq!(echo.peers().last().map(SocketAddr::ip), Some(ip));
            }
        }
        // The daemon is not in the way between own addresses: nothing changes when it is gone.
        mesh.node("a").kill_daemon().await?;
        for ip in new {
            assert!(reaches(alone, SocketAddr::new(ip, PORT)).await);
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_gains_its_first_address_of_a_family_is_captured_in_it() {
    for (first, second) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        scenario(server_later(), async |mesh| {
            let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
            let _servers = (client.echo(PORT)?, server.echo(PORT)?);
            let (kept, missing) = (server.at(first, 0).ip(), server.at(second, 0).ip());
            server.remove_address(missing).await?;
            mesh.cni(CniCommand::Add, server).await?;
            mesh.captures("shop/server", &[kept]).await?;
            let mut older = [
                client.connect(server.at(first, PORT)).await?,
                server.connect(client.at(first, PORT)).await?,
            ];

            server.add_address(missing).await?;
            if second == Family::V4 {
                // It went with the last address.
                mesh.add_default_route(server, Family::V4).await?;
            }
            mesh.captures("shop/server", &[kept, missing]).await?;
            let capture = mesh.capture()?;
            for (from, to) in [(client, server), (server, client)] {
                let mut stream = from.connect(to.at(second, PORT)).await?;
                assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
            }
            for stream in &mut older {
                assert_eq!(app::exchange(stream, "open").await?, "open");
            }
            let recording = capture.finish()?;
            assert_eq!(recording.packets_of_port(PORT), 0);
            Ok(())
        });
    }
}

#[test]
fn what_a_pod_connects_to_after_it_lost_its_address_shows_one_that_it_has() {
    scenario(two_nodes(), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        let _echo = far.echo(PORT)?;
        client
            .netns
            .sysctl("net/ipv4/conf/all/promote_secondaries", "1")?;
        let new = gain(mesh, "shop/client", NEW).await?;
        for family in FAMILIES {
            // The daemons have connections from the address that goes.
            assert!(reaches(client, far.at(family, PORT)).await);
        }
        for (family, former) in FAMILIES
            .into_iter()
            .zip([client.v4.into(), client.v6.into()])
        {
            client.remove_address(former).await?;
            let noticed = format!("lost=[{former}]");
            wait::until("the daemon has noticed", async || {
                mesh.node("a").log().contains(&noticed)
            })
            .await?;
            let reached = timeout(BEFORE_KEEPALIVE, reaches(client, far.at(family, PORT))).await;
            assert_eq!(reached, Ok(true), "{family:?}");
        }
        mesh.captures("shop/client", &new).await?;
        for (family, own) in FAMILIES.into_iter().zip(new) {
            let mut stream = client.connect(far.at(family, PORT)).await?;
            assert_eq!(stream.local_addr()?.ip(), own);
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }
        Ok(())
    });
}

#[test]
fn an_address_that_a_pod_lost_and_another_got_is_reached_as_any_other() {
    let mesh = two_nodes().pod(
        PodSpec::new("outside/heir")
            .on("a")
            .enrolment(Enrolment::Outside),
    );
    scenario(mesh, async |mesh| {
        let (client, heir) = (mesh.pod("shop/client"), mesh.pod("outside/heir"));
        let (own, echo) = (client.echo(PORT)?, heir.echo(PORT)?);
        for ip in gain(mesh, "shop/client", NEW).await? {
            client.remove_address(ip).await?;
            heir.add_address(ip).await?;
        }
        mesh.announce("shop/client", &both(client))?;
        mesh.captures("shop/client", &both(client)).await?;
        for family in FAMILIES {
            let to = SocketAddr::new(client.address_with_host(family, NEW), PORT);
            // The mesh state follows in its own time.
            wait::until(format!("{to} is reached"), async || {
                reaches(client, to).await
            })
            .await?;
        }
        assert_eq!((echo.peers().len(), own.peers()), (2, vec![]));
        Ok(())
    });
}

#[test]
fn open_connections_survive_what_a_pod_gains_and_loses() {
    scenario(server_later(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _servers = (client.echo(PORT)?, server.echo(PORT)?);
        mesh.cni(CniCommand::Add, server).await?;
        let mut open = Vec::new();
        for (from, to) in [(client, server), (server, client)] {
            for family in Family::ALL {
                open.push(from.connect(to.at(family, PORT)).await?);
            }
        }
        let mut talk = async || -> Result<()> {
            for stream in &mut open {
                assert_eq!(app::exchange(stream, "open").await?, "open");
            }
            Ok(())
        };
        for path in ["shop/client", "shop/server"] {
            let pod = mesh.pod(path);
            let new = gain(mesh, path, NEW).await?;
            talk().await?;
            for ip in new {
                pod.remove_address(ip).await?;
            }
            mesh.captures(path, &both(pod)).await?;
            talk().await?;
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_lost_every_address_stays_captured_and_is_served_again_when_it_has_one() {
    scenario(server_later(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        mesh.cni(CniCommand::Add, server).await?;
        for ip in both(server) {
            server.remove_address(ip).await?;
        }
        mesh.captures("shop/server", &[]).await?;
        for ip in both(server) {
            server.add_address(ip).await?;
        }
        mesh.add_default_route(server, Family::V4).await?;
        mesh.captures("shop/server", &both(server)).await?;
        for family in FAMILIES {
            wait::until(format!("{family:?} is reached"), async || {
                reaches(client, server.at(family, PORT)).await
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn a_burst_of_changes_ends_with_the_addresses_that_are_there() {
    scenario(two_nodes(), async |mesh| {
        let near = mesh.pod("shop/near");
        let burst = NEW..NEW + MOST_ADDRESSES - 2;
        for host in burst.clone() {
            near.add_address(near.address_with_host(Family::V6, host))
                .await?;
        }
        for host in burst.clone().skip(1) {
            near.remove_address(near.address_with_host(Family::V6, host))
                .await?;
        }
        let kept = near.address_with_host(Family::V6, burst.start);
        let [v4, v6] = both(near);
        mesh.captures("shop/near", &[v4, v6, kept]).await
    });
}

#[test]
fn a_pod_with_more_addresses_than_capture_takes_keeps_those_that_it_had_and_status_tells() {
    scenario(two_nodes(), async |mesh| {
        let (client, near) = (mesh.pod("shop/client"), mesh.pod("shop/near"));
        let _echo = near.echo(PORT)?;
        let many: Vec<IpAddr> = (NEW..NEW + MOST_ADDRESSES)
            .map(|host| near.address_with_host(Family::V6, host))
            .collect();
        for &ip in &many {
            near.add_address(ip).await?;
        }
        wait::until("status shows as many as fit, and the gap", async || {
            mesh.shown("shop/near").await.is_ok_and(|(shown, state)| {
                shown.len() == usize::from(MOST_ADDRESSES) && state == "notCaptured"
            })
        })
        .await?;
        let (shown, _) = mesh.shown("shop/near").await?;
        assert!(shown.is_superset(&BTreeSet::from(both(near))), "{shown:?}");
        for family in FAMILIES {
            assert!(reaches(client, near.at(family, PORT)).await, "{family:?}");
        }
        for &ip in &many {
            near.remove_address(ip).await?;
        }
        mesh.captures("shop/near", &both(near)).await
    });
}

/// Without it a connection that is bound to the interface would leave in clear (`faults::ways_out`).
#[test]
fn captured_packets_have_a_route_by_an_interface_that_came_later() {
    scenario(two_nodes(), async |mesh| {
        let near = mesh.pod("shop/near");
        mesh.add_interface("shop/near", "eth1").await?;
        let in_pod = Netlink::open(&near.netns)?;
        let index = near.netns.run(|| nix::net::if_::if_nametoindex("eth1"))??;
        let by_interface = format!("Oif({index})");
        wait::until("there is a route", async || {
            let routing = in_pod.routing(IpVersion::V4).await.unwrap_or_default();
            let mut captured = routing.iter().filter(|line| line.contains("Table(1337)"));
            captured.any(|line| line.contains(&by_interface))
        })
        .await
    });
}

#[test]
fn an_address_that_another_host_has_is_not_taken_for_the_pods_own() {
    let outside = PodSpec::new("outside/server").on("a");
    let mesh = two_nodes().pod(outside.enrolment(Enrolment::Outside));
    scenario(mesh, async |mesh| {
        let (client, outside) = (mesh.pod("shop/client"), mesh.pod("outside/server"));
        let _echo = outside.echo(PORT)?;
        // The kernel notices that the other has it, and leaves it on the interface.
        let theirs = outside.v6;
        client.add_detected_address(theirs.into()).await?;
        wait::until("the kernel has found the duplicate", async || {
            is_duplicate(client, theirs.into()).unwrap_or(false)
        })
        .await?;
        // What comes after it is followed, so that was looked at.
        let new = client.address_with_host(Family::V4, NEW);
        client.add_address(new).await?;
        let [v4, v6] = both(client);
        mesh.captures("shop/client", &[v4, v6, new]).await?;
        // To own addresses a pod connects without the daemon, too.
        mesh.node("a").kill_daemon().await?;
        let refused = client.failure(outside.at(Family::V6, PORT)).await;
        assert_eq!(refused, Some(ErrorKind::PermissionDenied));
        Ok(())
    });
}

#[test]
fn an_address_is_the_pods_once_the_kernel_knows_that_nobody_else_has_it() {
    scenario(two_nodes(), async |mesh| {
        let near = mesh.pod("shop/near");
        let new = near.address_with_host(Family::V6, NEW);
        near.add_detected_address(new).await?;
        let [v4, v6] = both(near);
        mesh.captures("shop/near", &[v4, v6, new]).await
    });
}

/// A client, and on another node a server that is not enrolled yet.
fn server_later() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(
            PodSpec::new("shop/server")
                .on("b")
                .enrolment(Enrolment::Claimed),
        )
}

/// Gives the pod an address of each family, and waits until it is captured with them.
async fn gain(mesh: &Mesh, path: &str, host: u8) -> Result<[IpAddr; 2]> {
    let pod = mesh.pod(path);
    let new = FAMILIES.map(|family| pod.address_with_host(family, host));
    let all = [both(pod), new].concat();
    mesh.announce(path, &all)?;
    for ip in new {
        pod.add_address(ip).await?;
    }
    mesh.captures(path, &all).await?;
    Ok(new)
}

fn both(pod: &Pod) -> [IpAddr; 2] {
    [pod.v4.into(), pod.v6.into()]
}

async fn reaches(from: &Pod, to: SocketAddr) -> bool {
    let exchange = async || -> Result<String> {
        let mut stream: TcpStream = from.connect(to).await?;
        Ok(app::exchange(&mut stream, MARKER).await?)
    };
    exchange().await.is_ok_and(|answer| answer == MARKER)
}

async fn reaches_encrypted(mesh: &Mesh, from: &Pod, to: SocketAddr) -> Result<bool> {
    let capture = mesh.capture()?;
    let reached = reaches(from, to).await;
    let recording = capture.finish()?;
    let encrypted =
        recording.packets_of_port(HBONE_PORT) > 0 && recording.packets_of_port(PORT) == 0;
    Ok(reached && encrypted)
}

/// Whether duplicate address detection has failed for the pod's address.
fn is_duplicate(pod: &Pod, address: IpAddr) -> Result<bool> {
    const FAILED: u8 = 0x08;
    let IpAddr::V6(address) = address else {
        return Ok(false);
    };
    let hexadecimal = format!("{:032x}", address.to_bits());
    let table = pod
        .netns
        .run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))??;
    let line = table.lines().find(|line| line.starts_with(&hexadecimal));
    let flags = line.and_then(|line| line.split_whitespace().nth(4));
    let flags = u8::from_str_radix(flags.context("no such address")?, 16)?;
    Ok(flags & FAILED != 0)
}
