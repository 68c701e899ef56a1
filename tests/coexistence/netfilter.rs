//! Rules of nftables that a pod's network namespace has already.

use std::{io::ErrorKind, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt, time::timeout};
use ztun_tests::{Family, Mesh, MeshBuilder, app, pod::Pod, scenario};

use crate::{MARKER, PORT, SERVICE_PORT, shop_to_enrol, talks_encrypted};

/// Connections out of the pod to this port are redirected to `LOCAL_PORT` of the pod.
const REDIRECTED_PORT: u16 = 5555;
const LOCAL_PORT: u16 = 6666;
/// Connections out of the pod to this port are dropped.
const DROPPED_PORT: u16 = 7777;
/// Connections from outside to this port are dropped.
const CLOSED_PORT: u16 = 9999;
/// Connections from outside to this port are redirected to `PORT`.
const ALIAS_PORT: u16 = 8888;

const RULES: &str = "
table inet theirs {
    chain redirected {
        type nat hook output priority -100;
        tcp dport 5555 redirect to :6666
    }
    chain aliases {
        type nat hook prerouting priority -100;
        iifname \"eth0\" tcp dport 8888 redirect to :8080
    }
    chain leaving {
        type nat hook postrouting priority 100;
        oifname \"eth0\" masquerade
    }
    chain egress {
        type filter hook output priority 0;
        tcp dport 7777 drop
    }
    chain ingress {
        type filter hook input priority 0;
        iifname \"eth0\" tcp dport 9999 drop
    }
}
";

/// Long after a packet on this machine would have arrived.
const SILENCE: Duration = Duration::from_millis(300);

fn with_rules() -> MeshBuilder {
    shop_to_enrol().needs("nft")
}

#[test]
fn a_pod_with_rules_of_its_own_is_captured() {
    scenario(with_rules(), async |mesh| {
        let client = mesh.pod("shop/client");
        nft(client, &["-f", "-"], RULES).await?;
        mesh.enrol("shop/client").await?;
        talks_encrypted(mesh, &Family::ALL).await
    });
}

#[test]
fn the_rules_go_on_working_and_stay() {
    scenario(with_rules(), async |mesh| {
        let client = mesh.pod("shop/client");
        nft(client, &["-f", "-"], RULES).await?;
        let rules = nft(client, &["list", "ruleset"], "").await?;
        ensure!(rules.contains("theirs"), "nft took no rules: {rules}");
        for enrolled in [false, true, false] {
            if enrolled {
                mesh.enrol("shop/client").await?;
            } else if client.is_enrolled() {
                mesh.unenrol("shop/client").await?;
            }
            rules_work(mesh)
                .await
                .with_context(|| format!("enrolled: {enrolled}"))?;
        }
        assert_eq!(nft(client, &["list", "ruleset"], "").await?, rules);
        Ok(())
    });
}

#[test]
fn what_a_rule_sends_elsewhere_is_captured_on_its_way_there() {
    scenario(with_rules(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let echo = server.echo(PORT)?;
        // Addresses that nobody has.
        let (v4, v6) = ("192.0.2.10", "2001:db8::10");
        let rules = format!(
            "table inet theirs {{
                chain elsewhere {{
                    type nat hook output priority -100;
                    ip daddr {v4} tcp dport {SERVICE_PORT} dnat ip to {}
                    ip6 daddr {v6} tcp dport {SERVICE_PORT} dnat ip6 to {}
                }}
            }}",
            server.at(Family::V4, PORT),
            server.at(Family::V6, PORT),
        );
        nft(client, &["-f", "-"], &rules).await?;
        mesh.enrol("shop/client").await?;
        let capture = mesh.capture()?;
        for address in [v4, v6] {
            talks(client, SocketAddr::new(address.parse()?, SERVICE_PORT)).await?;
        }
        let clients: Vec<_> = echo.peers().iter().map(SocketAddr::ip).collect();
        assert_eq!(clients, client.addresses());
        let recording = capture.finish()?;
        assert_eq!(recording.packets_of_port(PORT), 0);
        assert_eq!(recording.flows_with(MARKER), []);
        Ok(())
    });
}

async fn rules_work(mesh: &Mesh) -> Result<()> {
    let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
    let outside = mesh.pod("outside/client");
    let local = client.echo(LOCAL_PORT)?;
    let _alias = client.echo(PORT)?;
    let _closed = client.echo(CLOSED_PORT)?;
    let dropped = outside.echo(DROPPED_PORT)?;
    for family in Family::ALL {
        // Whoever listens there, the redirected connection arrives in the pod itself.
        talks(client, server.at(family, REDIRECTED_PORT)).await?;
        talks(outside, client.at(family, ALIAS_PORT)).await?;
        for (from, to) in [
            (client, outside.at(family, DROPPED_PORT)),
            (outside, client.at(family, CLOSED_PORT)),
        ] {
            ensure!(is_dropped(from, to).await, "{to} answered");
        }
    }
    assert_eq!(local.peers().len(), Family::ALL.len());
    assert_eq!(dropped.peers(), []);
    Ok(())
}

async fn talks(from: &Pod, to: SocketAddr) -> Result<()> {
    let talk = async {
        let mut stream = from.connect(to).await?;
        app::exchange(&mut stream, MARKER).await
    };
    let answer = talk.await.with_context(|| format!("connect to {to}"))?;
    ensure!(answer == MARKER);
    Ok(())
}

async fn is_dropped(from: &Pod, to: SocketAddr) -> bool {
    match timeout(SILENCE, from.connect(to)).await {
        Err(_) => true,
        Ok(answer) => answer.is_err_and(|error| error.kind() == ErrorKind::TimedOut),
    }
}

/// Runs nft in the pod; answers what it printed.
async fn nft(pod: &Pod, arguments: &[&str], input: &str) -> Result<String> {
    let mut process = pod
        .command("nft")?
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = process.stdin.take().context("no standard input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = process.wait_with_output().await?;
    ensure!(output.status.success(), "nft: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
