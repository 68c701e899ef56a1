//! What operators do and see: namespaces under STRICT, real servers, certificates, status.

mod admin;
mod answers;
mod audit;
mod authorization_policy;
mod bookinfo;
mod certs;
mod couchdb_rbac;
mod encryption;
mod federation;
mod foo_bar_legacy;
mod fruits_catalog;
mod identity;
mod membership;
mod metrics;
mod migrate;
mod mtls;
mod privileges;
mod probes;
mod revocation;
mod root_rotation;
mod same_node;
mod servers;
mod status;
mod user_namespaces;
mod verify;
mod wordpress;

use anyhow::Result;
use ztun_tests::{Enrolment, Family, Mesh, MeshBuilder, PodSpec, ServiceSpec, app};

const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;

/// Two nodes with a namespace in the mesh, and a pod outside of it on the first.
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
        .service(ServiceSpec::new("shop/server").port(SERVICE_PORT, PORT))
}

/// The same, with a second client that has an identity of its own, on the server's node.
fn shop_with_two_clients() -> MeshBuilder {
    let near = PodSpec::new("shop/near").on("b").service_account("near");
    shop_and_outsider().pod(near)
}

/// Has a client talk to the shop's server; fails if it is refused.
async fn exchange(mesh: &Mesh, client: &str) -> Result<()> {
    exchange_over(mesh, client, Family::V4).await
}

async fn exchange_over(mesh: &Mesh, client: &str, family: Family) -> Result<()> {
    let to = mesh.pod("shop/server").at(family, PORT);
    let mut stream = mesh.pod(client).connect(to).await?;
    assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
    Ok(())
}
