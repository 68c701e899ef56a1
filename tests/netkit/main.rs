//! Pods that are linked to their nodes by netkit devices, as some CNIs do it where the kernel has them.

use std::io::ErrorKind;

use ztun_tests::{
    Enrolment, Family, Link, Mesh, MeshBuilder, MtlsMode, PodSpec, ServiceSpec, app,
    rogue::HBONE_PORT, scenario,
};

const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;
const MARKER: &str = "marker-over-netkit-in-clear";

/// A client on one node, a server beside it and one on another; and a pod outside of the mesh.
fn two_nodes() -> MeshBuilder {
    let pod = |path, node| PodSpec::new(path).on(node).link(Link::Netkit);
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(pod("shop/client", "a"))
        .pod(pod("shop/near", "a"))
        .pod(pod("shop/far", "b"))
        .pod(pod("outside/client", "a").enrolment(Enrolment::Outside))
        .service(ServiceSpec::new("shop/near").port(SERVICE_PORT, PORT))
        .service(ServiceSpec::new("shop/far").port(SERVICE_PORT, PORT))
}

#[test]
fn a_pod_reaches_pods_and_services_and_nothing_crosses_in_clear() {
    scenario(two_nodes(), async |mesh| {
        let client = mesh.pod("shop/client");
        let capture = mesh.capture()?;
        for server in ["shop/near", "shop/far"] {
            let _echo = mesh.pod(server).echo(PORT)?;
            for &family in Family::available() {
                for to in [
                    mesh.pod(server).at(family, PORT),
                    mesh.service(server).at(family, SERVICE_PORT),
                ] {
                    let mut stream = client.connect(to).await?;
                    assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
                }
            }
        }
        let recording = capture.finish()?;
        assert!(recording.packets_of_port(HBONE_PORT) > 0);
        assert_eq!(recording.packets_of_port(PORT), 0);
        assert_eq!(recording.flows_with(MARKER), []);
        Ok(())
    });
}

#[test]
fn servers_see_the_addresses_of_clients_in_the_mesh_and_outside() {
    scenario(two_nodes(), async |mesh| {
        for server in ["shop/near", "shop/far"] {
            let server = mesh.pod(server);
            let _who = server.who_am_i(PORT)?;
            for client in ["shop/client", "outside/client"] {
                let client = mesh.pod(client);
                for &family in Family::available() {
                    let seen = client.seen_by(server.at(family, PORT)).await?;
                    assert_eq!(seen.ip(), client.at(family, 0).ip().to_canonical());
                }
            }
        }
        Ok(())
    });
}

#[test]
fn strict_refuses_plaintext_and_a_dead_daemon_everything() {
    let mesh = two_nodes().peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let (client, outside) = (mesh.pod("shop/client"), mesh.pod("outside/client"));
        let server = mesh.pod("shop/far");
        let (echo, in_clear) = (server.echo(PORT)?, outside.echo(PORT)?);
        for &family in Family::available() {
            let to = server.at(family, PORT);
            assert!(outside.failure(to).await.is_some(), "{family:?} got in");
        }
        assert_eq!(echo.peers(), []);
        for &family in Family::available() {
            let mut stream = client.connect(server.at(family, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }

        for node in mesh.nodes() {
            node.kill_daemon().await?;
        }
        let served = echo.peers().len();
        for &family in Family::available() {
            let refused = client.connect(outside.at(family, PORT)).await;
            let kind = refused.map(drop).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::PermissionDenied), "{family:?} got out");
            let to = server.at(family, PORT);
            assert!(outside.failure(to).await.is_some(), "{family:?} got in");
        }
        assert_eq!(echo.peers().len(), served);
        assert_eq!(in_clear.peers(), []);
        Ok(())
    });
}
