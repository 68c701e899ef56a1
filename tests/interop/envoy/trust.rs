//! Who is taken for whom: both ends check exactly the SPIFFE ID, in TLS 1.3, with either key exchange.

use ztun_tests::{
    Family, app,
    envoy::{Groups, HboneClient, HboneServer, Upstream},
    scenario, wait,
};

use super::{PORT, client_of, forwarded, is_refused, pod_and_envoy, reaches};

const STRANGER: &str = "spiffe://cluster.local/ns/shop/sa/stranger";

#[test]
fn both_key_exchanges_are_agreed_on_from_envoy() {
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, peer) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let _echo = pod.echo(PORT)?;
        for (groups, curve) in [
            (Groups::Default, "X25519MLKEM768"),
            (Groups::Classical, "X25519"),
            (Groups::Hybrid, "X25519MLKEM768"),
        ] {
            let client = client_of(pod, Family::V4).groups(groups);
            let envoy = client.start(mesh, peer).await?;
            let mut stream = peer.connect(forwarded(PORT)).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            let curves = format!("cluster.tunnels.ssl.curves.{curve}");
            assert_eq!(envoy.counted(&curves).await?, 1, "{groups:?}");
            assert_eq!(
                envoy
                    .counted("cluster.tunnels.ssl.versions.TLSv1.3")
                    .await?,
                1
            );
        }
        Ok(())
    });
}

#[test]
fn both_key_exchanges_are_agreed_on_to_envoy() {
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, peer) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let _echo = peer.echo(PORT)?;
        for (groups, curve) in [
            (Groups::Default, "X25519MLKEM768"),
            (Groups::Classical, "X25519"),
            (Groups::Hybrid, "X25519MLKEM768"),
        ] {
            let server = HboneServer::from(&pod.identity(), Upstream::Direct).groups(groups);
            let envoy = server.start(mesh, peer).await?;
            let mut stream = pod.connect(peer.at(Family::V4, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            assert_eq!(
                envoy.counted(&format!("ssl.curves.{curve}")).await?,
                1,
                "{groups:?}"
            );
            assert_eq!(envoy.counted("ssl.versions.TLSv1.3").await?, 1);
            envoy.kill().await?;
        }
        Ok(())
    });
}

#[test]
fn an_envoy_that_expects_another_server_takes_no_tunnel_to_this_one() {
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, peer) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let echo = pod.echo(PORT)?;
        let client = HboneClient::towards(STRANGER);
        let client = client.forward(forwarded(PORT).port(), pod.at(Family::V4, PORT));
        let envoy = client.start(mesh, peer).await?;
        assert!(!reaches(peer, forwarded(PORT)).await);
        assert_eq!(echo.peers(), []);
        assert_eq!(
            envoy.counted("cluster.tunnels.ssl.fail_verify_san").await?,
            1
        );
        let node = mesh.node("b");
        wait::until("the refusal is counted", async || {
            let labels = [("reason", "Tls")];
            let counted = node.counted("ztun_connections_refused_total", &labels);
            counted.is_ok_and(|counted| counted == 1)
        })
        .await
    });
}

#[test]
fn an_envoy_that_expects_another_client_resets_the_application() {
    scenario(pod_and_envoy(), async |mesh| {
        let peer = mesh.pod("shop/envoy");
        let echo = peer.echo(PORT)?;
        let server = HboneServer::from(STRANGER, Upstream::Direct);
        let envoy = server.start(mesh, peer).await?;
        is_refused(mesh, "the peer refused the handshake", "TLS_FAILURE").await?;
        assert_eq!(echo.peers(), []);
        assert_eq!(envoy.counted("ssl.fail_verify_san").await?, 1);
        Ok(())
    });
}

#[test]
fn an_envoy_with_another_identity_than_the_mesh_gives_its_pod_gets_no_tunnel() {
    scenario(pod_and_envoy(), async |mesh| {
        let (pod, peer) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        let echo = peer.echo(PORT)?;
        let server = HboneServer::from(&pod.identity(), Upstream::Direct).identity(STRANGER);
        let envoy = server.start(mesh, peer).await?;
        let reason = format!("is of {STRANGER}, expected {}", peer.identity());
        is_refused(mesh, &reason, "IDENTITY_ERROR").await?;
        assert_eq!(echo.peers(), []);
        assert_eq!(envoy.counted("http.hbone.downstream_rq_total").await?, 0);
        Ok(())
    });
}
