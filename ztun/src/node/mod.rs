//! The daemon of one node: puts its parts together, runs them, and ends in order.

mod addresses;
pub mod api;
mod http;
pub mod kubelet;
mod membership;
mod pods;
mod readiness;
mod records;
mod server;
pub mod status;
mod telemetry;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ::http::StatusCode;
use anyhow::Context as _;
use prometheus_client::registry::Registry;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use self::{
    http::Answer, kubelet::KubeletProbes, membership::Membership, pods::Pods, readiness::Readiness,
    records::Records, server::Api, server::ApiServer, status::StatusReporter,
};
use crate::{
    cert::{
        CertificateManager, CertificateSettings, Trust, TrustSettings,
        clock::SystemClock,
        embedded::{self, EmbeddedCa},
        trust::OwnDomains,
    },
    config::{Config, Timeouts},
    mesh::Mesh,
    observe::{LogFilter, Metrics},
    proxy::{self, Proxy, ProxySettings},
    redirect::{Finding, KernelError, KernelReport, Redirect},
    source::file::FileSource,
};

/// How often pods are checked for a network namespace that went away without an unenrol, and the
/// kubelet for a new cgroup.
const SWEEP: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT and the drain that follows it.
///
/// Two runtimes: everything slow or outward (sources, certificates, the API, metrics) is on this
/// thread's; the data path has its own, which nothing here can stall.
pub fn run(config: Config, log: LogFilter) -> anyhow::Result<()> {
    let data = runtime::Builder::new_multi_thread()
        .thread_name("ztun-data")
        .worker_threads(config.data_threads.get())
        .enable_all()
        .build()
        .context("start the data runtime")?;
    let control = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control runtime")?;
    let result = LocalSet::new().block_on(&control, node(config, log, data.handle().clone()));
    // Streams that are still open when the drain's deadline has passed are reset, not waited for.
    data.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn node(config: Config, log: LogFilter, data: runtime::Handle) -> anyhow::Result<()> {
    check_kernel()?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;

    let api_server = ApiServer::bind(&config.socket)?;
    let readiness_listener = http::listen(config.readiness_address, "readiness").await?;
    let metrics_listener = http::listen(config.metrics_address, "metrics").await?;
    let records = Records::open(&config.state_directory)?;
    let redirect = Arc::new(Redirect::new(&config.bpf_directory)?);

    let kubelet = Arc::new(KubeletProbes::start(
        redirect.clone(),
        config.kubelet_cgroup.clone(),
    ));

    let mesh = Mesh::empty();
    let ca = EmbeddedCa::open(&config.ca_directory, config.trust_domain.clone())?;
    let trust = Trust::new(OwnDomains::new(
        config.trust_domain.clone(),
        &config.trust_domain_aliases,
    ));
    let _trust_follower = trust.follow(trust_settings(&config))?;
    let certificates = Arc::new(CertificateManager::new(
        Arc::new(ca),
        certificate_settings(&config, trust.clone()),
        Arc::new(SystemClock),
    ));
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let proxy = {
        let _on_the_data_runtime = data.enter();
        Proxy::new(
            mesh.clone(),
            certificates.clone(),
            proxy_settings(&config),
            metrics,
        )
    };
    let source = Arc::new(FileSource::start(
        &config.mesh_directory,
        mesh.clone(),
        config.translate_settings(),
    )?);
    let pods = Arc::new(Pods::new(redirect, records, proxy.clone()));
    let membership = Arc::new(Membership::new(&config, mesh.clone(), pods.clone()));
    telemetry::register(&mut registry, pods.clone(), source.clone(), trust.clone());
    let readiness = Arc::new(Readiness::new(
        mesh.clone(),
        pods.clone(),
        certificates.clone(),
    ));

    tokio::task::spawn_local(http::serve(
        readiness_listener,
        Arc::new(readiness_handler(readiness.clone())),
    ));
    tokio::task::spawn_local(http::serve(
        metrics_listener,
        Arc::new(metrics_handler(registry)),
    ));

    pods.restore().await?;
    readiness.restored.store(true, Ordering::Relaxed);
    tokio::task::spawn_local(sweep(pods.clone(), kubelet.clone()));
    tokio::task::spawn_local(membership.clone().follow());
    let status = StatusReporter {
        node: config.node_name.to_string(),
        pods: pods.clone(),
        membership: membership.clone(),
        proxy: proxy.clone(),
        mesh,
        certificates,
        trust,
        source,
        readiness: readiness.clone(),
        kubelet,
    };
    let api = Arc::new(Api {
        pods: pods.clone(),
        membership,
        status,
        config: config.clone(),
        log,
    });
    let api = tokio::task::spawn_local(api_server.serve(api));
    tracing::info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "started");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    readiness.draining.store(true, Ordering::Relaxed);
    pods.stop_following();
    drain(
        &proxy,
        config.timeouts.drain,
        &mut terminate,
        &mut interrupt,
    )
    .await;
    api.abort();
    tracing::info!("ended; enrolled pods stay closed until the next start");
    Ok(())
}

