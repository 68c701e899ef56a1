//! Two nodes that are two machines: what crosses the link between them, with short and long frames.

mod closed;
mod encryption;
mod paths;
mod volume;

use ztun_tests::{Enrolment, Mesh, MeshBuilder, PodSpec, ServiceSpec};

const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;

/// The MTU that Ethernet has everywhere, and that of jumbo frames in data centres.
const ORDINARY: u32 = 1500;
const JUMBO: u32 = 9000;

/// An enrolled client on one machine, an enrolled server on the other, and a pod outside of the mesh beside each.
fn shop(mtu: u32) -> MeshBuilder {
    let outside = |path| PodSpec::new(path).enrolment(Enrolment::Outside);
    Mesh::builder()
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/server").on("b"))
        .pod(outside("outside/client").on("a"))
        .pod(outside("outside/server").on("b"))
        .service(ServiceSpec::new("shop/server").port(SERVICE_PORT, PORT))
        .mtu(mtu)
}
