//! However a daemon dies, its pods are closed, what was open ends in a reset on both sides, and the next daemon
//! goes on without a word from anybody. While it hangs, what is new waits.

use std::{
    fs,
    io::ErrorKind,
    os::unix::process::ExitStatusExt,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet, time::timeout};
use ztun_tests::{
    Family, Mesh, Node, Pod, PodSpec,
    app::{self, App},
    scenario,
    scenario::skip,
    wait::{self, PATIENCE},
};

use crate::{
    PORT,
    closed::{MARKER, is_closed, two_nodes, works},
};

const STREAM_PORT: u16 = 8090;
/// Of each kind, while a daemon hangs.
const WAITING: usize = 10;
/// Longer than any of them needs where nothing stops it.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

#[test]
fn a_daemon_that_is_killed_leaves_its_pods_closed() {
    dies(async |node: &Node| node.kill_daemon().await.map(|()| true));
}

#[test]
fn a_daemon_that_crashes_leaves_its_pods_closed() {
    dies(async |node: &Node| {
        // Rust's handler lets the first one pass, for the fault to happen again without a handler.
        node.signal_daemon(Signal::SIGSEGV).await?;
        let pid = node.daemon_pid().await?;
        wait::until("the handler is gone", async || {
            !handles(pid, Signal::SIGSEGV)
        })
        .await?;
        let status = node.crash_daemon(Signal::SIGSEGV).await?;
        assert_eq!(status.signal(), Some(Signal::SIGSEGV as i32), "{status}");
        Ok(true)
    });
}

#[test]
fn a_daemon_that_runs_out_of_memory_leaves_its_pods_closed() {
    dies(Node::starve_daemon);
}

#[test]
fn connections_wait_for_a_daemon_that_hangs_and_nothing_passes_it() {
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        let (pod, peer) = (mesh.pod("shop/pod"), mesh.pod("shop/peer"));
        let outside = mesh.pod("outside/peer");
        let echoes = [pod, peer, outside].map(|it| it.echo(PORT));
        let [own, meshed, outer] = echoes;
        let (own, meshed, outer) = (own?, meshed?, outer?);
        let mut open = pod.connect(peer.at(Family::V4, PORT)).await?;
        app::exchange(&mut open, MARKER).await?;
        let before = meshed.peers().len();

        let node = mesh.node("a");
        node.signal_daemon(Signal::SIGSTOP).await?;
        let capture = mesh.capture()?;
        let mut waiting = JoinSet::new();
        for number in 0..WAITING {
            let families = Family::available();
            let family = families[number % families.len()];
            for (from, to) in [(pod, peer), (peer, pod), (pod, outside)] {
                let stream = from.tcp_socket(to.at(family, PORT))?;
                let to = to.at(family, PORT);
                waiting.spawn(async move {
                    let mut stream = stream.connect(to).await?;
                    app::exchange(&mut stream, MARKER).await
                });
            }
        }
        // Nothing tells when something has not happened.
        tokio::time::sleep(LONG_ENOUGH).await;
        let passed = [
            own.peers().len(),
            meshed.peers().len() - before,
            outer.peers().len(),
        ];
        assert_eq!(passed, [0; 3], "connections that a hanging daemon let pass");
        assert!(waiting.try_join_next().is_none(), "one did not wait");
        assert_eq!(capture.finish()?.flows_with(MARKER), []);

        node.signal_daemon(Signal::SIGCONT).await?;
        let count = waiting.len();
        while let Some(done) = waiting.join_next().await {
            assert_eq!(done??, MARKER);
        }
        assert_eq!(app::exchange(&mut open, MARKER).await?, MARKER);
        println!("{count} connections waited, 0 passed, all went on");
        works_after(mesh, (own, meshed, outer)).await
    });
}

async fn works_after(mesh: &Mesh, echoes: (App, App, App)) -> Result<()> {
    drop(echoes);
    works(mesh, mesh.pod("shop/pod")).await
}

/// Whether the process has a handler for the signal.
fn handles(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// `die` answers `false` if that death can't be had here.
fn dies(die: impl AsyncFnOnce(&Node) -> Result<bool>) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        let (pod, peer) = (mesh.pod("shop/pod"), mesh.pod("shop/peer"));
        let node = mesh.node("a");
        let out = Stream::open(pod, peer).await.context("out of the pod")?;
        let into = Stream::open(peer, pod).await.context("into the pod")?;
        if !die(node).await? {
            skip(&test, "no memory controller");
            return Ok(());
        }
        for (stream, direction) in [(out, "out of"), (into, "into")] {
            stream.ends_in_resets().await.context(direction)?;
        }
        let tried = is_closed(mesh, pod).await?;
        node.start_daemon().await?;
        works(mesh, pod).await?;
        println!("2 streams reset on both sides, {tried} connections tried, 0 bytes in clear");
        Ok(())
    });
}

/// One that is open, with data on its way.
struct Stream {
    client: TcpStream,
    _server: App,
    /// How the server's end ended.
    ended: Arc<Mutex<Option<Result<(), ErrorKind>>>>,
}

impl Stream {
    async fn open(from: &Pod, to: &Pod) -> Result<Self> {
        let ended = Arc::<Mutex<_>>::default();
        let seen = Arc::clone(&ended);
        let server = to.serve(STREAM_PORT, move |mut stream: TcpStream, _| {
            let seen = Arc::clone(&seen);
            async move {
                let (mut read, mut write) = stream.split();
                let end = tokio::io::copy(&mut read, &mut write).await;
                let end = end.map(drop).map_err(|error| error.kind());
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
                Ok(())
            }
        })?;
        let mut client = from.connect(to.at(Family::V4, STREAM_PORT)).await?;
        app::exchange(&mut client, MARKER).await?;
        Ok(Self {
            client,
            _server: server,
            ended,
        })
    }

    async fn ends_in_resets(mut self) -> Result<()> {
        let end = timeout(PATIENCE, self.client.read_to_end(&mut Vec::new())).await?;
        let end = end.map(drop).map_err(|error| error.kind());
        ensure!(end == Err(ErrorKind::ConnectionReset), "client: {end:?}");
        let ended = || *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        wait::until("the server's end has ended", async || ended().is_some()).await?;
        let end = ended();
        ensure!(
            end == Some(Err(ErrorKind::ConnectionReset)),
            "server: {end:?}"
        );
        Ok(())
    }
}
