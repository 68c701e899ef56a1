//! The daemon's configuration: flags over environment over file over defaults, typed, with all its
//! errors at once.
//!
//! A setting has one name everywhere: `timeouts.tcpConnect` in the file, `ZTUN_TIMEOUTS_TCP_CONNECT`
//! in the environment, `--set timeouts.tcpConnect=10s` as a flag; the usual ones have flags of their own.

mod ca;
mod sources;
mod value;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use self::sources::Reader;
pub use self::{
    ca::{Authentication, CaConfig, RateLimits, SignerSource, TokenReviewSettings},
    sources::{ConfigFlags, ConfigSources},
};
use crate::{
    cert::{CaAddress, KeyExchange, TrustSettings},
    mesh::{
        TrustDomain,
        transport::{self, TransportSettings},
    },
    redirect::Kubelet,
    source::TranslateSettings,
};

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// As pods' `spec.nodeName` has it; by default the host's name.
    pub node_name: Arc<str>,
    pub trust_domain: TrustDomain,
    /// Other names of the trust domain, such as former ones.
    #[serde(serialize_with = "value::trust_domains_text")]
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Whom this node trusts beside what its CA says.
    pub trust: TrustSettings,
    pub cluster_id: Arc<str>,
    /// The end of services' names.
    pub cluster_domain: Arc<str>,
    /// The namespace whose policies cover the mesh.
    pub root_namespace: Arc<str>,
    /// Kubernetes YAML that describes the mesh.
    pub mesh_directory: PathBuf,
    /// The embedded CA's root, shared by the nodes that are to trust each other.
    pub ca_directory: PathBuf,
    pub ca: CaClient,
    pub state_directory: PathBuf,
    /// For `ztun enrol`, `ztun status` and the CNI plugin.
    pub socket: PathBuf,
    /// Where kernel state is pinned, on a bpffs.
    pub bpf_directory: PathBuf,
    /// Whose probes reach applications under STRICT too.
    #[serde(serialize_with = "value::kubelet_text")]
    pub kubelet_cgroup: Kubelet,
    pub readiness_address: SocketAddr,
    pub metrics_address: SocketAddr,
    /// On loopback, for whoever is on the node; `None` is nowhere.
    #[serde(serialize_with = "value::admin_address_text")]
    pub admin_address: Option<SocketAddr>,
    /// Threads that carry traffic; by default one for each core.
    pub data_threads: NonZeroUsize,
    pub same_node: SameNode,
    #[serde(with = "value::duration")]
    pub certificate_lifetime: Duration,
    pub tls: Tls,
    pub log_format: LogFormat,
    /// Such as `info` or `info,ztun::proxy=debug`.
    pub log_filter: String,
    /// How often the daemon looks whether its pods are captured.
    #[serde(with = "value::duration")]
    pub verify_interval: Duration,
    pub timeouts: Timeouts,
    pub limits: Limits,
}

/// How a CA over the network is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaClient {
    /// Nothing: the embedded CA in `caDirectory` is used.
    #[serde(serialize_with = "value::ca_address_text")]
    pub address: Option<CaAddress>,
    /// PEM: what the CA's own certificate is verified by.
    pub root_file: PathBuf,
    /// The service-account token by which the CA knows this node.
    pub token_file: PathBuf,
}

/// How connections between pods of one node are carried. Policy is the same for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// Within the daemon, without TLS.
    Direct,
    /// Over HBONE, as between nodes.
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    pub key_exchange: KeyExchange,
}

