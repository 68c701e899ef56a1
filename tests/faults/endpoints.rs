//! Endpoints of a service that are gone while the mesh state still has them.

use anyhow::{Result, ensure};
use serde_json::json;
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, PodSpec, ServiceSpec, app, manifest::Manifest,
    netlink::DeadEnd, scenario, wait,
};

use crate::PORT;

const SERVICE_PORT: u16 = 80;
/// So many that each endpoint is chosen first by some.
const CONNECTIONS: usize = 60;

/// A client, and a service with two endpoints on the other node: both in the mesh, or neither.
fn shop(endpoints: Enrolment) -> MeshBuilder {
    let endpoint = |path| {
        let pod = PodSpec::new(path).on("b").label("tier", "stock");
        pod.enrolment(endpoints)
    };
    let service = ServiceSpec::new("shop/stock").port(SERVICE_PORT, PORT);
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(endpoint("shop/good"))
        .pod(endpoint("shop/gone"))
        .service(service.select("tier", "stock"))
}

#[test]
fn a_connection_to_a_service_goes_to_another_endpoint_when_an_application_is_gone() {
    scenario(shop(Enrolment::Enrolled), async |mesh| {
        // Its proxy is there, and answers for it.
        all_are_served(mesh, CONNECTIONS, &["from its own proxy"]).await
    });
}

#[test]
fn a_connection_to_a_service_goes_to_another_endpoint_when_a_pod_is_gone() {
    for endpoints in [Enrolment::Enrolled, Enrolment::Later] {
        let impatient = shop(endpoints).setting("timeouts", json!({ "tcpConnect": "2s" }));
        scenario(impatient, async |mesh| {
            let gone = mesh.pod("shop/gone");
            for address in [gone.v4.into(), gone.v6.into()] {
                mesh.node("b")
                    .dead_end(address, DeadEnd::Unreachable)
                    .await?;
            }
            all_are_served(mesh, CONNECTIONS / 3, &["connect to", "TCP connect with"]).await
        });
    }
}

#[test]
fn a_connection_that_policy_denies_is_not_tried_elsewhere() {
    scenario(shop(Enrolment::Enrolled), async |mesh| {
        let spec = json!({
            "selector": { "matchLabels": { "app": "gone" } },
            "action": "DENY",
            "rules": [{}],
        });
        mesh.apply(&Manifest::authorization_policy("shop", "closed", &spec))?;
        let (client, gone) = (mesh.pod("shop/client"), mesh.pod("shop/gone"));
        let (good, denied) = (mesh.pod("shop/good").echo(PORT)?, gone.echo(PORT)?);
        wait::until("the policy holds", async || {
            client.failure(gone.at(Family::V4, PORT)).await.is_some()
        })
        .await?;
        let before = denied.peers().len();
        let (served, failed) = connections(mesh, CONNECTIONS).await;
        println!("{served} served, {failed} denied");
        ensure!(served > 0 && failed > 0, "{served} served, {failed} denied");
        assert_eq!(good.peers().len(), served, "a denied one went on");
        assert_eq!(denied.peers().len(), before);
        Ok(())
    });
}

#[test]
fn a_connection_to_a_pod_itself_goes_nowhere_else() {
    scenario(shop(Enrolment::Enrolled), async |mesh| {
        let good = mesh.pod("shop/good").echo(PORT)?;
        let to = mesh.pod("shop/gone").at(Family::V4, PORT);
        ensure!(mesh.pod("shop/client").failure(to).await.is_some());
        assert_eq!(good.peers(), []);
        Ok(())
    });
}

/// One endpoint serves every connection; the other was tried, and why it failed is in the log.
async fn all_are_served(mesh: &Mesh, times: usize, reasons: &[&str]) -> Result<()> {
    let good = mesh.pod("shop/good").echo(PORT)?;
    let (served, failed) = connections(mesh, times).await;
    let log = mesh.node("a").log();
    let tried = log
        .lines()
        .filter(|line| reasons.iter().any(|it| line.contains(it)));
    let tried = tried.count();
    println!("{served} served, {failed} failed, {tried} tried the endpoint that is gone");
    ensure!(
        failed == 0 && tried > 0,
        "{failed} failed, {tried} tried it"
    );
    assert_eq!(good.peers().len(), served);
    Ok(())
}

async fn connections(mesh: &Mesh, times: usize) -> (usize, usize) {
    let (client, service) = (mesh.pod("shop/client"), mesh.service("shop/stock"));
    let (mut served, mut failed) = (0, 0);
    let families = Family::available();
    for number in 0..times {
        let to = service.at(families[number % families.len()], SERVICE_PORT);
        let exchanged = async {
            let mut stream = client.connect(to).await?;
            app::exchange(&mut stream, "hello").await
        };
        match exchanged.await {
            Ok(_) => served += 1,
            Err(_) => failed += 1,
        }
    }
    (served, failed)
}
