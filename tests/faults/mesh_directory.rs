//! Input that makes no sense is named in the log, and the rest goes on.

use anyhow::Result;
use serde_json::json;
use ztun_tests::{Family, Mesh, MtlsMode, manifest::Manifest, scenario, wait};

use crate::{PORT, reaches, shop_and_outsider};

#[test]
fn a_file_that_is_not_yaml_is_named_and_the_rest_goes_on() {
    scenario(shop_and_outsider(), async |mesh| {
        mesh.directory.write("broken.yaml", "kind: [unclosed\n")?;
        is_logged(mesh, "broken.yaml").await?;
        let metrics = mesh.node("a").metrics()?;
        for line in ["ztun_source_rejected_total 1", "ztun_source_problems 1"] {
            assert!(metrics.lines().any(|shown| shown == line), "{metrics}");
        }
        still_works(mesh).await
    });
}

#[test]
fn a_field_of_the_wrong_type_is_named_and_the_rest_goes_on() {
    scenario(shop_and_outsider(), async |mesh| {
        mesh.apply(&Manifest::new(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "nonsense", "namespace": "shop" },
            "spec": { "clusterIP": "10.96.7.7", "ports": "eighty" },
        })))?;
        is_logged(mesh, "service-shop-nonsense.yaml").await?;
        still_works(mesh).await
    });
}

#[test]
fn an_unknown_kind_changes_nothing() {
    scenario(shop_and_outsider(), async |mesh| {
        mesh.apply(&Manifest::new(json!({
            "apiVersion": "example.com/v1",
            "kind": "Gadget",
            "metadata": { "name": "gadget", "namespace": "shop" },
        })))?;
        // Read after the gadget, so that it has been read when this takes effect.
        still_follows_changes(mesh).await
    });
}

#[test]
fn a_pod_without_an_address_changes_nothing() {
    scenario(shop_and_outsider(), async |mesh| {
        mesh.apply(&pod("pending", "a", &json!({ "phase": "Pending" })))?;
        still_follows_changes(mesh).await
    });
}

#[test]
fn two_pods_with_one_address_are_named_and_the_rest_goes_on() {
    scenario(shop_and_outsider(), async |mesh| {
        let address = mesh.pod("outside/client").v4;
        for name in ["twin-one", "twin-two"] {
            let status = json!({ "phase": "Running", "podIPs": [{ "ip": address }] });
            mesh.apply(&pod(name, "a", &status))?;
        }
        is_logged(mesh, &address.to_string()).await?;
        still_works(mesh).await
    });
}

#[test]
fn a_policy_that_became_unreadable_stays_in_force() {
    let mesh = shop_and_outsider().peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let server = mesh.pod("shop/server");
        let outside = mesh.pod("outside/client");
        let echo = server.echo(PORT)?;
        assert!(!reaches(outside, server, Family::V4).await);
        let file = "peerauthentication-shop-default.yaml";
        mesh.directory.write(file, "kind: [unclosed\n")?;
        is_logged(mesh, file).await?;
        assert!(!reaches(outside, server, Family::V4).await);
        assert_eq!(echo.peers(), []);
        drop(echo);
        still_works(mesh).await
    });
}

fn pod(name: &str, node: &str, status: &serde_json::Value) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": name },
        "spec": { "nodeName": node, "containers": [{ "name": "app", "image": "app" }] },
        "status": status,
    }))
}

async fn is_logged(mesh: &Mesh, text: &str) -> Result<()> {
    wait::until(format_args!("{text} is in the log"), async || {
        mesh.nodes().iter().all(|node| node.log().contains(text))
    })
    .await
}

async fn still_works(mesh: &Mesh) -> Result<()> {
    let server = mesh.pod("shop/server");
    let _echo = server.echo(PORT)?;
    for family in Family::ALL {
        assert!(reaches(mesh.pod("shop/client"), server, family).await);
    }
    Ok(())
}

async fn still_follows_changes(mesh: &Mesh) -> Result<()> {
    let server = mesh.pod("shop/server");
    let outside = mesh.pod("outside/client");
    let echo = server.echo(PORT)?;
    assert!(reaches(outside, server, Family::V4).await);
    mesh.set_mtls("shop", MtlsMode::Strict)?;
    wait::until("the change takes effect", async || {
        !reaches(outside, server, Family::V4).await
    })
    .await?;
    drop(echo);
    still_works(mesh).await
}
