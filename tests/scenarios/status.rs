//! `ztun status`: what it says of pods, certificates and connections, as a table and as JSON.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use ztun_tests::{Enrolment, Family, Mesh, MeshBuilder, PodSpec, app, scenario};

use crate::{PORT, SERVICE_PORT, shop_and_outsider};

/// The shop, with a server beside the client.
fn shop_with_a_neighbour() -> MeshBuilder {
    shop_and_outsider().pod(PodSpec::new("shop/near").on("a"))
}

#[test]
fn every_enrolled_pod_is_captured_with_its_identity_and_addresses() {
    scenario(shop_with_a_neighbour(), async |mesh| {
        let status = mesh.node("a").status().await?;
        let pods = array(&status, "pods")?;
        assert_eq!(pods.len(), 2, "{status}");
        for (shown, path) in pods.iter().zip(["shop/client", "shop/near"]) {
            let pod = mesh.pod(path);
            assert_eq!(shown["pod"], json!(pod_name(path)), "{status}");
            assert_eq!(shown["capture"], json!({ "state": "captured" }));
            assert_eq!(shown["identity"], json!(pod.identity()));
            assert_eq!(shown["addresses"], json!([pod.v4, pod.v6]));
        }
        assert_eq!(status["notReady"], json!([]));
        Ok(())
    });
}

#[test]
fn a_pod_of_the_mesh_that_nobody_enrolled_is_shown_as_not_captured() {
    let missed = PodSpec::new("shop/missed")
        .on("a")
        .enrolment(Enrolment::Claimed);
    let elsewhere = PodSpec::new("shop/elsewhere")
        .on("b")
        .enrolment(Enrolment::Claimed);
    scenario(
        shop_and_outsider().pod(missed).pod(elsewhere),
        async |mesh| {
            let status = mesh.node("a").status().await?;
            let pods = array(&status, "pods")?;
            assert_eq!(pods.len(), 2, "{status}");
            assert_eq!(pods[1]["pod"], json!(pod_name("shop/missed")));
            assert_eq!(pods[1]["capture"]["state"], json!("notCaptured"));
            let why = pods[1]["capture"]["why"].as_str();
            assert!(
                why.is_some_and(|why| why.contains("not enrolled")),
                "{status}"
            );
            let table = table(mesh, "a").await?;
            let row = row(&table, "shop/missed")?;
            assert!(
                row.contains("NOT CAPTURED") && row.contains("not enrolled"),
                "{table}"
            );
            Ok(())
        },
    );
}

#[test]
fn certificates_are_shown_with_their_serial_and_expiry() {
    let mesh = shop_and_outsider().setting("certificateLifetime", json!("10h"));
    scenario(mesh, async |mesh| {
        let status = mesh.node("a").status().await?;
        let [certificate] = &array(&status, "certificates")?[..] else {
            panic!("not one certificate: {status}");
        };
        let identity = mesh.pod("shop/client").identity();
        assert_eq!(certificate["identity"], json!(identity));
        let serial = certificate["serial"].as_str().context("no serial")?;
        let moment = |key: &str| -> Result<OffsetDateTime> {
            let text = certificate[key]
                .as_str()
                .with_context(|| format!("no {key} in {status}"))?;
            Ok(OffsetDateTime::parse(text, &Rfc3339)?)
        };
        let left = moment("notAfter")? - OffsetDateTime::now_utc();
        assert!(
            left > Duration::hours(9) && left <= Duration::hours(10),
            "{left}"
        );
        let rotation = moment("rotatesAt")? - OffsetDateTime::now_utc();
        assert!(
            rotation > Duration::hours(4) && rotation < Duration::hours(6),
            "{rotation}"
        );
        let table = table(mesh, "a").await?;
        let row = row(&table, serial)?;
        assert!(row.contains(&identity) && row.contains("9h59m"), "{row}");
        Ok(())
    });
}

