//! Pods reach each other, and a capture between the nodes sees it.

use std::{fs, io::ErrorKind, net::IpAddr};

use anyhow::Result;
use ztun_tests::{
    Family, PodSpec, Users, app,
    capture::Recording,
    netlink::{DeadEnd, Netlink},
    pod::Pod,
    topology, wait,
};

use crate::two_nodes;

const MARKER: &str = "marker-of-the-harness-in-clear";

#[test]
fn pods_on_one_node_and_on_two_reach_each_other_over_every_family() {
    topology(two_nodes(), async |mesh| {
        let client = mesh.pod("shop/client");
        for server in ["shop/near", "shop/far"] {
            let server = mesh.pod(server);
            let echo = server.echo(8080)?;
            for family in Family::ALL {
                let mut stream = client.connect(server.at(family, 8080)).await?;
                assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
                let local = app::canonical(stream.local_addr()?);
                assert_eq!(echo.peers().last(), Some(&local));
            }
        }
        Ok(())
    });
}

#[test]
fn a_capture_between_the_nodes_finds_a_marker_in_clear() {
    topology(two_nodes(), async |mesh| {
        let capture = mesh.capture()?;
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        send(client, far, Family::V4).await?;
        send(client, far, Family::V6).await?;
        let recording = capture.finish()?;
        let there_and_back = 2;
        assert_eq!(
            recording.flows_with(MARKER).len(),
            2 * there_and_back,
            "{recording:?}"
        );
        assert!(recording.packets_of_port(8080) > 0);
        assert_eq!(recording.packets_of_port(15008), 0);
        Ok(())
    });
}

#[test]
fn a_capture_between_the_nodes_sees_nothing_of_what_stays_on_a_node() {
    topology(two_nodes(), async |mesh| {
        let capture = mesh.capture()?;
        send(mesh.pod("shop/client"), mesh.pod("shop/near"), Family::V4).await?;
        let recording: Recording = capture.finish()?;
        assert_eq!(recording.flows_with(MARKER), []);
        Ok(())
    });
}

#[test]
fn programs_in_a_pod_have_its_addresses_and_its_cgroup() {
    topology(two_nodes().needs("curl"), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        let _who = far.who_am_i(8080)?;
        let output = client
            .command("curl")?
            .args(["--silent", "--http0.9", "--max-time", "10"])
            .arg(format!("http://{}:8080", far.v4))
            .output()
            .await?;
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let peer: std::net::SocketAddr = answer.parse()?;
        assert_eq!(peer.ip(), IpAddr::V4(client.v4));

        let mut sleep = client.command("sleep")?.arg("60").spawn()?;
        let pid = sleep.id().unwrap_or_default();
        wait::until("the program is in the pod's cgroup", async || {
            let members = fs::read_to_string(client.cgroup.path().join("cgroup.procs"));
            members.is_ok_and(|members| members.lines().any(|line| line == pid.to_string()))
        })
        .await?;
        sleep.kill().await?;
        Ok(())
    });
}

#[test]
fn root_of_a_pod_with_its_own_users_rules_its_network_and_is_nobody_on_the_machine() {
    let mesh = two_nodes().pod(PodSpec::new("shop/own").on("a").users(Users::Own));
    topology(mesh, async |mesh| {
        let pod = mesh.pod("shop/own");
        let root = Netlink::of_pod(pod)?;
        root.add_dead_end(mesh.pod("shop/far").v4.into(), DeadEnd::Unreachable)
            .await?;
        assert_ne!(pod.user()?, mesh.pod("shop/far").user()?);
        let to = mesh.pod("shop/far").at(Family::V4, 8080);
        let refused = pod.connect(to).await.map_err(|error| error.kind());
        assert_eq!(refused.map(drop), Err(ErrorKind::HostUnreachable));
        Ok(())
    });
}

#[test]
fn icmp_and_udp_sockets_of_a_pod_work() {
    topology(two_nodes(), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        let server = far.udp(far.at(Family::V6, 5353))?;
        let socket = client.udp(client.at(Family::V6, 0))?;
        socket
            .send_to(b"question", far.at(Family::V6, 5353))
            .await?;
        let mut datagram = [0; 64];
        let (length, from) = server.recv_from(&mut datagram).await?;
        assert_eq!(&datagram[..length], b"question");
        assert_eq!(from, socket.local_addr()?);

        for address in [far.v4.into(), far.v6.into()] {
            app::ping(client, address).await?;
        }
        Ok(())
    });
}

async fn send(client: &Pod, server: &Pod, family: Family) -> Result<()> {
    let _echo = server.echo(8080)?;
    let mut stream = client.connect(server.at(family, 8080)).await?;
    assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
    Ok(())
}
