//! What the tests of dead daemons share: two nodes, and whether a pod of the one is closed, or works.

use std::io::ErrorKind;

use anyhow::{Result, ensure};
use ztun_tests::{Enrolment, Family, Mesh, MeshBuilder, Pod, PodSpec, app, wait};

use crate::PORT;

pub const MARKER: &str = "marker-of-a-daemon-that-is-gone";

/// The daemon of node `a` is the one that suffers; everybody whom its pod talks to is on node `b`.
pub fn two_nodes(pod: PodSpec) -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(pod.on("a"))
        .pod(PodSpec::new("shop/peer").on("b"))
        .pod(
            PodSpec::new("outside/peer")
                .on("b")
                .enrolment(Enrolment::Outside),
        )
}

/// Tries to get out of `pod` and into it, with a marker: nothing of it may pass or be seen on the wire.
/// Answers how many connections were tried.
pub async fn is_closed(mesh: &Mesh, pod: &Pod) -> Result<usize> {
    let peers = ["shop/peer", "outside/peer"].map(|path| mesh.pod(path));
    let (own, outside) = (pod.echo(PORT)?, peers[1].echo(PORT)?);
    let _meshed = peers[0].echo(PORT)?;
    let capture = mesh.capture()?;
    let mut tried = 0;
    for &family in Family::available() {
        for peer in peers {
            let out = exchange(pod, peer, family).await;
            ensure!(
                out == Err(ErrorKind::PermissionDenied),
                "out to {} over {family:?}: {out:?}",
                peer.path()
            );
            let into = exchange(peer, pod, family).await;
            ensure!(into.is_err(), "in from {} over {family:?}", peer.path());
            tried += 2;
        }
    }
    ensure!(
        own.peers().is_empty(),
        "its app was reached: {:?}",
        own.peers()
    );
    ensure!(
        outside.peers().is_empty(),
        "it got out: {:?}",
        outside.peers()
    );
    let in_clear = capture.finish()?.flows_with(MARKER);
    ensure!(in_clear.is_empty(), "in clear: {in_clear:?}");
    Ok(tried)
}

/// What the pod exchanges with the mesh, both ways, arrives, and is not to be seen on the wire.
pub async fn works(mesh: &Mesh, pod: &Pod) -> Result<()> {
    let peer = mesh.pod("shop/peer");
    let _echoes = (pod.echo(PORT)?, peer.echo(PORT)?);
    wait::until("the pod and its peer reach each other", async || {
        exchange(pod, peer, Family::V4).await.is_ok()
            && exchange(peer, pod, Family::V4).await.is_ok()
    })
    .await?;
    let capture = mesh.capture()?;
    for &family in Family::available() {
        for (from, to) in [(pod, peer), (peer, pod)] {
            let done = exchange(from, to, family).await;
            ensure!(done.is_ok(), "from {}: {done:?}", from.path());
        }
    }
    let recording = capture.finish()?;
    let in_clear = recording.flows_with(MARKER);
    ensure!(in_clear.is_empty(), "in clear: {in_clear:?}");
    ensure!(recording.packets_of_port(PORT) == 0, "not by the tunnel");
    Ok(())
}

/// Whether the marker comes back.
pub async fn exchange(from: &Pod, to: &Pod, family: Family) -> Result<(), ErrorKind> {
    let done = async {
        let mut stream = from.connect(to.at(family, PORT)).await?;
        app::exchange(&mut stream, MARKER).await
    };
    done.await.map(drop).map_err(|error| error.kind())
}
