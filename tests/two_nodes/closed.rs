//! What must not get through does not, and does not fall back to clear either.

use std::net::SocketAddr;

use ztun_tests::{Family, Mesh, MtlsMode, Other, Pod, app, rogue::HBONE_PORT, two_machines};

use crate::{JUMBO, ORDINARY, PORT, shop};

const MARKER: &str = "marker-that-must-not-arrive";

#[test]
fn a_namespace_under_strict_refuses_the_other_machines_plaintext_at_mtu_1500() {
    refuses_plaintext(ORDINARY);
}

#[test]
fn a_namespace_under_strict_refuses_the_other_machines_plaintext_at_mtu_9000() {
    refuses_plaintext(JUMBO);
}

#[test]
fn connections_to_a_machine_whose_daemon_is_dead_are_refused_not_sent_in_clear() {
    let asks = async |mesh: &Mesh, other: &mut Other| {
        other.meet("the server listens").await?;
        let client = mesh.pod("shop/client");
        assert!(reaches(mesh, client, Family::V4).await);
        other.meet("the client has reached it").await?;
        other.meet("the server's daemon is dead").await?;
        let capture = mesh.capture()?;
        for family in Family::ALL {
            assert!(!reaches(mesh, client, family).await, "by {family:?}");
        }
        let recording = capture.finish()?;
        assert!(recording.packets_of_port(HBONE_PORT) > 0, "nobody tried");
        assert_eq!(recording.packets_of_port(PORT), 0);
        assert_eq!(recording.flows_with(MARKER), []);
        // Nor does anything but TLS get in.
        let outside = mesh.pod("outside/client");
        for family in Family::ALL {
            assert!(!reaches(mesh, outside, family).await, "by {family:?}");
        }
        other.meet("the client has tried").await?;
        other.meet("the server's daemon is back").await?;
        for family in Family::ALL {
            assert!(reaches(mesh, client, family).await, "by {family:?}");
        }
        other.meet("the client has reached it again").await
    };
    let answers = async |mesh: &Mesh, other: &mut Other| {
        let echo = mesh.pod("shop/server").echo(PORT)?;
        other.meet("the server listens").await?;
        other.meet("the client has reached it").await?;
        mesh.node("b").kill_daemon().await?;
        other.meet("the server's daemon is dead").await?;
        other.meet("the client has tried").await?;
        assert_eq!(echo.peers().len(), 1);
        mesh.node("b").start_daemon().await?;
        other.meet("the server's daemon is back").await?;
        other.meet("the client has reached it again").await
    };
    two_machines(shop(ORDINARY), asks, answers);
}

fn refuses_plaintext(mtu: u32) {
    let asks = async |mesh: &Mesh, other: &mut Other| {
        other.meet("the server listens").await?;
        for family in Family::ALL {
            let (inside, outside) = (mesh.pod("shop/client"), mesh.pod("outside/client"));
            assert!(!reaches(mesh, outside, family).await, "by {family:?}");
            assert!(reaches(mesh, inside, family).await, "by {family:?}");
        }
        other.meet("both have tried").await
    };
    let answers = async |mesh: &Mesh, other: &mut Other| {
        let echo = mesh.pod("shop/server").echo(PORT)?;
        other.meet("the server listens").await?;
        other.meet("both have tried").await?;
        let client = mesh.far_pod("shop/client");
        let expected = Family::ALL.map(|family| client.at(family, 0).ip().to_canonical());
        let heard: Vec<_> = echo.peers().iter().map(SocketAddr::ip).collect();
        assert_eq!(heard, expected, "those of the enrolled client alone");
        Ok(())
    };
    let mesh = shop(mtu).peer_authentication("shop", MtlsMode::Strict);
    two_machines(mesh, asks, answers);
}

/// Whether the marker comes back from the server.
async fn reaches(mesh: &Mesh, client: &Pod, family: Family) -> bool {
    let to = mesh.far_pod("shop/server").at(family, PORT);
    let Ok(mut stream) = client.connect(to).await else {
        return false;
    };
    app::exchange(&mut stream, MARKER).await.is_ok()
}
