//! Beside other owners of a node: what they do goes on working, and so does capture.

mod load_balancer;
mod netfilter;
mod programs;
mod settings;

use anyhow::Result;
use ztun_tests::{Enrolment, Family, Mesh, MeshBuilder, PodSpec, ServiceSpec, app};

const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;
const MARKER: &str = "marker-beside-another-owner";

/// A client that is enrolled by the test, after the other owner came; a server on the other node, behind a
/// service; and a pod outside of the mesh.
fn shop_to_enrol() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(
            PodSpec::new("shop/client")
                .on("a")
                .enrolment(Enrolment::Later),
        )
        .pod(PodSpec::new("shop/server").on("b"))
        .pod(
            PodSpec::new("outside/client")
                .on("b")
                .enrolment(Enrolment::Outside),
        )
        .service(ServiceSpec::new("shop/server").port(SERVICE_PORT, PORT))
}

/// The client reaches the server over each of `families`, and nothing of it crosses in clear.
async fn talks_encrypted(mesh: &Mesh, families: &[Family]) -> Result<()> {
    let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
    let echo = server.echo(PORT)?;
    let capture = mesh.capture()?;
    for &family in families {
        let mut stream = client.connect(server.at(family, PORT)).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
    }
    assert_eq!(echo.peers().len(), families.len());
    let recording = capture.finish()?;
    assert_eq!(recording.packets_of_port(PORT), 0);
    assert_eq!(recording.flows_with(MARKER), []);
    Ok(())
}
