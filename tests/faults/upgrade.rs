//! A daemon that is started beside a running one takes over: nothing new is lost, and what is open goes on.

use std::{
    env, fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::{
    signal::Signal,
    socket::{MsgFlags, recv, send},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use ztun_tests::{
    Family, Mesh, Node, PodSpec, app, bulk::Bulk, cni::CniCommand, daemon, run, scenario, wait,
    wait::PATIENCE,
};

use crate::{PORT, reaches, shop_and_outsider};

/// Of the hand-over's messages.
const PROTOCOL: u32 = 1;
/// Takes longer than an upgrade.
const BULK: usize = 64 << 20;
/// `ZTUN_TEST_UPGRADES` and `ZTUN_TEST_RATE` make it longer and harder: 100 and 500 are the promise.
const UPGRADES: u32 = 10;
const RATE: u32 = 200;

#[test]
fn an_upgrade_loses_no_new_connection() {
    scenario(shop_and_outsider(), async |mesh| {
        let upgrades = number("ZTUN_TEST_UPGRADES", UPGRADES)?;
        let rate = number("ZTUN_TEST_RATE", RATE)?;
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mesh = &*mesh;
        let (running, stop) = watch::channel(());
        let upgrading = async {
            let _running = running;
            for number in 0..upgrades {
                let node = ["a", "b"][number as usize % 2];
                mesh.node(node).upgrade_daemon().await?;
            }
            anyhow::Ok(())
        };
        let (upgraded, (counts, clear)) = tokio::join!(upgrading, async {
            tokio::join!(
                load(mesh, "shop/client", rate, &stop),
                load(mesh, "outside/client", rate / 4, &stop)
            )
        });
        upgraded?;
        let (counts, clear) = (counts?, clear?);
        println!("{upgrades} upgrades: in tunnels {counts:?}, in clear {clear:?}");
        assert_eq!((counts.failed, clear.failed), (0, 0), "{:?}", counts.errors);
        assert!(counts.succeeded > upgrades, "{counts:?}");
        for node in mesh.nodes() {
            node.former_daemons_end().await?;
        }
        Ok(())
    });
}

#[test]
fn open_connections_outlive_upgrades_of_both_ends() {
    scenario(shop_and_outsider(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let mut streams = Vec::new();
        for client in ["shop/client", "outside/client"] {
            for &family in Family::available() {
                streams.push(mesh.pod(client).connect(server.at(family, PORT)).await?);
            }
        }
        for stream in &mut streams {
            assert_eq!(app::exchange(stream, "before").await?, "before");
        }
        for _ in 0..2 {
            for node in mesh.nodes() {
                node.upgrade_daemon().await?;
            }
            for stream in &mut streams {
                assert_eq!(app::exchange(stream, "after").await?, "after");
            }
        }
        assert!(mesh.node("a").former_daemons().await > 0);
        assert!(mesh.node("b").former_daemons().await > 0);
        for mut stream in streams {
            stream.shutdown().await?;
            assert_eq!(stream.read_to_end(&mut Vec::new()).await?, 0);
        }
        for node in mesh.nodes() {
            node.former_daemons_end().await?;
        }
        Ok(())
    });
}

#[test]
fn data_in_flight_outlives_upgrades() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mesh = &*mesh;
        let bulk = Bulk::new(7, BULK);
        let swap = async |client: &str| {
            let to = mesh.pod("shop/server").at(Family::V4, PORT);
            let stream = mesh.pod(client).connect(to).await?;
            anyhow::Ok(bulk.swap(stream).await?)
        };
        let mut upgrades = 0;
        let upgrading = async {
            loop {
                for node in mesh.nodes() {
                    node.upgrade_daemon().await?;
                    upgrades += 1;
                }
            }
        };
        let swapped = tokio::select! {
            swapped = async { tokio::try_join!(swap("shop/client"), swap("outside/client")) } => swapped?,
            failed = upgrading => return failed,
        };
        assert_eq!(swapped, (bulk.checksum(), bulk.checksum()));
        assert!(upgrades >= 2, "the data was through before an upgrade");
        for node in mesh.nodes() {
            node.former_daemons_end().await?;
        }
        Ok(())
    });
}

