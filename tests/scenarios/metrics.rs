//! What Prometheus, and the dashboards that read it, get from the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use ztun_tests::{Family, Mesh, MtlsMode, PodSpec, app, daemon, scenario, wait};

use crate::{PORT, SERVICE_PORT, shop_and_outsider};

/// Reads the format as strictly as its specification has it, and prints each sample: name, labels, value.
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = text_string_to_metric_families(sys.stdin.read())
print(json.dumps([[s.name, s.labels, s.value] for f in families for s in f.samples]))
";

/// Of every series of a connection (Istio's standard metrics, TCP).
const LABELS: [&str; 23] = [
    "connection_security_policy",
    "destination_app",
    "destination_canonical_revision",
    "destination_canonical_service",
    "destination_cluster",
    "destination_principal",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_version",
    "destination_workload",
    "destination_workload_namespace",
    "reporter",
    "request_protocol",
    "response_flags",
    "source_app",
    "source_canonical_revision",
    "source_canonical_service",
    "source_cluster",
    "source_principal",
    "source_version",
    "source_workload",
    "source_workload_namespace",
];

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

#[test]
fn an_independent_parser_reads_every_metric_with_istios_names_and_labels() {
    let near = PodSpec::new("shop/near").on("a");
    let mesh = shop_and_outsider().pod(near).needs("/usr/bin/python3");
    scenario(mesh, async |mesh| {
        let near = mesh.pod("shop/near");
        let _echoes = (mesh.pod("shop/server").echo(PORT)?, near.echo(PORT)?);
        let service = mesh.service("shop/server").at(Family::V4, SERVICE_PORT);
        for to in [service, near.at(Family::V4, PORT)] {
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
        }
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        let pod = mesh.pod("shop/server").at(Family::V4, PORT);
        wait::until("the outsider is refused", async || {
            mesh.pod("outside/client").failure(pod).await.is_some()
        })
        .await?;
        wait::until("both connections are over and counted", async || {
            let counted = |name| {
                let counts = ["a", "b"].map(|node| mesh.node(node).counted(name, &[]));
                counts
                    .into_iter()
                    .map(Result::unwrap_or_default)
                    .sum::<u64>()
            };
            counted("istio_tcp_connections_closed_total") >= 5
                && counted("istio_tcp_connections_failed_total") >= 1
        })
        .await?;

        let client_side = scrape(mesh, "a")?;
        let server_side = scrape(mesh, "b")?;
        for samples in [&client_side, &server_side] {
            let build = samples.iter().find(|sample| sample.name == "istio_build");
            assert!(build.is_some_and(|build| build.labels["component"] == "ztun"));
            let of_connections = samples.iter().filter(|s| s.name.starts_with("istio_tcp_"));
            for sample in of_connections {
                let labels: BTreeSet<_> = sample.labels.keys().map(String::as_str).collect();
                assert_eq!(labels, BTreeSet::from(LABELS), "{}", sample.name);
            }
        }
        // Both ends count the same bytes, from the destination's point of view.
        for (samples, reporter) in [(&client_side, "source"), (&server_side, "destination")] {
            for direction in ["sent", "received"] {
                let name = format!("istio_tcp_{direction}_bytes_total");
                let bytes = samples.iter().find(|sample| {
                    sample.name == name
                        && sample.labels["reporter"] == reporter
                        && sample.labels["connection_security_policy"] == "mutual_tls"
                });
                let bytes = bytes.with_context(|| format!("no {name} of the {reporter}"))?;
                assert!((bytes.value - 5.0).abs() < 0.1, "{bytes:?}");
                let identity = mesh.pod("shop/client").identity();
                assert_eq!(bytes.labels["source_principal"], identity);
            }
        }
        let reporters = |security: &str| {
            let mut reporters: Vec<_> = client_side
                .iter()
                .filter(|sample| sample.name == "istio_tcp_connections_opened_total")
                .filter(|sample| sample.labels["connection_security_policy"] == security)
                .map(|sample| sample.labels["reporter"].as_str())
                .collect();
            reporters.sort_unstable();
            reporters
        };
        assert_eq!(reporters("mutual_tls"), ["source"]);
        assert_eq!(reporters("same_node"), ["destination", "source"]);
        let refused = server_side.iter().find(|sample| {
            sample.name == "istio_tcp_connections_failed_total"
                && sample.labels["response_flags"] == "DENY"
        });
        let refused = refused.context("the refused connection is not there")?;
        assert_eq!(refused.labels["source_principal"], "unknown");
        assert_eq!(refused.labels["connection_security_policy"], "unknown");
        Ok(())
    });
}

fn scrape(mesh: &Mesh, node: &str) -> Result<Vec<Sample>> {
    let netns = &mesh.node(node).netns;
    let (head, body) = daemon::http_answer(netns, daemon::METRICS, "/stats/prometheus")?;
    let head = head.to_lowercase();
    ensure!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    let mut parser = Command::new("/usr/bin/python3")
        .args(["-c", PARSER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the parser")?;
    parser
        .stdin
        .take()
        .context("no way to the parser")?
        .write_all(body.as_bytes())?;
    let output = parser.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}\n{body}");
    let samples: Vec<(String, BTreeMap<String, String>, Value)> =
        serde_json::from_slice(&output.stdout)?;
    let samples = samples.into_iter().map(|(name, labels, value)| Sample {
        name,
        labels,
        value: value.as_f64().unwrap_or(f64::NAN),
    });
    Ok(samples.collect())
}
