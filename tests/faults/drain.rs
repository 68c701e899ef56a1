//! Draining, and peers that are gone: new streams move to other connections, and no stream is lost for it.

use std::fs;

use anyhow::{Result, bail, ensure};
use ztun_tests::{Family, Pod, app, rogue::HBONE_PORT, scenario};

use crate::{PORT, shop_and_outsider};

#[test]
fn peers_move_new_streams_away_from_a_daemon_that_drains() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let mut open = client.connect(server.at(Family::V4, PORT)).await?;
        assert_eq!(app::exchange(&mut open, "before").await?, "before");
        let node = mesh.node("b");
        node.upgrade_daemon().await?;
        // More than one connection's worth of chances to take the old one.
        let mut later = Vec::new();
        for _ in 0..20 {
            let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, "after").await?, "after");
            later.push(stream);
        }
        assert_eq!(app::exchange(&mut open, "still").await?, "still");
        assert_eq!(node.former_daemons().await, 1);
        // It carried nothing but the first stream: it ends with that, and the others go on.
        drop(open);
        node.former_daemons_end().await?;
        for stream in &mut later {
            assert_eq!(app::exchange(stream, "still").await?, "still");
        }
        assert!(node.log().contains("draining"), "{}", node.log());
        Ok(())
    });
}

#[test]
fn a_dead_tunnel_connection_is_noticed_while_a_stream_waits_for_it() {
    scenario(shop_and_outsider().needs("nft"), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let mut open = client.connect(server.at(Family::V4, PORT)).await?;
        assert_eq!(app::exchange(&mut open, "before").await?, "before");
        // As if the peer's node had died and come back: nothing of this connection arrives.
        let ports = tunnel_ports(client)?;
        let &[port] = &ports[..] else {
            bail!("the pod has tunnel connections from {ports:?}");
        };
        lose(client, port).await?;
        // Without a word from the peer, the stream would wait for its answer longer than this
        // connection does.
        let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
        assert_eq!(app::exchange(&mut stream, "after").await?, "after");
        assert!(tunnel_ports(client)?.iter().any(|&other| other != port));
        Ok(())
    });
}

/// The local ports of the pod's tunnel connections.
fn tunnel_ports(pod: &Pod) -> Result<Vec<u16>> {
    let sockets = pod.netns.run(|| {
        ["tcp", "tcp6"].map(|table| {
            fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default()
        })
    })?;
    let port = |end: &str| u16::from_str_radix(end.rsplit(':').next()?, 16).ok();
    let tunnels = sockets
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
            (port(remote) == Some(HBONE_PORT) && state == "01").then(|| port(local))?
        });
    Ok(tunnels.collect())
}

/// Drops what the pod sends from this port.
async fn lose(pod: &Pod, port: u16) -> Result<()> {
    let rules = format!(
        "add table inet lost; \
         add chain inet lost output {{ type filter hook output priority 0; }}; \
         add rule inet lost output tcp sport {port} tcp dport {HBONE_PORT} drop"
    );
    let status = pod.command("nft")?.arg(rules).status().await?;
    ensure!(status.success(), "nft: {status}");
    Ok(())
}