#[test]
fn an_upgrade_that_brings_other_kernel_programs_loses_no_new_connection() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mesh = &*mesh;
        let (running, stop) = watch::channel(());
        let upgrading = async {
            let _running = running;
            for node in mesh.nodes() {
                let generations = forget_programs(mesh, &node.name)?;
                node.upgrade_daemon().await?;
                assert!(generations.iter().all(|it| !it.exists()), "{generations:?}");
            }
            anyhow::Ok(())
        };
        let (upgraded, counts) = tokio::join!(upgrading, load(mesh, "shop/client", RATE, &stop));
        upgraded?;
        let counts = counts?;
        assert_eq!(counts.failed, 0, "{:?}", counts.errors);
        assert!(counts.succeeded > 0);
        Ok(())
    });
}

#[test]
fn pods_are_enrolled_and_released_while_daemons_take_over() {
    let mesh = shop_and_outsider()
        .pod(PodSpec::new("shop/other").on("a"))
        .pod(PodSpec::new("shop/another").on("a"));
    scenario(mesh, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mesh = &*mesh;
        let (mut rounds, is_over) = (0, AtomicBool::new(false));
        let upgrading = async {
            for _ in 0..UPGRADES {
                mesh.node("a").upgrade_daemon().await?;
            }
            is_over.store(true, Ordering::Relaxed);
            anyhow::Ok(())
        };
        let other = mesh.pod("shop/other");
        let changing = async {
            while !is_over.load(Ordering::Relaxed) {
                mesh.cni(CniCommand::Del, other).await?;
                mesh.cni(CniCommand::Add, other).await?;
                rounds += 1;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(upgrading, changing)?;
        assert!(rounds > 0);
        mesh.cni(CniCommand::Check, other).await?;
        for client in ["shop/client", "shop/other", "shop/another"] {
            let (client, server) = (mesh.pod(client), mesh.pod("shop/server"));
            assert!(
                reaches(client, server, Family::V4).await,
                "{}",
                client.path()
            );
        }
        Ok(())
    });
}

#[test]
fn a_daemon_that_drains_leaves_its_node_to_the_next_at_once() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let mut open = client.connect(server.at(Family::V4, PORT)).await?;
        assert_eq!(app::exchange(&mut open, "before").await?, "before");
        let node = mesh.node("a");
        node.terminate_daemon().await?;
        wait::until("the daemon drains", async || {
            node.readiness().is_ok_and(|(code, _)| code == 503)
        })
        .await?;
        node.upgrade_daemon().await?;
        assert!(reaches(client, server, Family::V4).await);
        assert_eq!(app::exchange(&mut open, "after").await?, "after");
        assert_eq!(node.former_daemons().await, 1);
        drop(open);
        node.former_daemons_end().await
    });
}

#[test]
fn a_successor_that_dies_before_it_commits_leaves_the_running_daemon_serving() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let node = mesh.node("a");
        let first = node.daemon_pid().await?;
        let successor = Successor::ask(node, PROTOCOL)?;
        assert_eq!(successor.answer()?["message"], "node");
        // While one takes over, another one can't, and says so.
        let second = Successor::ask(node, PROTOCOL)?.answer()?;
        let reason = second["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("another daemon is taking over"), "{second}");
        assert!(reaches(client, server, Family::V4).await);
        drop(successor);

        assert!(reaches(client, server, Family::V4).await);
        mesh.cni(CniCommand::Check, client).await?;
        assert_eq!(node.daemon_pid().await?, first);
        node.upgrade_daemon().await?;
        assert!(reaches(client, server, Family::V4).await);
        node.former_daemons_end().await
    });
}

#[test]
fn a_successor_that_understands_another_layout_is_refused() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let answer = Successor::ask(mesh.node("a"), PROTOCOL + 1)?.answer()?;
        assert_eq!(answer["message"], "refused");
        let reason = answer["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("end the running one first"), "{answer}");
        assert!(reaches(client, server, Family::V4).await);
        Ok(())
    });
}

#[test]
fn a_successor_that_is_killed_at_any_moment_does_no_lasting_harm() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let node = mesh.node("a");
        let mut took_over = 0;
        for step in 0..8 {
            let successor = node.another_daemon()?;
            sleep(Duration::from_millis(step * 25)).await;
            let pid = successor.pid()?.as_raw();
            let is_its = daemon::listener_at(&node.handover_socket())? == pid;
            successor.signal(Signal::SIGKILL)?;
            drop(successor);
            if is_its {
                // As after any crash: closed, until the next start.
                took_over += 1;
                node.daemon_ends().await?;
                node.start_daemon().await?;
            }
            wait::until(
                format_args!("step {step}: connections are carried"),
                async || {
                    if node.daemon_pid().await.is_err() || node.readiness().is_err() {
                        // It committed after we looked.
                        let _ = node.daemon_ends().await;
                        let _ = node.start_daemon().await;
                    }
                    reaches(client, server, Family::V4).await
                },
            )
            .await?;
        }
        println!("killed 8 successors, {took_over} of them after they had taken over");
        Ok(())
    });
}