/// How long each stage may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    #[serde(with = "value::duration")]
    pub tcp_connect: Duration,
    #[serde(with = "value::duration")]
    pub tls_handshake: Duration,
    #[serde(with = "value::duration")]
    pub http2_handshake: Duration,
    /// Until the peer has answered a CONNECT.
    #[serde(with = "value::duration")]
    pub connect_response: Duration,
    /// For the first certificate of an identity.
    #[serde(with = "value::duration")]
    pub certificate: Duration,
    /// For the first mesh state.
    #[serde(with = "value::duration")]
    pub mesh_state: Duration,
    /// For open connections, after SIGTERM.
    #[serde(with = "value::duration")]
    pub drain: Duration,
    /// For open connections, after another daemon has taken over.
    #[serde(with = "value::duration")]
    pub handover_drain: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Inbound TLS and HTTP/2 handshakes under way, for each pod.
    pub pending_handshakes: NonZeroUsize,
    /// Captured connections, for each pod.
    pub connections: NonZeroUsize,
    /// Streams that one HBONE connection carries as a client.
    pub streams_per_connection: NonZeroUsize,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the configuration has {} error(s):\n  {}", .0.len(), .0.join("\n  "))]
pub struct ConfigErrors(pub Vec<String>);

impl Config {
    pub fn load(sources: ConfigSources) -> Result<Self, ConfigErrors> {
        let hostname = sources.hostname.clone().unwrap_or_default();
        let cores = sources.cores.to_string();
        let mut read = Reader::new(sources);
        let state_directory = read.setting("stateDirectory", "/var/lib/ztun", value::path);
        let ca_directory = format!(
            "{}/ca",
            state_directory.as_deref().unwrap_or("".as_ref()).display()
        );
        let config = Self::read(&mut read, state_directory, &hostname, &cores, &ca_directory);
        if let Some(config) = &config {
            let admin = config.admin_address.map(|admin| ("adminAddress", admin));
            let addresses = [
                ("readinessAddress", config.readiness_address),
                ("metricsAddress", config.metrics_address),
            ];
            let addresses: Vec<_> = addresses.into_iter().chain(admin).collect();
            read.check_addresses(&addresses);
        }
        let errors = read.finish();
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(errors)),
        }
    }

    pub fn transport_settings(&self) -> TransportSettings {
        TransportSettings {
            same_node: match self.same_node {
                SameNode::Direct => transport::SameNode::Direct,
                SameNode::Tunnel => transport::SameNode::Tunnel,
            },
            ..TransportSettings::default()
        }
    }

    pub fn translate_settings(&self) -> TranslateSettings {
        TranslateSettings {
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_aliases.clone().into(),
            cluster_id: Arc::clone(&self.cluster_id),
            cluster_domain: Arc::clone(&self.cluster_domain),
            root_namespace: Arc::clone(&self.root_namespace),
        }
    }

    /// Every setting is read before the first bad one ends it, so that all errors are told.
    fn read(
        read: &mut Reader,
        state_directory: Option<PathBuf>,
        hostname: &str,
        cores: &str,
        ca_directory: &str,
    ) -> Option<Self> {
        let node_name = read.setting("nodeName", hostname, value::name);
        let trust_domain = read.setting("trustDomain", "cluster.local", value::trust_domain);
        let trust_domain_aliases = read.setting("trustDomainAliases", "", value::trust_domains);
        let trust = trust(read);
        let cluster_id = read.setting("clusterId", "Kubernetes", value::text);
        let cluster_domain = read.setting("clusterDomain", "cluster.local", value::name);
        let root_namespace = read.setting("rootNamespace", "istio-system", value::name);
        let mesh_directory = read.setting("meshDirectory", "/etc/ztun/mesh", value::path);
        let ca_directory = read.setting("caDirectory", ca_directory, value::path);
        let ca = CaClient::read(read);
        let socket = read.setting("socket", "/run/ztun/ztun.sock", value::path);
        let bpf_directory = read.setting("bpfDirectory", "/sys/fs/bpf/ztun", value::path);
        let kubelet_cgroup = read.setting("kubeletCgroup", "auto", value::kubelet);
        let readiness_address = read.setting("readinessAddress", "[::]:15021", value::address);
        let metrics_address = read.setting("metricsAddress", "[::]:15020", value::address);
        let admin_address = read.setting("adminAddress", "127.0.0.1:15000", value::admin_address);
        let data_threads = read.setting("dataThreads", cores, value::count);
        let same_node = read.setting("sameNode", "direct", value::same_node);
        let certificate_lifetime = read.setting("certificateLifetime", "24h", value::duration);
        let key_exchange = read.setting(
            "tls.keyExchange",
            KeyExchange::default().as_str(),
            value::key_exchange,
        );
        let log_format = read.setting("logFormat", "text", value::log_format);
        let log_filter = read.setting("logFilter", "info", value::log_filter);
        let verify_interval = read.setting("verifyInterval", "10s", value::duration);
        let timeouts = Timeouts::read(read);
        let limits = Limits::read(read);
        Some(Self {
            node_name: node_name?,
            trust_domain: trust_domain?,
            trust_domain_aliases: trust_domain_aliases?,
            trust: trust?,
            cluster_id: cluster_id?,
            cluster_domain: cluster_domain?,
            root_namespace: root_namespace?,
            mesh_directory: mesh_directory?,
            ca_directory: ca_directory?,
            ca: ca?,
            state_directory: state_directory?,
            socket: socket?,
            bpf_directory: bpf_directory?,
            kubelet_cgroup: kubelet_cgroup?,
            readiness_address: readiness_address?,
            metrics_address: metrics_address?,
            admin_address: admin_address?,
            data_threads: data_threads?,
            same_node: same_node?,
            certificate_lifetime: certificate_lifetime?,
            tls: Tls {
                key_exchange: key_exchange?,
            },
            log_format: log_format?,
            log_filter: log_filter?,
            verify_interval: verify_interval?,
            timeouts: timeouts?,
            limits: limits?,
        })
    }
}

