//! The walk `foo-bar-legacy`: every client in foo, bar and legacy calls httpbin in foo and in bar, under one
//! policy after another.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use ztun_tests::{
    Enrolment, Family, Mesh, PodSpec,
    manifest::Manifest,
    scenario,
    servers::{HTTPBIN_PORT, Server, client},
    wait,
};

const NAMESPACES: [&str; 3] = ["foo", "bar", "legacy"];

/// From, to.
type Pair = (&'static str, &'static str);

const LEGACY_TO_FOO: Pair = ("legacy", "foo");
const LEGACY_TO_BAR: Pair = ("legacy", "bar");

#[test]
fn foo_bar_legacy() {
    let client = |namespace: &str, node: &str| {
        PodSpec::new(&format!("{namespace}/curl"))
            .on(node)
            .enrolment(match namespace {
                "legacy" => Enrolment::Outside,
                _ => Enrolment::Enrolled,
            })
    };
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(client("foo", "a"))
        .pod(client("bar", "b"))
        .pod(client("legacy", "a"))
        .pod(PodSpec::new("foo/httpbin").on("b"))
        .pod(PodSpec::new("bar/httpbin").on("a"))
        .needs("gunicorn")
        .needs("curl");
    scenario(mesh, async |mesh| {
        let _foo = Server::httpbin(mesh, mesh.pod("foo/httpbin")).await?;
        let _bar = Server::httpbin(mesh, mesh.pod("bar/httpbin")).await?;
        only_refused(mesh, "no policy", &[]).await?;

        let foo = policy("foo", "default", &json!({ "mtls": { "mode": "STRICT" } }));
        mesh.apply(&foo)?;
        only_refused(mesh, "STRICT in foo", &[LEGACY_TO_FOO]).await?;

        let all = policy(
            "istio-system",
            "default",
            &json!({ "mtls": { "mode": "STRICT" } }),
        );
        mesh.apply(&all)?;
        only_refused(
            mesh,
            "STRICT in the root namespace",
            &[LEGACY_TO_FOO, LEGACY_TO_BAR],
        )
        .await?;

        mesh.directory.remove(&foo)?;
        mesh.directory.remove(&all)?;
        only_refused(mesh, "no policy again", &[]).await?;

        let httpbin = json!({ "matchLabels": { "app": "httpbin" } });
        let workload = json!({ "selector": httpbin, "mtls": { "mode": "STRICT" } });
        mesh.apply(&policy("bar", "httpbin", &workload))?;
        only_refused(mesh, "STRICT for httpbin in bar", &[LEGACY_TO_BAR]).await?;

        let mut with_exception = workload;
        with_exception["portLevelMtls"] =
            json!({ HTTPBIN_PORT.to_string(): { "mode": "PERMISSIVE" } });
        mesh.apply(&policy("bar", "httpbin", &with_exception))?;
        only_refused(mesh, "STRICT but for httpbin's port", &[]).await
    });
}

fn policy(namespace: &str, name: &str, spec: &Value) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    }))
}

/// The article's loop over all six pairs. The first rounds may still see the policy before.
async fn only_refused(mesh: &Mesh, policy: &str, expected: &[Pair]) -> Result<()> {
    let mut refused = Vec::new();
    wait::until(
        format_args!("{policy}: {expected:?} are refused"),
        async || {
            refused = refused_pairs(mesh).await;
            refused == expected
        },
    )
    .await?;
    let again = refused_pairs(mesh).await;
    ensure!(again == expected, "{policy}: then {again:?} were refused");
    Ok(())
}

async fn refused_pairs(mesh: &Mesh) -> Vec<Pair> {
    let mut refused = Vec::new();
    for from in NAMESPACES {
        for to in ["foo", "bar"] {
            let httpbin = mesh.pod(&format!("{to}/httpbin"));
            let url = format!("http://{}/ip", httpbin.at(Family::V4, HTTPBIN_PORT));
            let curl = mesh.pod(&format!("{from}/curl"));
            let arguments = ["-sS", "--fail", "--max-time", "20", &url];
            if client(curl, "curl", &arguments).await.is_err() {
                refused.push((from, to));
            }
        }
    }
    refused
}
