//! The walk `bookinfo`: productpage calls details while the mesh-wide mode changes, and a pod outside
//! of the mesh does so too.

use anyhow::{Context, Result, ensure};
use ztun_tests::{
    Enrolment, Family, Mesh, MtlsMode, PodSpec, ServiceSpec,
    rogue::{self, HBONE_PORT},
    scenario,
    servers::{NGINX_PORT, Server, client},
    wait,
};

const ROOT_NAMESPACE: &str = "istio-system";
const SERVICE_PORT: u16 = 9080;

#[test]
fn bookinfo() {
    let productpage = PodSpec::new("default/productpage")
        .on("a")
        .service_account("bookinfo-productpage");
    let details = PodSpec::new("default/details")
        .on("b")
        .service_account("bookinfo-details");
    let legacy = PodSpec::new("legacy/sleep")
        .on("a")
        .enrolment(Enrolment::Outside);
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(productpage)
        .pod(details)
        .pod(legacy)
        .service(ServiceSpec::new("default/details").port(SERVICE_PORT, NGINX_PORT))
        .needs("nginx")
        .needs("curl");
    scenario(mesh, async |mesh| {
        let files = [("details", &b"The Comedy of Errors"[..])];
        let _details = Server::nginx(mesh, mesh.pod("default/details"), &files).await?;

        both_get_through(mesh).await.context("with no policy")?;
        mesh.set_mtls(ROOT_NAMESPACE, MtlsMode::Permissive)?;
        both_get_through(mesh).await.context("PERMISSIVE")?;

        mesh.set_mtls(ROOT_NAMESPACE, MtlsMode::Strict)?;
        wait::until("legacy is refused", async || {
            details_for(mesh, "legacy/sleep").await.is_err()
        })
        .await?;
        for _ in 0..3 {
            let refused = details_for(mesh, "legacy/sleep").await;
            let message = refused.err().context("legacy got through")?.to_string();
            // curl's own limit of time would be 28.
            ensure!(!message.contains("(28)"), "it hung: {message}");
            details_for(mesh, "default/productpage").await?;
        }

        mesh.set_mtls(ROOT_NAMESPACE, MtlsMode::Permissive)?;
        wait::until("legacy gets through again", async || {
            details_for(mesh, "legacy/sleep").await.is_ok()
        })
        .await?;
        both_get_through(mesh).await.context("PERMISSIVE again")?;

        let productpage = mesh.pod("default/productpage").at(Family::V4, HBONE_PORT);
        let names = rogue::names_shown(mesh.pod("legacy/sleep"), productpage).await?;
        let only = "URI(spiffe://cluster.local/ns/default/sa/bookinfo-productpage)";
        assert_eq!(names, [only]);
        Ok(())
    });
}

async fn both_get_through(mesh: &Mesh) -> Result<()> {
    for pod in ["default/productpage", "legacy/sleep"] {
        details_for(mesh, pod).await.context(pod)?;
    }
    Ok(())
}

async fn details_for(mesh: &Mesh, pod: &str) -> Result<()> {
    let details = mesh.service("default/details");
    // Without a mesh there is no service here, only the pod.
    let to = match pod {
        "legacy/sleep" => mesh.pod("default/details").at(Family::V4, NGINX_PORT),
        _ => details.at(Family::V4, SERVICE_PORT),
    };
    let url = format!("http://{to}/details");
    let arguments = ["-sS", "--fail", "--max-time", "20", &url];
    let answer = client(mesh.pod(pod), "curl", &arguments).await?;
    ensure!(answer == "The Comedy of Errors", "{answer}");
    Ok(())
}