#[test]
fn a_daemon_that_hangs_is_replaced() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let node = mesh.node("a");
        let hung = nix::unistd::Pid::from_raw(node.daemon_pid().await?);
        nix::sys::signal::kill(hung, Signal::SIGSTOP)?;
        node.upgrade_daemon().await?;
        assert!(
            node.log().contains("the running daemon hangs"),
            "{}",
            node.log()
        );
        assert_eq!(node.former_daemons().await, 0);
        assert!(reaches(client, server, Family::V4).await);
        Ok(())
    });
}

/// A successor that goes no further than the test wants.
struct Successor(OwnedFd);

impl Successor {
    fn ask(node: &Node, protocol: u32) -> Result<Self> {
        let socket = daemon::connect_at(&node.handover_socket())?;
        let message = json!({
            "message": "takeOver",
            "protocol": protocol,
            "version": "test",
            "netns": node.netns.file().metadata()?.ino(),
        });
        let text = message.to_string();
        send(socket.as_raw_fd(), text.as_bytes(), MsgFlags::empty())?;
        Ok(Self(socket))
    }

    /// The next message. Its descriptors are lost.
    fn answer(&self) -> Result<Value> {
        let mut text = vec![0; 64 << 10];
        let length = recv(self.0.as_raw_fd(), &mut text, MsgFlags::empty())?;
        Ok(serde_json::from_slice(&text[..length])?)
    }
}

/// Makes what is captured look as if another version's programs did it; answers where it is pinned.
fn forget_programs(mesh: &Mesh, node: &str) -> Result<Vec<PathBuf>> {
    let pods = Path::new(run::BPFFS)
        .join(format!("{}{node}", mesh.name()))
        .join("v1");
    let mut generations = Vec::new();
    for pod in fs::read_dir(pods)? {
        for generation in fs::read_dir(pod?.path())? {
            let generation = generation?.path();
            for entry in fs::read_dir(&generation)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir(entry.path())?;
                }
            }
            generations.push(generation);
        }
    }
    Ok(generations)
}

/// What became of connections.
#[derive(Debug, Default)]
struct Counts {
    succeeded: u32,
    failed: u32,
    errors: Vec<String>,
}

/// Opens `rate` connections a second from `client` to the echo server, each for one exchange, until
/// it is stopped; every one of them has to end well.
async fn load(mesh: &Mesh, client: &str, rate: u32, stop: &watch::Receiver<()>) -> Result<Counts> {
    let (client, server) = (mesh.pod(client), mesh.pod("shop/server"));
    let mut stop = stop.clone();
    let mut connections = tokio::task::JoinSet::new();
    let mut counts = Counts::default();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            biased;
            // Nothing is ever sent: an error is the end.
            _ = stop.changed() => break,
            Some(outcome) = connections.join_next() => counts.add(outcome?),
            _ = ticks.tick() => {
                let to = server.at(Family::V4, PORT);
                let socket = client.tcp_socket(to)?;
                connections.spawn(async move { once(socket.connect(to).await?).await });
            }
        }
    }
    while let Some(outcome) = connections.join_next().await {
        counts.add(outcome?);
    }
    Ok(counts)
}

/// One exchange, and an end in order.
async fn once(mut stream: TcpStream) -> Result<()> {
    let exchange = async {
        ensure!(app::exchange(&mut stream, "hello").await? == "hello");
        stream.shutdown().await?;
        ensure!(stream.read_to_end(&mut Vec::new()).await? == 0);
        Ok(())
    };
    timeout(PATIENCE, exchange).await.context("it hangs")?
}

impl Counts {
    fn add(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.succeeded += 1,
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < 5 {
                    self.errors.push(format!("{error:#}"));
                }
            }
        }
    }
}

fn number(variable: &str, default: u32) -> Result<u32> {
    match env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is {text}")),
        Err(_) => Ok(default),
    }
}
