//! `PeerAuthentication` decides whether a namespace takes plaintext.

use std::io::ErrorKind;

use tokio::{io::AsyncReadExt, time::timeout};
use ztun_tests::{Family, MtlsMode, app, scenario, wait, wait::PATIENCE};

use crate::{PORT, exchange_over, shop_and_outsider};

#[test]
fn a_namespace_under_permissive_takes_plaintext() {
    let mesh = shop_and_outsider().peer_authentication("shop", MtlsMode::Permissive);
    scenario(mesh, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        for &family in Family::available() {
            exchange_over(mesh, "outside/client", family).await?;
            exchange_over(mesh, "shop/client", family).await?;
        }
        Ok(())
    });
}

#[test]
fn a_namespace_under_strict_refuses_plaintext() {
    let mesh = shop_and_outsider().peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let echo = mesh.pod("shop/server").echo(PORT)?;
        for &family in Family::available() {
            let outside = exchange_over(mesh, "outside/client", family).await;
            assert!(outside.is_err(), "{family:?} got through");
        }
        assert_eq!(echo.peers(), [], "the server heard of refused clients");
        let denied = [("reporter", "destination"), ("response_flags", "DENY")];
        let node = mesh.node("b");
        // A client is reset before that is counted.
        let attempts = Family::available().len() as u64;
        wait::until("every one is counted", async || {
            let counted = node.counted("istio_tcp_connections_failed_total", &denied);
            counted.is_ok_and(|counted| counted == attempts)
        })
        .await?;
        wait::until("the log says why", async || node.log().contains("STRICT")).await?;
        for &family in Family::available() {
            exchange_over(mesh, "shop/client", family).await?;
        }
        Ok(())
    });
}

#[test]
fn a_change_to_strict_takes_effect_without_a_restart() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        exchange_over(mesh, "outside/client", Family::V4).await?;
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        wait::until("plaintext is refused", async || {
            exchange_over(mesh, "outside/client", Family::V4)
                .await
                .is_err()
        })
        .await?;
        exchange_over(mesh, "shop/client", Family::V4).await?;
        mesh.set_mtls("shop", MtlsMode::Permissive)?;
        wait::until("plaintext is taken again", async || {
            exchange_over(mesh, "outside/client", Family::V4)
                .await
                .is_ok()
        })
        .await
    });
}

#[test]
fn a_change_to_strict_resets_the_plaintext_connections_that_are_open() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let to = mesh.pod("shop/server").at(Family::V4, PORT);
        let mut plaintext = mesh.pod("outside/client").connect(to).await?;
        let mut encrypted = mesh.pod("shop/client").connect(to).await?;
        for stream in [&mut plaintext, &mut encrypted] {
            assert_eq!(app::exchange(stream, "before").await?, "before");
        }
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        let end = timeout(PATIENCE, plaintext.read_to_end(&mut Vec::new())).await?;
        assert_eq!(
            end.map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionReset)
        );
        assert_eq!(app::exchange(&mut encrypted, "after").await?, "after");
        wait::until("the log says why", async || {
            mesh.node("b").log().contains("no longer allowed")
        })
        .await
    });
}
