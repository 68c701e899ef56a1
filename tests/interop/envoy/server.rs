//! A pod of ztun's opens tunnels to Envoy: what it makes of Envoy's answers, and of its connections.

use std::io::ErrorKind;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use ztun_tests::{
    Family, Mesh, app,
    envoy::{Envoy, HboneServer, Upstream},
    scenario,
};

use super::{PORT, is_refused, pod_and_envoy};

async fn start(mesh: &Mesh, server: HboneServer) -> Result<Envoy> {
    server.start(mesh, mesh.pod("shop/envoy")).await
}

fn server_for(mesh: &Mesh, upstream: Upstream) -> HboneServer {
    HboneServer::from(&mesh.pod("shop/pod").identity(), upstream)
}

#[test]
fn envoy_sees_the_identity_the_target_and_who_asks() {
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, server) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let _echo = server.echo(PORT)?;
        for family in [Family::V4, Family::V6] {
            for upstream in [Upstream::Direct, Upstream::Internal] {
                let envoy = start(mesh, server_for(mesh, upstream)).await?;
                let to = server.at(family, PORT);
                let mut stream = pod.connect(to).await?;
                assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
                drop(stream);
                let authority = json!(to.to_string());
                let tunnel = envoy.tunnel_with("authority", &authority).await?;
                assert_eq!(tunnel["status"], 200);
                assert_eq!(tunnel["client"], json!(pod.identity()));
                let text = |field: &str| tunnel[field].as_str().unwrap_or_default().to_owned();
                assert!(text("baggage").contains("k8s.namespace.name=shop,k8s.pod.name=pod"));
                let own = pod.at(family, 0).ip();
                let forwarded = text("forwarded").replace(['"', '[', ']'], "");
                assert_eq!(forwarded, format!("for={own}"));
                // W3C Trace Context: version, trace, parent, flags.
                let trace = text("traceparent");
                let lengths: Vec<_> = trace.split('-').map(str::len).collect();
                assert_eq!(lengths, [2, 32, 16, 2]);
            }
        }
        Ok(())
    });
}

#[test]
fn a_denial_by_envoy_s_policy_resets_the_application_and_is_named() {
    scenario(pod_and_envoy(), async |mesh| {
        let pod = mesh.pod("shop/pod");
        let echo = mesh.pod("shop/envoy").echo(PORT)?;
        let server = server_for(mesh, Upstream::Direct).deny(&pod.identity());
        let envoy = start(mesh, server).await?;
        is_refused(mesh, "its policy denied it (403)", "DENY").await?;
        assert_eq!(echo.peers(), []);
        envoy.tunnel_with("status", &json!(403)).await?;
        Ok(())
    });
}

#[test]
fn a_503_of_envoy_s_resets_the_application_and_is_named() {
    scenario(pod_and_envoy(), async |mesh| {
        let envoy = start(mesh, server_for(mesh, Upstream::Direct)).await?;
        is_refused(mesh, "refused the tunnel with status 503", "CONNECT").await?;
        envoy.tunnel_with("status", &json!(503)).await?;
        Ok(())
    });
}

#[test]
fn connections_that_envoy_retires_cost_no_tunnel() {
    const TUNNELS: usize = 30;
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, server) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let _echo = server.echo(PORT)?;
        let retiring = server_for(mesh, Upstream::Direct).tunnels_per_connection(3);
        let envoy = start(mesh, retiring).await?;
        let mut open = Vec::new();
        for number in 0..TUNNELS {
            let mut stream = pod.connect(server.at(Family::V4, PORT)).await?;
            let text = format!("tunnel {number}");
            assert_eq!(app::exchange(&mut stream, &text).await?, text);
            open.push(stream);
        }
        // Those in a connection that was told to go away go on.
        for stream in &mut open {
            assert_eq!(app::exchange(stream, "still").await?, "still");
        }
        let connections = envoy.counted("http.hbone.downstream_cx_total").await?;
        ensure!(connections >= TUNNELS as u64 / 3, "{connections}");
        Ok(())
    });
}

#[test]
fn envoy_s_limit_of_tunnels_at_once_is_kept() {
    const TUNNELS: usize = 40;
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, server) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let _echo = server.echo(PORT)?;
        let narrow = server_for(mesh, Upstream::Direct).tunnels_at_once(10);
        let envoy = start(mesh, narrow).await?;
        let open = (0..TUNNELS).map(async |number| {
            let mut stream = pod.connect(server.at(Family::V4, PORT)).await?;
            let text = format!("tunnel {number}");
            let answer = app::exchange(&mut stream, &text).await?;
            ensure!(answer == text, "{answer}");
            Ok(stream)
        });
        let open = try_join_all(open).await?;
        let connections = envoy.counted("http.hbone.downstream_cx_total").await?;
        ensure!(connections >= 4, "{connections}");
        drop(open);
        Ok(())
    });
}

#[test]
fn an_envoy_that_dies_resets_its_tunnels_and_its_successor_is_found() {
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, server) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let _echo = server.echo(PORT)?;
        let to = server.at(Family::V4, PORT);
        let envoy = start(mesh, server_for(mesh, Upstream::Direct)).await?;
        let mut stream = pod.connect(to).await?;
        app::exchange(&mut stream, "before").await?;
        envoy.kill().await?;
        let end = app::exchange(&mut stream, "after").await;
        assert_eq!(
            end.map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionReset)
        );
        // Never in clear, though the application itself would answer.
        assert_eq!(pod.failure(to).await, Some(ErrorKind::ConnectionReset));
        let _envoy = start(mesh, server_for(mesh, Upstream::Direct)).await?;
        let mut stream = pod.connect(to).await?;
        assert_eq!(app::exchange(&mut stream, "again").await?, "again");
        Ok(())
    });
}