impl CaClient {
    fn read(read: &mut Reader) -> Option<Self> {
        let root = "/var/run/secrets/istio/root-cert.pem";
        let token = "/var/run/secrets/tokens/istio-token";
        let address = read.setting("ca.address", "", value::ca_address);
        let root_file = read.setting("ca.rootFile", root, value::path);
        let token_file = read.setting("ca.tokenFile", token, value::path);
        Some(Self {
            address: address?,
            root_file: root_file?,
            token_file: token_file?,
        })
    }
}

fn trust(read: &mut Reader) -> Option<TrustSettings> {
    let roots = read.setting("trust.rootsFile", "", value::optional_path);
    let bundles = read.setting("trust.bundleDirectory", "", value::optional_path);
    let crls = read.setting("trust.crlFile", "", value::optional_path);
    Some(TrustSettings {
        ca_roots: None,
        roots: roots?,
        bundles: bundles?,
        crls: crls?,
    })
}

impl Timeouts {
    fn read(read: &mut Reader) -> Option<Self> {
        let tcp_connect = read.setting("timeouts.tcpConnect", "10s", value::duration);
        let tls_handshake = read.setting("timeouts.tlsHandshake", "10s", value::duration);
        let http2_handshake = read.setting("timeouts.http2Handshake", "10s", value::duration);
        let connect_response = read.setting("timeouts.connectResponse", "30s", value::duration);
        let certificate = read.setting("timeouts.certificate", "10s", value::duration);
        let mesh_state = read.setting("timeouts.meshState", "10s", value::duration);
        let drain = read.setting("timeouts.drain", "30s", value::duration);
        let handover_drain = read.setting("timeouts.handoverDrain", "1h", value::duration);
        Some(Self {
            tcp_connect: tcp_connect?,
            tls_handshake: tls_handshake?,
            http2_handshake: http2_handshake?,
            connect_response: connect_response?,
            certificate: certificate?,
            mesh_state: mesh_state?,
            drain: drain?,
            handover_drain: handover_drain?,
        })
    }
}

impl Limits {
    fn read(read: &mut Reader) -> Option<Self> {
        let pending_handshakes = read.setting("limits.pendingHandshakes", "256", value::count);
        let connections = read.setting("limits.connections", "65536", value::count);
        let streams = read.setting("limits.streamsPerConnection", "100", value::count);
        Some(Self {
            pending_handshakes: pending_handshakes?,
            connections: connections?,
            streams_per_connection: streams?,
        })
    }
}

#[cfg(test)]
mod tests;
