//! `ztun ca`: a CA for meshes without Istio's. Nodes ask it as they ask istiod.

pub mod authentication;
pub mod issue_log;
pub mod metrics;
pub mod placement;
pub mod rate_limit;
pub mod refusal;
mod server;
pub mod service;
pub mod serving;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::LocalSet,
    time::{MissedTickBehavior, interval, timeout},
};

use self::{
    authentication::{Authenticator, StaticTokens, TokenReview},
    issue_log::IssueLog,
    metrics::CaMetrics,
    placement::Placements,
    rate_limit::NodeRates,
    server::CaServer,
    service::{CertificateService, Refusals},
    serving::ServingCertificate,
};
use crate::{
    cert::{
        clock::{Clock, SystemClock},
        signer::Signer,
    },
    config::{Authentication, CaConfig},
    mesh::Mesh,
    observe::http,
    source::{self, FileSource},
};

/// How often files are looked at, and the CA's own certificate.
const UPKEEP: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT and the drain that follows it.
pub fn run(config: CaConfig) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_multi_thread()
        .thread_name("ztun-ca")
        .enable_all()
        .build()
        .context("start the runtime")?;
    LocalSet::new().block_on(&runtime, serve(config))
}

async fn serve(config: CaConfig) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;

    let signer = Arc::new(Signer::open(&config.signer, config.trust_domain.clone())?);
    let serving =
        ServingCertificate::new(&config.server_names, &signer.current(), SystemClock.now())?;
    let authenticator: Arc<dyn Authenticator> = match &config.authentication {
        Authentication::StaticTokens { token_file } => Arc::new(StaticTokens::open(token_file)?),
        Authentication::TokenReview { token_review } => Arc::new(TokenReview::new(token_review)),
    };
    let issue_log = Arc::new(IssueLog::open(&config.issue_log)?);
    let mesh = Mesh::empty();
    let source = Arc::new(FileSource::start(
        &config.mesh_directory,
        mesh.clone(),
        config.translate_settings(),
    )?);
    let mut registry = Registry::default();
    let metrics = CaMetrics::new(&mut registry);
    source::register_metrics(&mut registry, source);

    let listener = http::listen(config.listen, "nodes").await?;
    let readiness_listener = http::listen(config.readiness_address, "readiness").await?;
    let metrics_listener = http::listen(config.metrics_address, "metrics").await?;
    let (listen, readiness_address) = (listener.local_addr()?, readiness_listener.local_addr()?);
    let metrics_address = metrics_listener.local_addr()?;

    let upkeep = Upkeep {
        signer: signer.clone(),
        serving: serving.clone(),
        authenticator: authenticator.clone(),
        metrics: metrics.clone(),
    };
    upkeep.once();
    let state = Arc::new(State {
        mesh: mesh.clone(),
        signer: signer.clone(),
        issue_log: issue_log.clone(),
        draining: AtomicBool::new(false),
    });
    let service = CertificateService {
        authenticator,
        rates: NodeRates::new(config.rate_limit),
        placements: Placements::new(mesh),
        trust_domain: config.trust_domain.clone(),
        signer,
        max_lifetime: config.max_lifetime,
        issue_log,
        metrics,
        clock: Arc::new(SystemClock),
        refusals: Refusals::default(),
    };
    let server = CaServer::new(service, serving.tls()?);
    let readiness = http::readiness({
        let state = state.clone();
        move || state.missing()
    });
    tokio::task::spawn_local(http::serve(readiness_listener, Arc::new(readiness)));
    tokio::task::spawn_local(http::serve(
        metrics_listener,
        Arc::new(http::metrics(registry)),
    ));
    tokio::task::spawn_local(upkeep.forever(hangup));
    let mut serving = tokio::spawn(server.clone().serve(listener));
    tracing::info!(
        %listen,
        readiness = %readiness_address,
        metrics = %metrics_address,
        trust_domain = %config.trust_domain,
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    state.draining.store(true, Ordering::Relaxed);
    server.stop();
    if timeout(config.drain_timeout, &mut serving).await.is_err() {
        tracing::warn!("requests are still open after drainTimeout: ending without them");
    }
    tracing::info!("ended");
    Ok(())
}

/// What readiness asks.
#[derive(Debug)]
struct State {
    mesh: Arc<Mesh>,
    signer: Arc<Signer>,
    issue_log: Arc<IssueLog>,
    draining: AtomicBool,
}

impl State {
    /// In the operator's words; empty means ready.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            missing.push("draining".to_owned());
        }
        if !self.mesh.synced() {
            missing.push("mesh state: the source has not delivered anything yet".to_owned());
        }
        if self.signer.current().not_after() <= SystemClock.now() {
            missing.push("the certificate that signs has expired".to_owned());
        }
        if self.issue_log.is_broken() {
            missing.push("the issue log can't be written".to_owned());
        }
        missing
    }
}

/// What changes while the CA runs: files, and the end of its own certificate.
#[derive(Debug)]
struct Upkeep {
    signer: Arc<Signer>,
    serving: Arc<ServingCertificate>,
    authenticator: Arc<dyn Authenticator>,
    metrics: CaMetrics,
}

impl Upkeep {
    /// At intervals, and at once when asked by SIGHUP.
    async fn forever(self, mut hangup: Signal) {
        let mut ticks = interval(UPKEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = hangup.recv() => {}
            }
            self.once();
        }
    }

    fn once(&self) {
        let now = SystemClock.now();
        if self.signer.refresh() || self.serving.is_due(now) {
            let renewed = self.serving.renew(&self.signer.current(), now);
            if let Err(error) = renewed {
                tracing::error!(%error, "the server certificate in use stays");
            }
        }
        let problems = [self.signer.problem(), self.authenticator.problem()];
        self.metrics
            .problems(problems.into_iter().flatten().count());
        self.metrics
            .signer_expires(self.signer.current().not_after());
    }
}

#[cfg(test)]
mod tests;
