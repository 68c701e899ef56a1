//! Envoy opens tunnels to a pod of ztun's: what it is told, and what happens to its connection.

use std::io::ErrorKind;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, time::timeout};
use ztun_tests::{Family, Mesh, app, manifest::Manifest, scenario, wait};

use super::{End, FAILED, PORT, Way, pod_and_envoy};

#[test]
fn the_application_sees_the_address_of_envoy_s_pod_and_telemetry_its_identity() {
    scenario(pod_and_envoy(), async |mesh| {
        for &family in Family::available() {
            if family == Family::V4Mapped {
                continue;
            }
            let way = End::Client.open(mesh, family).await?;
            let _server = way.server.who_am_i(PORT)?;
            let seen = way.client.seen_by(way.to(PORT)).await?;
            assert_eq!(seen.ip(), way.client.at(family, 0).ip());
            let tunnel = way.envoy.tunnel_with("flags", &json!("-")).await?;
            assert_eq!(tunnel["server"], json!(way.server.identity()));
            assert_eq!(status(&tunnel), "200");
        }
        let mutual = [
            ("reporter", "destination"),
            ("source_principal", &*mesh.pod("shop/envoy").identity()),
            ("source_workload", "envoy"),
            ("connection_security_policy", "mutual_tls"),
        ];
        let opened = "istio_tcp_connections_opened_total";
        let expected = mesh.pod("shop/pod").addresses().len() as u64;
        assert_eq!(mesh.node("b").counted(opened, &mutual)?, expected);
        Ok(())
    });
}

#[test]
fn a_denied_envoy_is_told_401_and_one_that_is_allowed_again_gets_in() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Client.open(mesh, Family::V4).await?;
        let echo = way.server.echo(PORT)?;
        let denial = denial_of(&way.client.principal());
        mesh.apply(&denial)?;
        is_refused(mesh, &way, "401", "DENY").await?;
        let before = echo.peers();
        assert!(!way.reaches().await);
        assert_eq!(echo.peers(), before);
        mesh.directory.remove(&denial)?;
        wait::until("the policy is gone", async || way.reaches().await).await
    });
}

#[test]
fn a_policy_that_comes_later_closes_the_tunnel() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Client.open(mesh, Family::V4).await?;
        let _echo = way.server.echo(PORT)?;
        let mut stream = way.client.connect(way.to(PORT)).await?;
        app::exchange(&mut stream, "hello").await?;
        mesh.apply(&denial_of(&way.client.principal()))?;
        let end = timeout(wait::PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
        let end = end.map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        Ok(())
    });
}

#[test]
fn an_envoy_is_told_503_where_nothing_listens() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Client.open(mesh, Family::V4).await?;
        is_refused(mesh, &way, "503", "CONNECT").await?;
        // It costs the connection nothing: the next tunnel goes through the same.
        let _echo = way.server.echo(PORT)?;
        assert!(way.reaches().await);
        assert_eq!(way.connections().await?, 1);
        Ok(())
    });
}

#[test]
fn a_daemon_that_ends_lets_envoy_s_tunnels_finish_and_its_successor_takes_new_ones() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Client.open(mesh, Family::V4).await?;
        let _echo = way.server.echo(PORT)?;
        let mut stream = way.client.connect(way.to(PORT)).await?;
        app::exchange(&mut stream, "before").await?;
        let node = mesh.node("b");
        node.terminate_daemon().await?;
        // Sent before what is in the tunnels ends.
        wait::until("GOAWAY has come", async || {
            let draining = way
                .envoy
                .counted("cluster.tunnels.upstream_cx_close_notify");
            draining.await.is_ok_and(|draining| draining > 0)
        })
        .await?;
        assert_eq!(
            app::exchange(&mut stream, "in between").await?,
            "in between"
        );
        drop(stream);
        node.daemon_ends().await?;
        node.start_daemon().await?;
        wait::until("new tunnels are taken", async || way.reaches().await).await?;
        assert_eq!(way.connections().await?, 2);
        Ok(())
    });
}

#[test]
fn a_daemon_that_is_killed_resets_envoy_s_tunnels_and_its_successor_takes_new_ones() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Client.open(mesh, Family::V4).await?;
        let _echo = way.server.echo(PORT)?;
        let mut stream = way.client.connect(way.to(PORT)).await?;
        app::exchange(&mut stream, "before").await?;
        mesh.node("b").kill_daemon().await?;
        let end = timeout(wait::PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
        let end = end.map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        assert!(!way.reaches().await);
        mesh.node("b").start_daemon().await?;
        wait::until("new tunnels are taken", async || way.reaches().await).await
    });
}

/// Connects until Envoy is answered with `code`, and asserts that these failures are counted with `flag`.
async fn is_refused(mesh: &Mesh, way: &Way<'_>, code: &str, flag: &str) -> Result<()> {
    wait::until(format_args!("Envoy is told {code}"), async || {
        way.reaches().await;
        let tunnels = way.envoy.tunnels();
        tunnels.iter().any(|tunnel| status(tunnel) == code)
    })
    .await?;
    let labels = [
        ("reporter", "destination"),
        ("source_principal", &*way.client.identity()),
        ("response_flags", flag),
    ];
    let node = mesh.node("b");
    wait::until(format_args!("{flag} is counted"), async || {
        node.counted(FAILED, &labels)
            .is_ok_and(|counted| counted > 0)
    })
    .await
}

/// What the server answered to Envoy's CONNECT, as Envoy has it.
fn status(tunnel: &Value) -> &str {
    let headers = tunnel["answer"]["headers"].as_array();
    let mut headers = headers.into_iter().flatten();
    let status = headers.find(|header| header["key"] == json!(":status"));
    status
        .and_then(|header| header["value"].as_str())
        .unwrap_or_default()
}

fn denial_of(principal: &str) -> Manifest {
    let source = json!({ "source": { "principals": [principal] } });
    let spec = json!({ "action": "DENY", "rules": [{ "from": [source] }] });
    Manifest::authorization_policy("shop", "no-envoy", &spec)
}
