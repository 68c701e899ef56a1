//! The daemon of one node: puts its parts together, runs them, and ends in order.

mod addresses;
mod admin;
pub mod api;
mod credentials;
mod ending;
mod endpoints;
mod handover;
pub mod kubelet;
pub mod membership;
mod pods;
mod prefetch;
pub mod privileges;
mod readiness;
mod records;
mod server;
mod socket_file;
pub mod status;
mod telemetry;
mod verification;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    runtime,
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use self::{
    credentials::Credentials,
    ending::{Running, Signals, Tasks},
    endpoints::{Endpoints, SocketFiles},
    handover::{HandedPod, HandoverServer, Heritage, Inheritance},
    kubelet::KubeletProbes,
    membership::Membership,
    pods::{Pods, run_blocking},
    privileges::Privileges,
    readiness::Readiness,
    records::Records,
    server::Api,
    status::StatusReporter,
    verification::Verification,
};
use crate::{
    cert::{CertificateManager, fips},
    config::{Config, Timeouts},
    mesh::Mesh,
    observe::{LogFilter, Metrics, http},
    proxy::{self, PodListeners, Proxy, ProxySettings},
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
    control.shutdown_timeout(Duration::from_millis(100));
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
    let mut signals = Signals::listen()?;
    let socket = config.socket.clone();
    let mut inheritance = run_blocking(move || handover::ask(&socket)).await?;
    let endpoints = Endpoints::open(&config, inheritance.as_mut()).await?;
    let records = Records::open(&config.state_directory)?;
    let redirect = Arc::new(Redirect::new(&config.bpf_directory)?);

    let mesh = Mesh::empty();
    // It goes last: files are followed as long as the daemon runs.
    let credentials = Credentials::new(&config)?;
    let (trust, certificates) = (&credentials.trust, &credentials.certificates);
    let metrics = Metrics::default();
    let proxy = start_proxy(&config, &mesh, certificates, metrics.clone(), &data);
    let source = Arc::new(FileSource::start(
        &config.mesh_directory,
        mesh.clone(),
        config.translate_settings(),
    )?);
    let pods = Arc::new(Pods::new(redirect.clone(), records, proxy.clone()));
    let membership = Arc::new(Membership::new(&config, mesh.clone(), pods.clone()));
    let verification = Arc::new(Verification::new(pods.clone()));
    let registry = telemetry::registry(&metrics, &source, &credentials, &verification);
    let readiness = Arc::new(Readiness::new(&mesh, certificates, &verification));
    let sockets = endpoints.try_clone().context("duplicate the sockets")?;
    let heritage = Arc::new(Heritage::new(&pods, &readiness, sockets));

    let files = endpoints.files();
    let mut tasks = Tasks::default();
    let handler = Arc::new(readiness.clone().handler());
    let mut answer = Some(http::serve(endpoints.readiness, handler));
    match inheritance {
        None => {
            // It says what is missing.
            if let Some(answer) = answer.take() {
                tasks.spawn(answer);
            }
            pods.restore(Vec::new()).await?;
        }
        Some(inheritance) => {
            let ready = handover::warm_up(&inheritance, &mesh, certificates, &config.timeouts);
            let _kept = ready.await?;
            let handed = take_over(inheritance, &files, &endpoints.handover).await?;
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
    let metrics = http::metrics(registry);
    tasks.spawn(http::serve(endpoints.metrics, Arc::new(metrics)));
    tasks.spawn(sweep(pods.clone(), kubelet.clone()));
    tasks.spawn(verification.follow(config.verify_interval));
    tasks.spawn(membership.clone().follow());
    tasks.spawn(prefetch::follow(
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
        certificates: certificates.clone(),
        trust: trust.clone(),
        source,
        readiness,
        kubelet,
        privileges,
    };
    let timeouts = config.timeouts;
    tracing::info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "started");
    let api = Arc::new(Api {
        pods,
        membership,
        status,
        config,
        log,
    });
    if let Some(admin) = endpoints.admin {
        tasks.spawn(http::serve(admin, Arc::new(admin::handler(api.clone()))));
    }
    tasks.spawn(endpoints.api.serve(api));
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

/// From here on the node is this daemon's; what its predecessor has captured.
async fn take_over(
    mut inheritance: Inheritance,
    files: &SocketFiles,
    handover: &HandoverServer,
) -> anyhow::Result<Vec<(HandedPod, PodListeners)>> {
    let handed = inheritance.take_pods();
    run_blocking(move || inheritance.commit()).await?;
    files.take();
    handover.take()?;
    Ok(handed)
}

fn start_proxy(
    config: &Config,
    mesh: &Arc<Mesh>,
    certificates: &Arc<CertificateManager>,
    metrics: Metrics,
    data: &runtime::Handle,
) -> Arc<Proxy> {
    let _on_the_data_runtime = data.enter();
    Proxy::new(
        mesh.clone(),
        certificates.clone(),
        proxy_settings(config),
        metrics,
    )
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
