//! Input that makes no sense is named in the log, and the rest goes on.

use std::{fs, io, path::Path};

use anyhow::{Context, Result};
use serde_json::json;
use ztun_tests::{Family, Mesh, MtlsMode, effort, manifest::Manifest, scenario, wait};

use crate::{PORT, reaches, shop_and_outsider};

/// How often a file becomes bad and good again.
const FLAPS: usize = 50;

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

#[test]
fn a_directory_that_is_emptied_or_taken_away_leaves_the_mesh_as_it_was() {
    scenario(shop_and_outsider(), async |mesh| {
        let root = mesh.directory.path().to_owned();
        let aside = root.with_extension("aside");
        let take_away: [fn(&Path, &Path) -> io::Result<()>; 2] = [
            // As an empty directory that is mounted over it.
            |root, aside| fs::rename(root, aside).and_then(|()| fs::create_dir(root)),
            |root, aside| fs::rename(root, aside),
        ];
        for take_away in take_away {
            take_away(&root, &aside)?;
            for node in mesh.nodes() {
                wait::until("its status tells of it", async || {
                    let status = node.status().await.unwrap_or_default();
                    let problems = status["mesh"]["problems"].to_string();
                    problems.contains("the last state stays in force")
                })
                .await?;
                let problems = node.metrics()?;
                assert!(problems.contains("ztun_source_problems 1"), "{problems}");
            }
            let before = as_of(mesh)?;
            still_works(mesh).await?;
            let workloads = &mesh.node("a").status().await?["mesh"]["workloads"];
            assert_eq!(workloads, &json!(2));

            if root.exists() {
                fs::remove_dir(&root)?;
            }
            fs::rename(&aside, &root)?;
            wait::until("its state is confirmed again", async || {
                as_of(mesh).is_ok_and(|now| now > before)
            })
            .await?;
            let status = mesh.node("a").status().await?;
            assert_eq!(status["mesh"]["problems"], json!([]), "{status}");
        }
        still_follows_changes(mesh).await
    });
}

#[test]
fn a_directory_whose_last_file_is_empty_empties_the_mesh() {
    scenario(shop_and_outsider(), async |mesh| {
        mesh.directory.write("empty.yaml", "")?;
        for entry in fs::read_dir(mesh.directory.path())? {
            let path = entry?.path();
            if !path.ends_with("empty.yaml") {
                fs::remove_file(path)?;
            }
        }
        let node = mesh.node("a");
        wait::until("the mesh is empty", async || {
            let status = node.status().await.unwrap_or_default();
            status["mesh"]["workloads"] == json!(0)
        })
        .await
    });
}

#[test]
fn a_directory_that_flaps_between_good_and_bad_costs_no_connection() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let echo = server.echo(PORT)?;
        let good = mesh.manifest_of("shop/server");
        let mut served = 0;
        for _ in 0..effort::times(FLAPS) {
            mesh.directory
                .write("pod-shop-server.yaml", "kind: [unclosed\n")?;
            for family in Family::ALL {
                assert!(reaches(client, server, family).await);
                served += 1;
            }
            mesh.apply(&good)?;
        }
        println!("{served} connections while the directory flapped, 0 failed");
        drop(echo);
        still_follows_changes(mesh).await
    });
}

/// When the node `a` last knew its state to be that of the directory, in seconds since 1970.
fn as_of(mesh: &Mesh) -> Result<u64> {
    const NAME: &str = "ztun_source_last_success_timestamp_seconds ";
    let metrics = mesh.node("a").metrics()?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(NAME));
    Ok(value.context("no such metric")?.parse()?)
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
