//! Much data between the machines.

use std::io;

use anyhow::Context;
use tokio::{net::TcpStream, sync::mpsc};
use ztun_tests::{Family, Mesh, Other, bulk::Bulk, two_machines};

use crate::{JUMBO, ORDINARY, PORT, shop};

const UP: Bulk = Bulk::new(1, 4 << 20);
const DOWN: Bulk = Bulk::new(2, 4 << 20);
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn megabytes_arrive_intact_both_ways_at_mtu_1500() {
    carries_much(ORDINARY);
}

#[test]
fn megabytes_arrive_intact_both_ways_at_mtu_9000() {
    carries_much(JUMBO);
}

/// Both directions at once, over each family.
fn carries_much(mtu: u32) {
    let asks = async |mesh: &Mesh, other: &mut Other| {
        other.meet("the server listens").await?;
        for family in FAMILIES {
            let to = mesh.far_pod("shop/server").at(family, PORT);
            let stream = mesh.pod("shop/client").connect(to).await?;
            assert_eq!(UP.swap(stream).await?, DOWN.checksum(), "{family:?}");
        }
        other.meet("everything was sent").await
    };
    let answers = async |mesh: &Mesh, other: &mut Other| {
        let (received, mut checksums) = mpsc::channel(FAMILIES.len());
        let serve = move |stream: TcpStream, _| {
            let received = received.clone();
            async move {
                let checksum = DOWN.swap(stream).await?;
                received.send(checksum).await.map_err(io::Error::other)
            }
        };
        let _server = mesh.pod("shop/server").serve(PORT, serve)?;
        other.meet("the server listens").await?;
        other.meet("everything was sent").await?;
        for family in FAMILIES {
            let checksum = checksums.recv().await.context("the server has ended")?;
            assert_eq!(checksum, UP.checksum(), "{family:?}");
        }
        Ok(())
    };
    two_machines(shop(mtu), asks, answers);
}