/// Lets open connections end, until the deadline or another signal.
async fn drain(proxy: &Proxy, deadline: Duration, terminate: &mut Signal, interrupt: &mut Signal) {
    tracing::info!(
        ?deadline,
        connections = proxy.connections().len(),
        "draining"
    );
    tokio::select! {
        () = proxy.drain(deadline) => {}
        _ = terminate.recv() => tracing::warn!("second signal: ending without waiting for the drain"),
        _ = interrupt.recv() => tracing::warn!("second signal: ending without waiting for the drain"),
    }
}

/// Refuses a kernel that capture can't work on, before anything is changed.
fn check_kernel() -> Result<(), KernelError> {
    let kernel = KernelReport::of_features();
    for (feature, finding) in kernel.findings() {
        let (description, since) = (feature.description(), feature.since());
        match finding {
            Finding::Found => tracing::debug!(since, "kernel feature found: {description}"),
            Finding::Missing(reason) | Finding::Unknown(reason) => {
                tracing::warn!(since, %reason, "kernel feature not found: {description}");
            }
        }
    }
    kernel.require()?;
    tracing::info!(
        kernel = kernel.release(),
        "the kernel has what capture needs"
    );
    Ok(())
}

async fn sweep(pods: Arc<Pods>, kubelet: Arc<KubeletProbes>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pods.sweep().await;
        kubelet.follow();
    }
}

fn readiness_handler(readiness: Arc<Readiness>) -> impl Fn(&str) -> Option<Answer> {
    move |path| {
        (path == "/healthz/ready").then(|| match &readiness.missing()[..] {
            [] => Answer::text(StatusCode::OK, "ready\n".to_owned()),
            missing => Answer::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready:\n{}\n", missing.join("\n")),
            ),
        })
    }
}

fn metrics_handler(registry: Registry) -> impl Fn(&str) -> Option<Answer> {
    move |path| {
        matches!(path, "/metrics" | "/stats/prometheus").then(|| {
            let mut body = String::new();
            match prometheus_client::encoding::text::encode(&mut body, &registry) {
                Ok(()) => Answer {
                    status: StatusCode::OK,
                    // Prometheus 3 takes no answer whose format it isn't told.
                    content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    body,
                },
                Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        })
    }
}

fn certificate_settings(config: &Config, trust: Arc<Trust>) -> CertificateSettings {
    CertificateSettings {
        trust,
        lifetime: config.certificate_lifetime,
        wait: config.timeouts.certificate,
        ..CertificateSettings::new(config.trust_domain.clone())
    }
}

fn trust_settings(config: &Config) -> TrustSettings {
    TrustSettings {
        ca_roots: Some(config.ca_directory.join(embedded::ROOT_CERTIFICATE)),
        ..config.trust.clone()
    }
}

fn proxy_settings(config: &Config) -> ProxySettings {
    let Timeouts {
        tcp_connect,
        tls_handshake,
        http2_handshake,
        connect_response,
        certificate: _,
        mesh_state,
        drain: _,
    } = config.timeouts;
    ProxySettings {
        timeouts: proxy::Timeouts {
            mesh_wait: mesh_state,
            tcp_connect,
            tls_handshake,
            http2_handshake,
            connect_response,
        },
        transport: config.transport_settings(),
        pending_handshakes: config.limits.pending_handshakes.get(),
        connections: config.limits.connections.get(),
        streams_per_connection: config.limits.streams_per_connection.get(),
        ..ProxySettings::default()
    }
}
