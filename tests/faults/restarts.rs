//! Pods that come back under the same name, and addresses that change hands.

use std::{fs, net::SocketAddr, slice};

use anyhow::Result;
use serde_json::json;
use ztun_tests::{
    Enrolment, Family, Mesh, PodSpec, app, cni::CniCommand, manifest::Manifest, mesh::Uid, run,
    scenario, wait,
};

use crate::{PORT, reaches, shop_and_outsider};

#[test]
fn a_pod_that_comes_back_under_its_name_outlives_the_late_del_of_the_former() {
    comes_back(Uid::New);
}

#[test]
fn a_pod_that_gets_another_sandbox_outlives_the_late_del_of_the_former() {
    comes_back(Uid::Kept);
}

fn comes_back(uid: Uid) {
    scenario(shop_and_outsider(), async |mesh| {
        let former = mesh.replace_pod("shop/server", uid).await?;
        let server = mesh.pod("shop/server");
        mesh.apply(&mesh.manifest_of("shop/server"))?;
        mesh.cni(CniCommand::Add, server).await?;
        if uid == Uid::New {
            // The former runs on, closed: nothing gets in or out in clear.
            let outside = mesh.pod("outside/client");
            let _apps = (former.echo(PORT)?, outside.echo(PORT)?);
            assert!(!reaches(outside, &former, Family::V4).await);
            assert!(!reaches(&former, outside, Family::V4).await);
        }
        mesh.cni(CniCommand::Del, &former).await?;
        mesh.cni(CniCommand::Check, server).await?;
        let echo = server.echo(PORT)?;
        wait::until("the client reaches the successor", async || {
            reaches(mesh.pod("shop/client"), server, Family::V4).await
        })
        .await?;
        assert_eq!(
            echo.peers().last().map(SocketAddr::ip),
            Some(mesh.pod("shop/client").v4.into())
        );
        assert_eq!(pinned(mesh, "b")?, slice::from_ref(&server.uid));
        Ok(())
    });
}

#[test]
fn a_former_sandbox_that_is_never_deleted_is_forgotten_when_its_namespace_is_gone() {
    scenario(shop_and_outsider(), async |mesh| {
        let former = mesh.replace_pod("shop/server", Uid::New).await?;
        let server = mesh.pod("shop/server");
        mesh.apply(&mesh.manifest_of("shop/server"))?;
        mesh.cni(CniCommand::Add, server).await?;
        run::remove_netns(former.netns.path())?;
        drop(former);
        wait::until("nothing is pinned for it", async || {
            pinned(mesh, "b").is_ok_and(|pods| pods == slice::from_ref(&server.uid))
        })
        .await
    });
}

#[test]
fn an_address_that_passes_to_another_pod_leads_to_that_one() {
    scenario(shop_and_outsider(), async |mesh| {
        address_passes_on(mesh, "shop/server", async |mesh| {
            mesh.remove_pod("shop/server").await
        })
        .await
    });
}

#[test]
fn an_address_that_passes_on_without_a_word_to_the_daemon_leads_to_its_new_pod() {
    scenario(shop_and_outsider(), async |mesh| {
        address_passes_on(mesh, "shop/server", async |mesh| {
            mesh.lose_pod("shop/server").await
        })
        .await
    });
}

#[test]
fn an_address_that_passed_on_leads_nowhere_for_who_still_takes_it_for_the_former_pods() {
    let mesh = shop_and_outsider().setting("timeouts.meshState", json!("1s"));
    scenario(mesh, async |mesh| {
        let former = mesh.pod("shop/server");
        let (addresses, manifest) = ((former.v4, former.v6), mesh.manifest_of("shop/server"));
        let _former_echo = former.echo(PORT)?;
        let to = former.at(Family::V4, PORT);
        let mut pooled = mesh.pod("shop/client").connect(to).await?;
        app::exchange(&mut pooled, "hello").await?;
        mesh.remove_pod("shop/server").await?;

        // The mesh directory still says that the address is the former's.
        let spec = PodSpec::new("shop/heir")
            .on("b")
            .enrolment(Enrolment::Enrolled);
        mesh.add_pod_at(spec, addresses).await?;
        let (client, heir) = (mesh.pod("shop/client"), mesh.pod("shop/heir"));
        mesh.cni(CniCommand::Add, heir).await?;
        let echo = heir.echo(PORT)?;
        for family in [Family::V4, Family::V6] {
            assert!(!reaches(client, heir, family).await, "{family:?}");
        }
        assert_eq!(echo.peers(), []);

        mesh.directory.remove(&manifest)?;
        mesh.apply(&Manifest::service_account("shop", "heir"))?;
        mesh.apply(&mesh.manifest_of("shop/heir"))?;
        wait::until("the heir is reached", async || {
            reaches(client, heir, Family::V4).await
        })
        .await
    });
}

/// Takes a pod away, gives its addresses to one with another identity, and expects to reach that one.
async fn address_passes_on(
    mesh: &mut Mesh,
    path: &str,
    take_away: impl AsyncFnOnce(&mut Mesh) -> Result<()>,
) -> Result<()> {
    let former = mesh.pod(path);
    let (addresses, manifest) = ((former.v4, former.v6), mesh.manifest_of(path));
    let echo = former.echo(PORT)?;
    // One that stays open keeps a tunnel connection in the client's pool.
    let mut open = mesh
        .pod("shop/client")
        .connect(former.at(Family::V4, PORT))
        .await?;
    app::exchange(&mut open, "hello").await?;
    drop(echo);
    take_away(mesh).await?;
    mesh.directory.remove(&manifest)?;

    let spec = PodSpec::new("shop/heir")
        .on("b")
        .enrolment(Enrolment::Enrolled);
    mesh.add_pod_at(spec, addresses).await?;
    let heir = mesh.pod("shop/heir");
    mesh.apply(&Manifest::service_account("shop", "heir"))?;
    mesh.apply(&mesh.manifest_of("shop/heir"))?;
    mesh.cni(CniCommand::Add, heir).await?;
    let echo = heir.echo(PORT)?;
    let client = mesh.pod("shop/client");
    for family in [Family::V4, Family::V6] {
        wait::until("the heir is reached", async || {
            reaches(client, heir, family).await
        })
        .await?;
    }
    assert_eq!(
        echo.peers().last().map(SocketAddr::ip),
        Some(client.v6.into())
    );
    let mut stream = client.connect(heir.at(Family::V4, PORT)).await?;
    app::exchange(&mut stream, "hello").await?;
    let status = mesh.node("a").status().await?;
    let to = heir.at(Family::V4, PORT).to_string();
    let connections = status["connections"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let identities: Vec<_> = connections
        .iter()
        .filter(|connection| connection["destination"]["address"] == to.as_str())
        .map(|connection| &connection["destination"]["identity"])
        .collect();
    assert!(identities.contains(&&json!(heir.identity())), "{status}");
    Ok(())
}

/// The UIDs of the pods that a node has pins of.
fn pinned(mesh: &Mesh, node: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(mesh.node(node).pins.join("v1"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}
