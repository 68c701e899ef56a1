//! Both ends see each other's real address.

use anyhow::Result;
use ztun_tests::{Family, Mesh, scenario};

use crate::{PORT, SERVICE_PORT, two_nodes};

#[test]
fn the_server_sees_the_clients_address_on_the_same_node() {
    scenario(two_nodes(), async |mesh| {
        sees_client(mesh, "shop/near").await
    });
}

#[test]
fn the_server_sees_the_clients_address_on_another_node() {
    scenario(two_nodes(), async |mesh| {
        sees_client(mesh, "shop/far").await
    });
}

#[test]
fn the_client_sees_the_address_that_it_connected_to() {
    scenario(two_nodes(), async |mesh| {
        let client = mesh.pod("shop/client");
        let _echo = mesh.pod("shop/far").echo(PORT)?;
        for &family in Family::available() {
            for to in [
                mesh.pod("shop/far").at(family, PORT),
                mesh.service("shop/far").at(family, SERVICE_PORT),
            ] {
                let stream = client.connect(to).await?;
                assert_eq!(stream.peer_addr()?, to);
                let own = client.at(family, 0).ip();
                assert_eq!(stream.local_addr()?.ip(), own);
            }
        }
        Ok(())
    });
}

async fn sees_client(mesh: &Mesh, server: &str) -> Result<()> {
    let client = mesh.pod("shop/client");
    let server = mesh.pod(server);
    let _who = server.who_am_i(PORT)?;
    for &family in Family::available() {
        let seen = client.seen_by(server.at(family, PORT)).await?;
        assert_eq!(seen.ip(), client.at(family, 0).ip().to_canonical());
    }
    Ok(())
}
