//! What ztun must leave alone, and what must go on working as without it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use ztun_tests::{
    Enrolment, Family, Mesh, PodSpec, ServiceSpec, app, rogue::HBONE_PORT, scenario, wait,
};

use crate::{PORT, SERVICE_PORT, two_nodes};

#[test]
fn an_unknown_destination_is_reached_in_clear() {
    let mesh = two_nodes().pod(
        PodSpec::new("elsewhere/database")
            .on("b")
            .enrolment(Enrolment::Outside),
    );
    scenario(mesh, async |mesh| {
        let client = mesh.pod("shop/client");
        let database = mesh.pod("elsewhere/database");
        let echo = database.echo(PORT)?;
        for family in Family::ALL {
            let mut stream = client.connect(database.at(family, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            let seen = echo.peers().last().map(SocketAddr::ip);
            assert_eq!(seen, Some(client.at(family, 0).ip().to_canonical()));
        }
        Ok(())
    });
}

#[test]
fn udp_is_untouched() {
    scenario(two_nodes(), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        let capture = mesh.capture()?;
        for family in [Family::V4, Family::V6] {
            let server = far.udp(far.at(family, 5353))?;
            let socket = client.udp(client.at(family, 0))?;
            socket.send_to(b"question", far.at(family, 5353)).await?;
            let mut datagram = [0; 64];
            let (length, from) = server.recv_from(&mut datagram).await?;
            assert_eq!(&datagram[..length], b"question");
            assert_eq!(from, socket.local_addr()?);
        }
        let recording = capture.finish()?;
        assert_eq!(recording.flows_with("question").len(), 2);
        Ok(())
    });
}

#[test]
fn icmp_is_untouched() {
    scenario(two_nodes(), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        app::ping(client, far.v4.into()).await?;
        app::ping(client, far.v6.into()).await
    });
}

#[test]
fn loopback_inside_a_pod_is_untouched() {
    scenario(two_nodes(), async |mesh| {
        let client = mesh.pod("shop/client");
        let echo = client.echo(PORT)?;
        for ip in [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            client.v4.into(),
            client.v6.into(),
        ] {
            let mut stream = client.connect(SocketAddr::new(ip, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            let peer = echo.peers().last().copied();
            assert_eq!(peer, Some(stream.local_addr()?));
            assert_eq!(peer.map(|peer| peer.ip()), Some(ip));
        }
        // The daemon is not in the way: nothing changes when it is gone.
        mesh.node("a").kill_daemon().await?;
        client.connect((Ipv4Addr::LOCALHOST, PORT).into()).await?;
        Ok(())
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let mesh = Mesh::builder()
        .nodes(["a"])
        .pod(PodSpec::new("shop/alone").on("a"))
        .service(ServiceSpec::new("shop/alone").port(SERVICE_PORT, PORT));
    scenario(mesh, async |mesh| {
        let alone = mesh.pod("shop/alone");
        let echo = alone.echo(PORT)?;
        for family in Family::ALL {
            let to = mesh.service("shop/alone").at(family, SERVICE_PORT);
            let mut stream = alone.connect(to).await?;
            assert_eq!(app::exchange(&mut stream, "myself").await?, "myself");
        }
        assert_eq!(echo.peers().len(), Family::ALL.len());
        Ok(())
    });
}

#[test]
fn an_application_that_restarts_gets_its_port_back_while_a_client_is_connected() {
    let outside = PodSpec::new("outside/client").on("a");
    let mesh = two_nodes().pod(outside.enrolment(Enrolment::Outside));
    scenario(mesh, async |mesh| {
        let server = mesh.pod("shop/near");
        for client in ["shop/client", "outside/client"] {
            for family in [Family::V4, Family::V6] {
                let echo = server.echo(PORT)?;
                let mut stream = mesh.pod(client).connect(server.at(family, PORT)).await?;
                assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
                drop(echo);
                let again = server.listen(PORT);
                assert!(again.is_ok(), "{client} over {family:?}: {again:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn an_application_may_listen_on_a_port_that_it_is_connected_to_elsewhere() {
    scenario(two_nodes(), async |mesh| {
        let client = mesh.pod("shop/client");
        for server in ["shop/near", "shop/far"] {
            let server = mesh.pod(server);
            let _echo = server.echo(PORT)?;
            let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            let listener = client.listen(PORT);
            assert!(listener.is_ok(), "{listener:?}");
        }
        Ok(())
    });
}

#[test]
fn connections_that_are_open_at_enrolment_survive_it() {
    let later = |path: &str, node| PodSpec::new(path).on(node).enrolment(Enrolment::Later);
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(later("shop/client", "a"))
        .pod(later("shop/server", "b"));
    scenario(mesh, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mut old = connect_all(mesh).await?;
        mesh.enrol("shop/client").await?;
        mesh.enrol("shop/server").await?;
        for stream in &mut old {
            assert_eq!(app::exchange(stream, "survived").await?, "survived");
        }
        wait::until("new connections use HBONE", async || {
            let Ok(capture) = mesh.capture() else {
                return false;
            };
            let connected = connect_all(mesh).await;
            let recording = capture.finish();
            connected.is_ok() && recording.is_ok_and(|seen| seen.packets_of_port(HBONE_PORT) > 0)
        })
        .await?;
        let capture = mesh.capture()?;
        for mut stream in connect_all(mesh).await? {
            assert_eq!(app::exchange(&mut stream, "captured").await?, "captured");
        }
        let recording = capture.finish()?;
        assert!(recording.packets_of_port(HBONE_PORT) > 0);
        assert_eq!(recording.flows_with("captured"), []);
        Ok(())
    });
}

async fn connect_all(mesh: &Mesh) -> Result<Vec<tokio::net::TcpStream>> {
    let mut streams = Vec::new();
    for family in Family::ALL {
        let to = mesh.pod("shop/server").at(family, PORT);
        let mut stream = mesh.pod("shop/client").connect(to).await?;
        assert_eq!(app::exchange(&mut stream, "open").await?, "open");
        streams.push(stream);
    }
    Ok(streams)
}
