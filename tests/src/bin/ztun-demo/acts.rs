//! What the demo claims, and how it checks each claim.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use ztun_tests::{Family, Mesh, MtlsMode, Pod, capture::Recording, wait};

use super::{
    curl::{Outcome, get},
    report::Report,
    stage::{CART, IN_THE_MESH, LEDGER, MARKER, OUTSIDER, PORT, SERVICE_PORT, STOCK, WEB},
};

/// What a request is sent to.
#[derive(Clone, Copy, Debug)]
enum Target {
    Pod(&'static str),
    Service(&'static str),
}

const REQUESTS: [(&str, &str, Target, Family); 8] = [
    ("across nodes", CART, Target::Pod(STOCK), Family::V4),
    ("across nodes", CART, Target::Pod(STOCK), Family::V6),
    ("within a node", CART, Target::Pod(WEB), Family::V4),
    ("within a node", CART, Target::Pod(WEB), Family::V6),
    (
        "through a service",
        CART,
        Target::Service(STOCK),
        Family::V4,
    ),
    (
        "through a service",
        CART,
        Target::Service(STOCK),
        Family::V6,
    ),
    ("between namespaces", LEDGER, Target::Pod(WEB), Family::V4),
    ("between namespaces", LEDGER, Target::Pod(WEB), Family::V6),
];

/// The capture must be able to fail, so it first has to catch what is sent in clear.
pub async fn before_enrolment(mesh: &Mesh, report: &mut Report) -> Result<()> {
    Report::title("1. Before enrolment: the network reads along");
    let capture = mesh.capture()?;
    for family in [Family::V4, Family::V6] {
        let server = mesh.pod(STOCK).at(family, PORT);
        let outcome = get(mesh.pod(CART), server).await?;
        report.check(
            format!("{CART} → {STOCK} ({server}), not enrolled"),
            answered(&outcome),
        );
    }
    report.check(
        "the capture finds the marker in clear",
        marker_seen(&capture.finish()?),
    );
    Ok(())
}

pub async fn enrolment(mesh: &Mesh, report: &mut Report) -> Result<()> {
    Report::title("2. Enrolment, through the CNI plugin");
    for path in IN_THE_MESH {
        mesh.enrol(path).await?;
    }
    for node in mesh.nodes() {
        wait::until("every certificate is issued", async || {
            node.status().await.is_ok_and(|status| is_ready(&status))
        })
        .await?;
        let status = node.status().await?;
        for pod in list(&status, "pods") {
            let found = captured(pod, &status);
            report.check(format!("node {}: {}", node.name, name_of(pod)), found);
        }
    }
    Ok(())
}

pub async fn traffic(mesh: &Mesh, report: &mut Report) -> Result<()> {
    Report::title("3. Requests: curl → nginx, unchanged");
    let capture = mesh.capture()?;
    for (how, from, target, family) in REQUESTS {
        let (server, to) = match target {
            Target::Pod(path) => (mesh.pod(path).at(family, PORT), path.to_owned()),
            Target::Service(path) => (
                mesh.service(path).at(family, SERVICE_PORT),
                format!("service {path}"),
            ),
        };
        let outcome = get(mesh.pod(from), server).await?;
        report.check(
            format!("{how}: {from} → {to} ({server})"),
            answered(&outcome),
        );
    }
    let outcome = outsider(mesh).await?;
    report.check(
        format!("{OUTSIDER} → {STOCK}, PERMISSIVE lets plaintext in"),
        answered(&outcome),
    );
    // The outsider's answer is in clear: it is outside the mesh.
    let outside = mesh.pod(OUTSIDER);
    let recording = capture.finish()?;
    report.check(
        "between enrolled pods the marker never crosses the network in clear",
        marker_unseen(&recording, outside),
    );
    Ok(())
}

pub async fn strict(mesh: &Mesh, report: &mut Report) -> Result<()> {
    Report::title("4. PeerAuthentication STRICT for the namespace shop");
    mesh.set_mtls("shop", MtlsMode::Strict)?;
    let mut last = outsider(mesh).await?;
    wait::until("the policy is in force", async || {
        last = match outsider(mesh).await {
            Ok(outcome) => outcome,
            Err(_) => return false,
        };
        last.result.is_err()
    })
    .await?;
    report.check(
        format!("{OUTSIDER} → {STOCK} is refused at once"),
        refused(&last, &mesh.node("b").log()),
    );
    let outcome = get(mesh.pod(CART), mesh.pod(STOCK).at(Family::V4, PORT)).await?;
    report.check(format!("{CART} → {STOCK} goes on"), answered(&outcome));

    mesh.set_mtls("shop", MtlsMode::Permissive)?;
    let again = wait::until("plaintext is let in again", async || {
        outsider(mesh)
            .await
            .is_ok_and(|outcome| outcome.result.is_ok())
    });
    report.check(
        format!("back to PERMISSIVE: {OUTSIDER} → {STOCK} is let in again"),
        again.await.map(|()| "no restart of anything"),
    );
    Ok(())
}

async fn outsider(mesh: &Mesh) -> Result<Outcome> {
    let server: SocketAddr = mesh.pod(STOCK).at(Family::V4, PORT);
    get(mesh.pod(OUTSIDER), server).await
}

fn answered(outcome: &Outcome) -> Result<String> {
    let body = outcome
        .result
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(body.contains(MARKER), "unexpected answer: {body}");
    Ok(format!("200 in {} ms", outcome.took.as_millis()))
}

/// The client's error, and what the daemon said of it.
fn refused(outcome: &Outcome, log: &str) -> Result<String> {
    let error = match &outcome.result {
        Ok(body) => anyhow::bail!("it was let in and got: {body}"),
        Err(error) => error,
    };
    let reason = log
        .lines()
        .rev()
        .find_map(|line| line.find("denied by").map(|start| &line[start..]))
        .context("the daemon's log gives no reason")?;
    Ok(format!(
        "{error} ({} ms)\n      the daemon says: {reason}",
        outcome.took.as_millis()
    ))
}

fn marker_seen(recording: &Recording) -> Result<String> {
    let flows = recording.flows_with(MARKER);
    ensure!(
        !flows.is_empty(),
        "not found, so the capture proves nothing"
    );
    Ok(format!(
        "{} packets of port {PORT} crossed",
        recording.packets_of_port(PORT)
    ))
}

fn marker_unseen(recording: &Recording, outside: &Pod) -> Result<String> {
    let outside = outside.at(Family::V4, 0).ip();
    let clear: Vec<_> = recording
        .flows_with(MARKER)
        .into_iter()
        .filter(|flow| flow.from.ip() != outside && flow.to.ip() != outside)
        .collect();
    ensure!(clear.is_empty(), "found in {clear:?}");
    let tunnelled = recording.packets_of_port(15008);
    ensure!(tunnelled > 0, "nothing crossed on port 15008 either");
    Ok(format!("0 times, in {tunnelled} packets of port 15008"))
}

fn is_ready(status: &Value) -> bool {
    list(status, "notReady").is_empty()
}

/// The pod's SPIFFE ID and how long its certificate lasts.
fn captured(pod: &Value, status: &Value) -> Result<String> {
    ensure!(
        pod.pointer("/capture/state").and_then(Value::as_str) == Some("captured"),
        "not captured: {}",
        pod["capture"]
    );
    let identity = pod["identity"].as_str().context("no identity")?;
    let certificate = list(status, "certificates")
        .iter()
        .find(|certificate| certificate["identity"] == identity)
        .context("no certificate")?;
    let end = certificate["notAfter"].as_str().context("not issued")?;
    Ok(format!("captured, {identity} until {end}"))
}

fn name_of(pod: &Value) -> String {
    let part = |key: &str| pod["pod"][key].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", part("namespace"), part("name"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}
