//! The harness itself: what it builds works without daemons, its capture can find what it looks for, and
//! it leaves nothing behind.
#![allow(clippy::unwrap_used)]

mod cleanup;
mod network;

use ztun_tests::{Mesh, MeshBuilder, PodSpec};

/// A client on one node, and a server beside it and on another.
fn two_nodes() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/near").on("a"))
        .pod(PodSpec::new("shop/far").on("b"))
}
