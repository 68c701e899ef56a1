//! The daemon of one node: puts its parts together, runs them, and ends in order.

mod addresses;
mod admin;
pub mod api;
pub mod kubelet;
pub mod membership;
mod pods;
mod prefetch;
pub mod privileges;
mod readiness;
mod records;
mod server;
pub mod status;
mod telemetry;
mod verification;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use self::{
    kubelet::KubeletProbes,
    membership::Membership,
    pods::{Pods, run_blocking},
    privileges::Privileges,
    readiness::Readiness,
    records::Records,
    server::Api,
    server::ApiServer,
    status::StatusReporter,
    verification::Verification,
};
use crate::{
    cert::{
        self, CertificateAuthority, CertificateManager, CertificateSettings, EmbeddedCa, GrpcCa,
        GrpcCaSettings, clock::SystemClock, fips,
    },
    config::{Config, Timeouts},
    mesh::Mesh,
    observe::{LogFilter, Metrics, http},
    proxy::{self, Proxy, ProxySettings},
    redirect::{Finding, KernelError, KernelReport, Redirect},
    source::{self, file::FileSource},
};

/// How often pods are checked for a network namespace that went away without an unenrol, and the
/// kubelet for a new cgroup.
const SWEEP: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT and the drain that follows it.
///
/// Two runtimes: everything slow or outward (sources, certificates, the API, metrics) is on this
/// thread's; the data path has its own, which nothing here can stall.
pub fn run(config: Config, privileges: Privileges, log: LogFilter) -> anyhow::Result<()> {
    privileges.log();
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
    let node = node(config, privileges, log, data.handle().clone());
    let result = LocalSet::new().block_on(&control, node);
    // Streams that are still open when the drain's deadline has passed are reset, not waited for.
    data.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn node(
    config: Config,
    privileges: Privileges,
    log: LogFilter,
    data: runtime::Handle,
) -> anyhow::Result<()> {
    fips::require(config.tls.key_exchange)?;
    check_kernel()?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;

    let api_server = ApiServer::bind(&config.socket)?;
    let readiness_listener = http::listen(config.readiness_address, "readiness").await?;
    let metrics_listener = http::listen(config.metrics_address, "metrics").await?;
    let admin_listener = admin::listen(config.admin_address).await?;
    let records = Records::open(&config.state_directory)?;
    let redirect = Arc::new(Redirect::new(&config.bpf_directory)?);

    let mesh = Mesh::empty();
    let certificates = Arc::new(certificates(&config)?);
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
    let pods = Arc::new(Pods::new(redirect.clone(), records, proxy.clone()));
    let membership = Arc::new(Membership::new(&config, mesh.clone(), pods.clone()));
    let verification = Arc::new(Verification::new(pods.clone()));
    telemetry::register(&mut registry, pods.clone(), verification.clone());
    source::register_metrics(&mut registry, source.clone());
    cert::metrics::register(&mut registry, &certificates);
    let readiness = Arc::new(Readiness::new(
        mesh.clone(),
        pods.clone(),
        certificates.clone(),
        verification.clone(),
    ));

    let missing = {
        let readiness = readiness.clone();
        move || readiness.missing()
    };
    serve(readiness_listener, Arc::new(http::readiness(missing)));
    serve(metrics_listener, Arc::new(http::metrics(registry)));

    pods.restore().await?;
    // Until now an earlier daemon's program does it.
    let cgroup = config.kubelet_cgroup.clone();
    let kubelet = run_blocking(move || KubeletProbes::start(redirect, cgroup)).await;
    let kubelet = Arc::new(kubelet);
    readiness.restored.store(true, Ordering::Relaxed);
    tokio::task::spawn_local(sweep(pods.clone(), kubelet.clone()));
    tokio::task::spawn_local(verification.follow(config.verify_interval));
    tokio::task::spawn_local(membership.clone().follow());
    tokio::task::spawn_local(prefetch::follow(
        config.node_name.clone(),
        mesh.clone(),
        certificates.clone(),
    ));
    let status = StatusReporter {
        node: config.node_name.to_string(),
        pods: pods.clone(),
        membership: membership.clone(),
        proxy: proxy.clone(),
        mesh,
        certificates,
        source,
        readiness: readiness.clone(),
        kubelet,
        privileges,
    };
    let api = Arc::new(Api {
        pods: pods.clone(),
        membership,
        status,
        config: config.clone(),
        log,
    });
    admin::start(admin_listener, &api);
    let api = tokio::task::spawn_local(api_server.serve(api));
    tracing::info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "started");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    readiness.draining.store(true, Ordering::Relaxed);
    pods.stop_following();
    let deadline = config.timeouts.drain;
    drain(&proxy, deadline, &mut terminate, &mut interrupt).await;
    api.abort();
    tracing::info!("ended; enrolled pods stay closed until the next start");
    Ok(())
}

fn serve(listener: TcpListener, handler: Arc<http::Handler>) {
    tokio::task::spawn_local(http::serve(listener, handler));
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

fn certificates(config: &Config) -> anyhow::Result<CertificateManager> {
    let settings = CertificateSettings {
        lifetime: config.certificate_lifetime,
        wait: config.timeouts.certificate,
        key_exchange: config.tls.key_exchange,
        ..CertificateSettings::new([config.trust_domain.clone()])
    };
    let ca = certificate_authority(config)?;
    Ok(CertificateManager::new(ca, settings, Arc::new(SystemClock)))
}

fn certificate_authority(config: &Config) -> anyhow::Result<Arc<dyn CertificateAuthority>> {
    let Some(address) = config.ca.address.clone() else {
        let trust_domain = config.trust_domain.clone();
        let ca = EmbeddedCa::open(&config.ca_directory, trust_domain)?;
        return Ok(Arc::new(ca));
    };
    let ca = GrpcCa::new(GrpcCaSettings {
        address,
        root_file: config.ca.root_file.clone(),
        token_file: config.ca.token_file.clone(),
        cluster_id: config.cluster_id.clone(),
    })?;
    Ok(Arc::new(ca))
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
