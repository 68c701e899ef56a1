//! The demo's nodes, pods and servers.

use anyhow::Result;
use ztun_tests::{
    Enrolment, Mesh, MeshBuilder, PodSpec, ServiceSpec,
    servers::{NGINX_PORT, Server},
};

pub const CART: &str = "shop/cart";
pub const WEB: &str = "shop/web";
pub const STOCK: &str = "shop/stock";
pub const LEDGER: &str = "bank/ledger";
pub const OUTSIDER: &str = "legacy/outsider";

pub const IN_THE_MESH: [&str; 4] = [CART, WEB, STOCK, LEDGER];
pub const PORT: u16 = NGINX_PORT;
pub const SERVICE_PORT: u16 = 8080;

/// Every answer of every server holds it, so it crosses each network that a request crosses.
pub const MARKER: &str = "THE-SECRET-OF-THE-SHOP";

pub const PICTURE: &str = "
   node a                          node b
   shop/cart                       shop/stock    (nginx)
   shop/web     (nginx)            bank/ledger
   legacy/outsider
        └────────── the network between ──────────┘
                     (captured here)
";

/// Nothing is enrolled yet: the demo first shows what crosses the network without ztun.
pub fn build() -> MeshBuilder {
    let pod = |path, node| PodSpec::new(path).on(node).enrolment(Enrolment::Later);
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(pod(CART, "a"))
        .pod(pod(WEB, "a"))
        .pod(PodSpec::new(OUTSIDER).on("a").enrolment(Enrolment::Outside))
        .pod(pod(STOCK, "b"))
        .pod(pod(LEDGER, "b"))
        .service(ServiceSpec::new(STOCK).port(SERVICE_PORT, PORT))
}

pub async fn start_servers(mesh: &Mesh) -> Result<Vec<Server>> {
    let mut started = Vec::new();
    for path in [WEB, STOCK] {
        let body = format!("{MARKER}, says {path}\n");
        let files = [("index.html", body.as_bytes())];
        started.push(Server::nginx(mesh, mesh.pod(path), &files).await?);
    }
    Ok(started)
}
