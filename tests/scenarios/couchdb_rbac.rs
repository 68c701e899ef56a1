//! The walk `couchdb-rbac`: a database with an HTTP API is closed by default, then open to one service
//! account.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use ztun_tests::{
    Family, Mesh, PodSpec, ServiceSpec,
    manifest::Manifest,
    scenario,
    servers::{HTTPBIN_PORT, Server, client},
    wait,
};

const NAMESPACE: &str = "with-istio";
const SERVICE_PORT: u16 = 5984;
const TEST_APP: &str = "with-istio/test-app";
const OTHER: &str = "with-istio/other-app";
const PRINCIPAL: &str = "cluster.local/ns/with-istio/sa/test-app-test-app-chart";

#[test]
fn couchdb_rbac() {
    let test_app = PodSpec::new(TEST_APP)
        .on("a")
        .service_account("test-app-test-app-chart");
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(test_app)
        .pod(PodSpec::new(OTHER).on("a"))
        .pod(PodSpec::new("with-istio/couchdb").on("b"))
        .service(ServiceSpec::new("with-istio/couchdb").port(SERVICE_PORT, HTTPBIN_PORT))
        .needs("gunicorn")
        .needs("curl");
    scenario(mesh, async |mesh| {
        // httpbin stands for the database: any HTTP API does.
        let _api = Server::httpbin(mesh, mesh.pod("with-istio/couchdb")).await?;
        get(mesh, TEST_APP).await.context("with no policy")?;

        mesh.apply(&policy("deny-by-default", &json!({})))?;
        is_refused(mesh, TEST_APP).await?;
        names_the_policy(mesh, "AuthorizationPolicy with-istio/deny-by-default").await?;

        mesh.apply(&policy(
            "test-app",
            &allow(&json!({ "ports": [HTTPBIN_PORT.to_string()] })),
        ))?;
        wait::until("the test app gets in", async || {
            get(mesh, TEST_APP).await.is_ok()
        })
        .await?;
        is_refused(mesh, OTHER).await?;

        // What layer 4 can't see lets nobody in, and is told.
        mesh.apply(&policy("test-app", &allow(&json!({ "methods": ["GET"] }))))?;
        is_refused(mesh, TEST_APP).await?;
        let status = mesh.node("b").status().await?["mesh"]["problems"].to_string();
        ensure!(
            status.contains("AuthorizationPolicy with-istio/test-app")
                && status.contains("methods"),
            "{status}"
        );
        Ok(())
    });
}

fn policy(name: &str, spec: &Value) -> Manifest {
    Manifest::authorization_policy(NAMESPACE, name, spec)
}

/// For the database, from the test app's service account.
fn allow(operation: &Value) -> Value {
    json!({
        "selector": { "matchLabels": { "app": "couchdb" } },
        "rules": [{
            "from": [{ "source": { "principals": [PRINCIPAL] } }],
            "to": [{ "operation": operation }],
        }],
    })
}

async fn get(mesh: &Mesh, pod: &str) -> Result<()> {
    let database = mesh
        .service("with-istio/couchdb")
        .at(Family::V4, SERVICE_PORT);
    let url = format!("http://{database}/get");
    let arguments = ["-sS", "--fail", "--max-time", "20", &url];
    client(mesh.pod(pod), "curl", &arguments).await.map(drop)
}

async fn is_refused(mesh: &Mesh, pod: &str) -> Result<()> {
    wait::until(format_args!("{pod} is refused"), async || {
        get(mesh, pod).await.is_err()
    })
    .await?;
    let refused = get(mesh, pod).await.err().context("it got through")?;
    // curl's own limit of time is 28.
    ensure!(!refused.to_string().contains("(28)"), "it hung: {refused}");
    Ok(())
}

/// In the log, with the client's identity and what to do, and in a metric.
async fn names_the_policy(mesh: &Mesh, policy: &str) -> Result<()> {
    let node = mesh.node("b");
    wait::until("the log names the policy", async || {
        let log = node.log();
        let mut lines = log.lines();
        lines.any(|line| {
            let named = format!("denied by {policy}");
            line.contains(&named)
                && line.contains(PRINCIPAL)
                && line.contains("connection complete")
        })
    })
    .await?;
    let denials = node.counted("ztun_policy_denials_total", &[("policy", policy)])?;
    ensure!(denials > 0, "no denial is counted");
    Ok(())
}
