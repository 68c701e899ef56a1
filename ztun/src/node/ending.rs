//! How a daemon ends: by a signal, or because another one has taken over. Then it finishes what is
//! open.

use std::{io, sync::Arc, sync::atomic::Ordering, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    endpoints::SocketFiles,
    handover::{HandedOver, HandoverServer, Heritage},
    records::StateLock,
};
use crate::{config::Timeouts, proxy::Proxy};

/// How often a drain tells how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// The signals that end a daemon.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Tasks that end when this is dropped.
#[derive(Debug, Default)]
pub struct Tasks(Vec<AbortOnDropHandle<()>>);

/// A daemon that serves.
#[derive(Debug)]
pub struct Running {
    pub proxy: Arc<Proxy>,
    pub heritage: Arc<Heritage>,
    pub handover: Arc<HandoverServer>,
    pub files: SocketFiles,
    /// The lock of the records, while they are this daemon's.
    pub lock: StateLock,
    /// What answers requests and changes what is captured.
    pub tasks: Tasks,
}

impl Signals {
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| -> io::Result<Signal> { signal(kind) };
        Ok(Self {
            terminate: listen(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: listen(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Tasks {
    pub fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        let task = tokio::task::spawn_local(task);
        self.0.push(AbortOnDropHandle::new(task));
    }
}

impl Running {
    /// Serves until a signal or a successor, and then until what is open has ended.
    pub async fn run(self, signals: &mut Signals, timeouts: &Timeouts) {
        let proxy = self.proxy.clone();
        // One for all: a successor may commit at the moment of a signal.
        let successors = self.handover.clone().serve(self.heritage.clone());
        tokio::pin!(successors);
        let successor = tokio::select! {
            () = signals.next() => None,
            successor = &mut successors => Some(successor),
        };
        proxy.stop_accepting();
        self.heritage.pods.stop_following();
        if let Some(successor) = successor {
            self.let_go(successor).await;
            // Whoever sends a signal to the former daemon wants it gone sooner.
            drain(&proxy, &[timeouts.handover_drain, timeouts.drain], signals).await;
            tracing::info!("ended; another daemon has this node");
            return;
        }
        self.heritage
            .readiness
            .draining
            .store(true, Ordering::Relaxed);
        let limits = [timeouts.drain];
        let drain = drain(&proxy, &limits, signals);
        tokio::pin!(drain);
        tokio::select! {
            () = &mut drain => {}
            // The next daemon need not wait for the end of this one.
            successor = &mut successors => {
                self.let_go(successor).await;
                drain.await;
                tracing::info!("ended; another daemon has this node");
                return;
            }
        }
        tracing::info!("ended; enrolled pods stay closed until the next start");
    }

    /// Leaves everything but what is open to a successor.
    async fn let_go(self, successor: HandedOver) {
        let Self {
            proxy,
            heritage,
            handover,
            files,
            lock,
            tasks,
        } = self;
        files.hand_over();
        drop((tasks, heritage, handover, lock));
        tracing::info!(
            to = successor.to,
            connections = proxy.connections().len(),
            "handed over: finishing what is open"
        );
        successor.done().await;
    }
}

/// Lets open connections end. A signal makes the next limit count, and after the last one ends it.
async fn drain(proxy: &Proxy, limits: &[Duration], signals: &mut Signals) {
    for limit in limits {
        let connections = proxy.connections().len();
        tracing::info!(?limit, connections, "draining");
        tokio::select! {
            () = proxy.drain(*limit) => return,
            () = progress(proxy) => {}
            () = signals.next() => {}
        }
    }
    tracing::warn!("another signal: ending without waiting for the drain");
}

/// Never returns.
async fn progress(proxy: &Proxy) {
    let mut ticks = interval(PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        tracing::info!(connections = proxy.connections().len(), "still draining");
    }
}
