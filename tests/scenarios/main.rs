//! What operators do and see: namespaces under STRICT, real servers, certificates, status.

mod admin;
mod answers;
mod audit;
mod authorization_policy;
mod bookinfo;
mod couchdb_rbac;
mod encryption;
mod foo_bar_legacy;
mod fruits_catalog;
mod identity;
mod membership;
mod migrate;
mod mtls;
mod probes;
mod same_node;
mod servers;
mod status;
mod user_namespaces;
mod verify;
mod wordpress;

use ztun_tests::{Enrolment, Mesh, MeshBuilder, PodSpec, ServiceSpec};

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