#[test]
fn connections_are_shown_with_both_identities_and_whether_they_are_encrypted() {
    scenario(shop_with_a_neighbour(), async |mesh| {
        let client = mesh.pod("shop/client");
        let (far, near, outside) = (
            mesh.pod("shop/server"),
            mesh.pod("shop/near"),
            mesh.pod("outside/client"),
        );
        let mut open = Vec::new();
        let mut echoes = Vec::new();
        for server in [far, near, outside] {
            echoes.push(server.echo(PORT)?);
            let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
            app::exchange(&mut stream, "hello").await?;
            open.push(stream);
        }
        let to_service = mesh.service("shop/server").at(Family::V4, SERVICE_PORT);
        let mut stream = client.connect(to_service).await?;
        app::exchange(&mut stream, "hello").await?;

        let status = mesh.node("a").status().await?;
        let shown = |direction: &str, server: &ztun_tests::Pod, security: &str| -> Result<Value> {
            let to = server.at(Family::V4, PORT).to_string();
            let connections = array(&status, "connections")?;
            let found = connections.iter().find(|connection| {
                connection["direction"] == direction
                    && connection["destination"]["address"] == to.as_str()
            });
            let found = found.with_context(|| format!("no {direction} to {to} in {status}"))?;
            assert_eq!(found["security"], json!(security), "{status}");
            assert_eq!(
                found["encrypted"],
                json!(security == "mutual-tls"),
                "{status}"
            );
            assert_eq!(
                found["source"]["identity"],
                json!(client.identity()),
                "{status}"
            );
            Ok(found["destination"]["identity"].clone())
        };
        assert_eq!(shown("outbound", far, "mutual-tls")?, json!(far.identity()));
        assert_eq!(
            shown("outbound", near, "same-node")?,
            json!(near.identity())
        );
        assert_eq!(shown("inbound", near, "same-node")?, json!(near.identity()));
        assert_eq!(shown("outbound", outside, "plaintext")?, Value::Null);
        let services = array(&status, "connections")?
            .iter()
            .filter_map(|c| c["service"].as_str());
        assert_eq!(
            services.collect::<Vec<_>>(),
            ["server.shop.svc.cluster.local"]
        );

        let table = table(mesh, "a").await?;
        for (server, encrypted) in [
            (far, "mutual TLS"),
            (near, "same node"),
            (outside, "plaintext"),
        ] {
            let row = row(&table, &server.at(Family::V4, PORT).to_string())?;
            assert!(
                row.contains(encrypted) && row.contains(&client.identity()),
                "{row}"
            );
        }

        drop((open, stream));
        ztun_tests::wait::until("closed connections are gone", async || {
            let status = mesh.node("a").status().await.unwrap_or_default();
            status["connections"] == json!([])
        })
        .await
    });
}

#[test]
fn what_the_kernel_took_and_refused_is_counted_by_pod() {
    scenario(shop_with_a_neighbour(), async |mesh| {
        let (client, near) = (mesh.pod("shop/client"), mesh.pod("shop/near"));
        let _echo = near.echo(PORT)?;
        let mut stream = client.connect(near.at(Family::V4, PORT)).await?;
        app::exchange(&mut stream, "hello").await?;
        let link_local = "[fe80::1%1]:80".parse()?;
        assert!(client.connect(link_local).await.is_err());

        let node = mesh.node("a");
        let of_client = |verdict| {
            let labels = [
                ("namespace", "shop"),
                ("pod", "client"),
                ("verdict", verdict),
            ];
            node.counted("ztun_kernel_verdicts_total", &labels)
        };
        assert_eq!(of_client("captured")?, 1);
        assert_eq!(of_client("refused_link_local")?, 1);
        assert_eq!(of_client("steered_outbound")?, 1);
        let status = node.status().await?;
        let shown = &array(&status, "pods")?[0]["verdicts"];
        let counts = json!({ "captured": 1, "refused_link_local": 1, "steered_outbound": 1 });
        assert_eq!(*shown, counts, "{status}");
        let table = table(mesh, "a").await?;
        let row = row(&table, "shop/client")?;
        assert!(row.contains(" 1/1 "), "{table}");
        Ok(())
    });
}

async fn table(mesh: &Mesh, node: &str) -> Result<String> {
    let output = mesh.node(node).ztun(&["status"]).await?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The first line of `table` that contains `text`.
fn row<'a>(table: &'a str, text: &str) -> Result<&'a str> {
    let line = table.lines().find(|line| line.contains(text));
    line.with_context(|| format!("{text} is not in {table}"))
}

fn array<'a>(status: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    status[key]
        .as_array()
        .with_context(|| format!("no {key} in {status}"))
}

/// `namespace/name` as the JSON has it.
fn pod_name(path: &str) -> Value {
    let (namespace, name) = path.split_once('/').unwrap_or_default();
    json!({ "namespace": namespace, "name": name })
}
