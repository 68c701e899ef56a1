//! A daemon that is started beside a running one takes over: nothing new is lost, and what is open goes on.

use std::{env, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use ztun_tests::{Family, Mesh, app, scenario, wait::PATIENCE};

use crate::{PORT, shop_and_outsider};

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
