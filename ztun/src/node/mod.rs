//! The daemon of one node: puts its parts together, runs them, and ends in order.

mod addresses;
pub mod api;
mod ending;
mod endpoints;
mod handover;
mod http;
pub mod kubelet;
mod membership;
mod pods;
mod readiness;
mod records;
mod server;
mod socket_file;
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
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use self::{
    ending::{Running, Signals, Tasks},
    endpoints::Endpoints,
    handover::Heritage,
    http::Answer,
    kubelet::KubeletProbes,
    membership::Membership,
    pods::{Pods, run_blocking},
    readiness::Readiness,
    records::Records,
    server::Api,
    status::StatusReporter,
};
use crate::{
    cert::{CertificateManager, CertificateSettings, clock::SystemClock, embedded::EmbeddedCa},
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
    control.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn node(config: Config, log: LogFilter, data: runtime::Handle) -> anyhow::Result<()> {
    check_kernel()?;
    let mut signals = Signals::listen()?;
    let socket = config.socket.clone();
    let mut inheritance = run_blocking(move || handover::ask(&socket)).await?;
    let endpoints = Endpoints::open(&config, inheritance.as_mut()).await?;
    let records = Records::open(&config.state_directory)?;
    let redirect = Arc::new(Redirect::new(&config.bpf_directory)?);

    let mesh = Mesh::empty();
    let certificates = Arc::new(certificate_manager(&config)?);
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let on_the_data_runtime = data.enter();
    let settings = proxy_settings(&config);
    let proxy = Proxy::new(mesh.clone(), certificates.clone(), settings, metrics);
    drop(on_the_data_runtime);
    let source = Arc::new(FileSource::start(
        &config.mesh_directory,
        mesh.clone(),
        config.translate_settings(),
    )?);
    let pods = Arc::new(Pods::new(redirect.clone(), records, proxy.clone()));
    let membership = Arc::new(Membership::new(&config, mesh.clone(), pods.clone()));
    telemetry::register(&mut registry, pods.clone(), source.clone());
    let readiness = Arc::new(Readiness::new(
        mesh.clone(),
        pods.clone(),
        certificates.clone(),
    ));
    let heritage = Arc::new(Heritage {
        pods: pods.clone(),
        readiness: readiness.clone(),
        sockets: endpoints.try_clone().context("duplicate the sockets")?,
    });

    let files = endpoints.files();
    let mut tasks = Tasks::default();
    let handler = readiness_handler(readiness.clone());
    let mut answer = Some(http::serve(endpoints.readiness, Arc::new(handler)));
    match inheritance {
        None => {
            // It says what is missing.
            if let Some(answer) = answer.take() {
                tasks.spawn(answer);
            }
            pods.restore(Vec::new()).await?;
        }
        Some(mut inheritance) => {
            let ready = handover::warm_up(&inheritance, &mesh, &certificates, &config.timeouts);
            let _kept = ready.await?;
            let handed = inheritance.take_pods();
            run_blocking(move || inheritance.commit()).await?;
            files.take();
            endpoints.handover.take()?;
            pods.restore(handed).await?;
        }
    }
    // Until now an earlier daemon's program does it.
    let cgroup = config.kubelet_cgroup.clone();
    let kubelet = run_blocking(move || KubeletProbes::start(redirect, cgroup)).await;
    let kubelet = Arc::new(kubelet);
    readiness.restored.store(true, Ordering::Relaxed);
    // Whoever asks while a daemon takes over waits for an answer that stays true.
    if let Some(answer) = answer {
        tasks.spawn(answer);
    }
    let metrics = metrics_handler(registry);
    tasks.spawn(http::serve(endpoints.metrics, Arc::new(metrics)));
    tasks.spawn(sweep(pods.clone(), kubelet.clone()));
    tasks.spawn(membership.clone().follow());
    let status = StatusReporter {
        node: config.node_name.to_string(),
        pods: pods.clone(),
        membership: membership.clone(),
        proxy: proxy.clone(),
        mesh,
        certificates,
        source,
        readiness,
        kubelet,
    };
    let timeouts = config.timeouts;
    tracing::info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "started");
    tasks.spawn(endpoints.api.serve(Arc::new(Api {
        pods,
        membership,
        status,
        config,
        log,
    })));
    let running = Running {
        proxy,
        heritage,
        handover: Arc::new(endpoints.handover),
        files,
        lock: endpoints.lock,
        tasks,
    };
    running.run(&mut signals, &timeouts).await;
    Ok(())
}

fn certificate_manager(config: &Config) -> anyhow::Result<CertificateManager> {
    let ca = EmbeddedCa::open(&config.ca_directory, config.trust_domain.clone())?;
    let settings = CertificateSettings {
        lifetime: config.certificate_lifetime,
        wait: config.timeouts.certificate,
        ..CertificateSettings::new([config.trust_domain.clone()])
    };
    let clock = Arc::new(SystemClock);
    Ok(CertificateManager::new(Arc::new(ca), settings, clock))
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

fn proxy_settings(config: &Config) -> ProxySettings {
    let Timeouts {
        tcp_connect,
        tls_handshake,
        http2_handshake,
        connect_response,
        certificate: _,
        mesh_state,
        drain: _,
        handover_drain: _,
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
