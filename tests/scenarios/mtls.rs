//! `PeerAuthentication` decides whether a namespace takes plaintext.

use anyhow::Result;
use ztun_tests::{Family, Mesh, MtlsMode, app, scenario, wait};

use crate::{PORT, shop_and_outsider};

#[test]
fn a_namespace_under_permissive_takes_plaintext() {
    let mesh = shop_and_outsider().peer_authentication("shop", MtlsMode::Permissive);
    scenario(mesh, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        for family in Family::ALL {
            exchange(mesh, "outside/client", family).await?;
            exchange(mesh, "shop/client", family).await?;
        }
        Ok(())
    });
}

#[test]
fn a_namespace_under_strict_refuses_plaintext() {
    let mesh = shop_and_outsider().peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let echo = mesh.pod("shop/server").echo(PORT)?;
        for family in Family::ALL {
            let outside = exchange(mesh, "outside/client", family).await;
            assert!(outside.is_err(), "{family:?} got through");
        }
        assert_eq!(echo.peers(), [], "the server heard of refused clients");
        for family in Family::ALL {
            exchange(mesh, "shop/client", family).await?;
        }
        Ok(())
    });
}

#[test]
fn a_change_to_strict_takes_effect_without_a_restart() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        exchange(mesh, "outside/client", Family::V4).await?;
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        wait::until("plaintext is refused", async || {
            exchange(mesh, "outside/client", Family::V4).await.is_err()
        })
        .await?;
        exchange(mesh, "shop/client", Family::V4).await?;
        mesh.set_mtls("shop", MtlsMode::Permissive)?;
        wait::until("plaintext is taken again", async || {
            exchange(mesh, "outside/client", Family::V4).await.is_ok()
        })
        .await
    });
}

async fn exchange(mesh: &Mesh, client: &str, family: Family) -> Result<()> {
    let to = mesh.pod("shop/server").at(family, PORT);
    let mut stream = mesh.pod(client).connect(to).await?;
    assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
    Ok(())
}
