//! Same node and two nodes, pod address and service address, each over every family.

use anyhow::Result;
use ztun_tests::{Family, Mesh, app, rogue::HBONE_PORT, scenario};

use crate::{PORT, SERVICE_PORT, two_nodes};

const MARKER: &str = "marker-of-the-paths-in-clear";

#[derive(Clone, Copy)]
enum Target {
    Pod,
    Service,
}

#[test]
fn a_pod_reaches_a_pod_on_its_node() {
    scenario(two_nodes(), async |mesh| {
        reaches(mesh, "shop/near", Target::Pod).await
    });
}

#[test]
fn a_pod_reaches_a_service_on_its_node() {
    scenario(two_nodes(), async |mesh| {
        reaches(mesh, "shop/near", Target::Service).await
    });
}

#[test]
fn a_pod_reaches_a_pod_on_another_node_encrypted() {
    scenario(two_nodes(), async |mesh| {
        reaches_encrypted(mesh, Target::Pod).await
    });
}

#[test]
fn a_pod_reaches_a_service_on_another_node_encrypted() {
    scenario(two_nodes(), async |mesh| {
        reaches_encrypted(mesh, Target::Service).await
    });
}

async fn reaches_encrypted(mesh: &Mesh, target: Target) -> Result<()> {
    let capture = mesh.capture()?;
    reaches(mesh, "shop/far", target).await?;
    let recording = capture.finish()?;
    assert!(recording.packets_of_port(HBONE_PORT) > 0);
    assert_eq!(recording.packets_of_port(PORT), 0);
    assert_eq!(recording.flows_with(MARKER), []);
    Ok(())
}

async fn reaches(mesh: &Mesh, server: &str, target: Target) -> Result<()> {
    let client = mesh.pod("shop/client");
    let echo = mesh.pod(server).echo(PORT)?;
    for &family in Family::available() {
        let to = match target {
            Target::Pod => mesh.pod(server).at(family, PORT),
            Target::Service => mesh.service(server).at(family, SERVICE_PORT),
        };
        let mut stream = client.connect(to).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
    }
    assert_eq!(echo.peers().len(), Family::available().len());
    Ok(())
}
