//! What goes wrong: daemons that die, peers that lie, input that makes no sense.

mod broken_capture;
mod ca_input;
mod ca_storage;
mod certificate_authority;
mod closed;
mod configuration;
mod daemon;
mod deaths;
mod drain;
mod endpoints;
mod enrolment;
mod hanging;
mod interrupted;
mod mesh_directory;
mod peers;
mod pods;
mod readiness;
mod reboot;
mod restarts;
mod upgrade;
mod ways_out;

use ztun_tests::{Enrolment, Family, Mesh, MeshBuilder, PodSpec, app, pod::Pod};

const PORT: u16 = 8080;

/// Two enrolled pods on two nodes, and a pod outside of the mesh.
fn shop_and_outsider() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/server").on("b"))
        .pod(
            PodSpec::new("outside/client")
                .on("a")
                .enrolment(Enrolment::Outside),
        )
}

/// Whether bytes of `client` come back from the echo server in `server`.
async fn reaches(client: &Pod, server: &Pod, family: Family) -> bool {
    let Ok(mut stream) = client.connect(server.at(family, PORT)).await else {
        return false;
    };
    app::exchange(&mut stream, "hello").await.is_ok()
}
