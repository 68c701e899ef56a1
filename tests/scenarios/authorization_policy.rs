//! `AuthorizationPolicy` as it is written: who may enter, and what becomes of one that can't be taken.

use std::io::ErrorKind;

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, time::timeout};
use ztun_tests::{Family, app, manifest::Manifest, scenario, wait, wait::PATIENCE};

use crate::{PORT, exchange, shop_with_two_clients};

fn policy(spec: &Value) -> Manifest {
    Manifest::authorization_policy("shop", "server", spec)
}

/// Lets one principal enter the server's port.
fn only(principal: &str, action: &str) -> Value {
    json!({
        "selector": { "matchLabels": { "app": "server" } },
        "action": action,
        "rules": [{
            "from": [{ "source": { "principals": [principal] } }],
            "to": [{ "operation": { "ports": [PORT.to_string()] } }],
        }],
    })
}

#[test]
fn an_allow_lets_in_whom_it_names_from_far_and_near_and_nobody_else() {
    for (named, other) in [("shop/client", "shop/near"), ("shop/near", "shop/client")] {
        scenario(shop_with_two_clients(), async |mesh| {
            let _echo = mesh.pod("shop/server").echo(PORT)?;
            mesh.apply(&policy(&only(&mesh.pod(named).principal(), "ALLOW")))?;
            for refused in [other, "outside/client"] {
                wait::until("others are refused", async || {
                    exchange(mesh, refused).await.is_err()
                })
                .await?;
            }
            exchange(mesh, named).await
        });
    }
}

#[test]
fn a_deny_that_comes_later_resets_what_is_open() {
    scenario(shop_with_two_clients(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let to = mesh.pod("shop/server").at(Family::V4, PORT);
        let mut denied = mesh.pod("shop/client").connect(to).await?;
        let mut other = mesh.pod("shop/near").connect(to).await?;
        for stream in [&mut denied, &mut other] {
            assert_eq!(app::exchange(stream, "before").await?, "before");
        }
        mesh.apply(&policy(&only(&mesh.pod("shop/client").principal(), "DENY")))?;
        let end = timeout(PATIENCE, denied.read_to_end(&mut Vec::new())).await?;
        assert_eq!(
            end.map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionReset)
        );
        assert_eq!(app::exchange(&mut other, "after").await?, "after");
        Ok(())
    });
}

#[test]
fn one_that_cannot_be_taken_closes_its_target_and_says_what_is_wrong() {
    scenario(shop_with_two_clients(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let client = mesh.pod("shop/client").principal();
        mesh.apply(&policy(&only(&format!("spiffe://{client}"), "ALLOW")))?;
        for refused in ["shop/client", "shop/near", "outside/client"] {
            wait::until("the target is closed", async || {
                exchange(mesh, refused).await.is_err()
            })
            .await?;
        }
        let status = mesh.node("b").status().await?.to_string();
        for told in [
            "AuthorizationPolicy shop/server",
            "spec.rules[0].from[0].source.principals[0]",
            "principals are written without `spiffe://`",
        ] {
            assert!(status.contains(told), "{told}: {status}");
        }
        mesh.apply(&policy(&only(&client, "ALLOW")))?;
        wait::until("the policy is in force", async || {
            exchange(mesh, "shop/client").await.is_ok()
        })
        .await?;
        assert!(exchange(mesh, "shop/near").await.is_err());
        Ok(())
    });
}
