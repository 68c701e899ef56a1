//! Daemons with certificates from `ztun ca`, of which each node has a replica.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use ztun::cert::EmbeddedCa;
use ztun_tests::{
    Family, Mesh, Node, PodSpec, app,
    ca::{Ca, CaPlace, TOKENS},
    scenario, wait,
};

const PORT: u16 = 8080;

#[test]
fn nodes_get_certificates_for_their_own_pods_from_replicas_of_one_ca() -> Result<()> {
    let place = CaPlace::new()?;
    EmbeddedCa::open(&place.path("signer"), "cluster.local".parse()?)?;
    let [token, _] = TOKENS;
    fs::write(place.path("token"), token)?;
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/server").on("b"))
        .setting("ca.address", json!("https://localhost:15012"))
        .setting("ca.rootFile", json!(place.path("signer/root-cert.pem")))
        .setting("ca.tokenFile", json!(place.path("token")));
    scenario(mesh, async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _cas = [
            replica(&place, mesh.node("a"))?,
            replica(&place, mesh.node("b"))?,
        ];
        for node in mesh.nodes() {
            wait::until(format_args!("node {} is ready", node.name), async || {
                node.readiness().is_ok_and(|(code, _)| code == 200)
            })
            .await?;
        }
        let echo = server.echo(PORT)?;
        let capture = mesh.capture()?;
        let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
        app::exchange(&mut stream, "hello").await?;
        let peers: Vec<_> = echo.peers().iter().map(std::net::SocketAddr::ip).collect();
        assert_eq!(peers, [stream.local_addr()?.ip()]);
        assert_eq!(capture.finish()?.packets_of_port(PORT), 0);
        assert_eq!(signed(&place, "a")?, ["client"].map(of_shop).into());
        assert_eq!(signed(&place, "b")?, ["server"].map(of_shop).into());
        Ok(())
    });
    Ok(())
}

/// On the node's loopback. The token is this node's there, and no other's.
fn replica(place: &CaPlace, node: &Node) -> Result<Ca> {
    let configuration: Value = serde_norway::from_str(&fs::read_to_string(node.configuration())?)?;
    let mesh = configuration["meshDirectory"].as_str();
    let mesh = mesh.context("the node has no mesh directory")?;
    let tokens = format!("tokens-{}", node.name);
    place.write_private(&tokens, &format!("{} {}\n", node.name, TOKENS[0]))?;
    let text = |name: &str| place.path(name).display().to_string();
    let (tokens, key, root) = (
        text(&tokens),
        text("signer/root-key.pem"),
        text("signer/root-cert.pem"),
    );
    let settings = [
        ("listen", "127.0.0.1:15012"),
        ("meshDirectory", mesh),
        ("tokenFile", &tokens),
        ("keyFile", &key),
        ("rootFile", &root),
    ];
    place.start_in(&node.netns, &node.name, &settings)
}

/// The identities in a replica's issue log.
fn signed(place: &CaPlace, name: &str) -> Result<BTreeSet<String>> {
    let log = fs::read_to_string(place.path(name).join("issued.jsonl"))?;
    log.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line)?;
            let identity = line["identity"].as_str();
            Ok(identity.context("a line without an identity")?.to_owned())
        })
        .collect()
}

fn of_shop(account: &str) -> String {
    ztun_tests::ca::identity(account).to_string()
}
