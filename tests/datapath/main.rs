//! What happens to bytes: every path, every family, every way in which a connection begins and ends.

mod address_changes;
mod addresses;
mod chatty;
mod ends;
mod load;
mod paths;
mod plaintext;
mod streams;
mod untouched;

use ztun_tests::{Mesh, MeshBuilder, PodSpec, ServiceSpec};

const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;

/// A client on one node, a server beside it and one on another, each behind a service of its name.
fn two_nodes() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/near").on("a"))
        .pod(PodSpec::new("shop/far").on("b"))
        .service(ServiceSpec::new("shop/near").port(SERVICE_PORT, PORT))
        .service(ServiceSpec::new("shop/far").port(SERVICE_PORT, PORT))
}
