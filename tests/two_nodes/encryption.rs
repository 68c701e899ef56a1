//! Nothing crosses the link in clear, and the check of it can fail.

use anyhow::Result;
use ztun_tests::{Family, Mesh, Other, app, capture::Recording, rogue::HBONE_PORT, two_machines};

use crate::{JUMBO, ORDINARY, PORT, shop};

const MARKER: &str = "marker-between-two-machines-in-clear;";

#[test]
fn a_marker_between_enrolled_pods_never_crosses_in_clear_at_mtu_1500() {
    crosses_encrypted(ORDINARY);
}

#[test]
fn a_marker_between_enrolled_pods_never_crosses_in_clear_at_mtu_9000() {
    crosses_encrypted(JUMBO);
}

#[test]
fn the_same_marker_between_pods_outside_crosses_in_clear_at_mtu_1500() {
    crosses_in_clear(ORDINARY);
}

#[test]
fn the_same_marker_between_pods_outside_crosses_in_clear_at_mtu_9000() {
    crosses_in_clear(JUMBO);
}

fn crosses_encrypted(mtu: u32) {
    records(mtu, "shop/client", "shop/server", |recording| {
        assert_eq!(recording.flows_with(MARKER), []);
        assert_eq!(recording.packets_of_port(PORT), 0);
        assert!(recording.packets_of_port(HBONE_PORT) > 0);
    });
}

fn crosses_in_clear(mtu: u32) {
    records(mtu, "outside/client", "outside/server", |recording| {
        let there_and_back = 2;
        let flows = Family::ALL.len() * there_and_back;
        assert_eq!(recording.flows_with(MARKER).len(), flows);
        assert_eq!(recording.packets_of_port(HBONE_PORT), 0);
    });
}

/// Records at each machine's card how a letter goes there and back over every family, in frames of that size.
fn records(mtu: u32, client: &str, server: &str, check: impl Fn(&Recording)) {
    let letter = MARKER.repeat(1000);
    let asks = async |mesh: &Mesh, other: &mut Other| {
        let capture = mesh.capture()?;
        other.meet("the server listens").await?;
        for family in Family::ALL {
            let to = mesh.far_pod(server).at(family, PORT);
            let mut stream = mesh.pod(client).connect(to).await?;
            let answer = app::exchange(&mut stream, &letter).await?;
            assert_eq!(answer, letter);
        }
        other.meet("the letters are back").await?;
        let recording = capture.finish()?;
        check(&recording);
        uses_long_frames(&recording, mesh, client, mtu)
    };
    let answers = async |mesh: &Mesh, other: &mut Other| {
        let capture = mesh.capture()?;
        let _echo = mesh.pod(server).echo(PORT)?;
        other.meet("the server listens").await?;
        other.meet("the letters are back").await?;
        let recording = capture.finish()?;
        check(&recording);
        uses_long_frames(&recording, mesh, server, mtu)
    };
    two_machines(shop(mtu), asks, answers);
}

/// What the pod sent over each family came near to the MTU, and never exceeded it.
fn uses_long_frames(recording: &Recording, mesh: &Mesh, pod: &str, mtu: u32) -> Result<()> {
    let mtu = usize::try_from(mtu)?;
    for family in [Family::V4, Family::V6] {
        let sender = mesh.pod(pod).at(family, 0).ip();
        let longest = recording.longest_packet_from(sender);
        assert!(
            (mtu / 2..=mtu).contains(&longest),
            "{longest} bytes from {sender} at MTU {mtu}"
        );
    }
    Ok(())
}
