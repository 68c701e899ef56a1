//! The daemon's configuration: flags over environment over file over defaults, typed, with all its
//! errors at once.
//!
//! A setting has one name everywhere: `timeouts.tcpConnect` in the file, `ZTUN_TIMEOUTS_TCP_CONNECT`
//! in the environment, `--set timeouts.tcpConnect=10s` as a flag; the usual ones have flags of their own.

mod sources;
mod value;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use self::sources::Reader;
pub use self::sources::{ConfigFlags, ConfigSources};
use crate::{mesh::TrustDomain, source::TranslateSettings};

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// As pods' `spec.nodeName` has it; by default the host's name.
    pub node_name: Arc<str>,
    pub trust_domain: TrustDomain,
    pub cluster_id: Arc<str>,
    /// The end of services' names.
    pub cluster_domain: Arc<str>,
    /// The namespace whose policies cover the mesh.
    pub root_namespace: Arc<str>,
    /// Kubernetes YAML that describes the mesh.
    pub mesh_directory: PathBuf,
    /// The embedded CA's root, shared by the nodes that are to trust each other.
    pub ca_directory: PathBuf,
    pub state_directory: PathBuf,
    /// For `ztun enrol`, `ztun status` and the CNI plugin.
    pub socket: PathBuf,
    /// Where kernel state is pinned, on a bpffs.
    pub bpf_directory: PathBuf,
    pub readiness_address: SocketAddr,
    pub metrics_address: SocketAddr,
    pub admin_address: SocketAddr,
    /// Threads that carry traffic; by default one for each core.
    pub data_threads: NonZeroUsize,
    pub same_node: SameNode,
    #[serde(with = "value::duration")]
    pub certificate_lifetime: Duration,
    pub log_format: LogFormat,
    /// Such as `info` or `info,ztun::proxy=debug`.
    pub log_filter: String,
    pub timeouts: Timeouts,
    pub limits: Limits,
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
            config.check_addresses(&mut read);
        }
        let errors = read.finish();
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(errors)),
        }
    }

    pub fn translate_settings(&self) -> TranslateSettings {
        TranslateSettings {
            trust_domain: self.trust_domain.clone(),
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
        let cluster_id = read.setting("clusterId", "Kubernetes", value::text);
        let cluster_domain = read.setting("clusterDomain", "cluster.local", value::name);
        let root_namespace = read.setting("rootNamespace", "istio-system", value::name);
        let mesh_directory = read.setting("meshDirectory", "/etc/ztun/mesh", value::path);
        let ca_directory = read.setting("caDirectory", ca_directory, value::path);
        let socket = read.setting("socket", "/run/ztun/ztun.sock", value::path);
        let bpf_directory = read.setting("bpfDirectory", "/sys/fs/bpf/ztun", value::path);
        let readiness_address = read.setting("readinessAddress", "[::]:15021", value::address);
        let metrics_address = read.setting("metricsAddress", "[::]:15020", value::address);
        let admin_address = read.setting("adminAddress", "127.0.0.1:15000", value::address);
        let data_threads = read.setting("dataThreads", cores, value::count);
        let same_node = read.setting("sameNode", "direct", value::same_node);
        let certificate_lifetime = read.setting("certificateLifetime", "24h", value::duration);
        let log_format = read.setting("logFormat", "text", value::log_format);
        let log_filter = read.setting("logFilter", "info", value::log_filter);
        let timeouts = Timeouts::read(read);
        let limits = Limits::read(read);
        Some(Self {
            node_name: node_name?,
            trust_domain: trust_domain?,
            cluster_id: cluster_id?,
            cluster_domain: cluster_domain?,
            root_namespace: root_namespace?,
            mesh_directory: mesh_directory?,
            ca_directory: ca_directory?,
            state_directory: state_directory?,
            socket: socket?,
            bpf_directory: bpf_directory?,
            readiness_address: readiness_address?,
            metrics_address: metrics_address?,
            admin_address: admin_address?,
            data_threads: data_threads?,
            same_node: same_node?,
            certificate_lifetime: certificate_lifetime?,
            log_format: log_format?,
            log_filter: log_filter?,
            timeouts: timeouts?,
            limits: limits?,
        })
    }

    fn check_addresses(&self, read: &mut Reader) {
        let addresses = [
            ("readinessAddress", self.readiness_address),
            ("metricsAddress", self.metrics_address),
            ("adminAddress", self.admin_address),
        ];
        for (index, (key, address)) in addresses.iter().enumerate() {
            let same = addresses[..index]
                .iter()
                .find(|(_, other)| other == address);
            // Port 0 is any free one.
            if let Some((other, _)) = same.filter(|_| address.port() != 0) {
                read.error(format!(
                    "{key} and {other} are both {address}: give each its own"
                ));
            }
        }
    }
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
        Some(Self {
            tcp_connect: tcp_connect?,
            tls_handshake: tls_handshake?,
            http2_handshake: http2_handshake?,
            connect_response: connect_response?,
            certificate: certificate?,
            mesh_state: mesh_state?,
            drain: drain?,
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sources() -> ConfigSources {
        ConfigSources {
            flags: ConfigFlags::default(),
            environment: std::collections::BTreeMap::new(),
            file: None,
            hostname: Some("node-1".into()),
            cores: 4,
        }
    }

    fn with_file(text: &str) -> ConfigSources {
        ConfigSources {
            file: Some(("/etc/ztun.yaml".into(), Ok(text.into()))),
            ..sources()
        }
    }

    fn with_environment(variables: &[(&str, &str)]) -> ConfigSources {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ConfigSources {
            environment: variables.iter().map(owned).collect(),
            ..sources()
        }
    }

    fn errors(sources: ConfigSources) -> Vec<String> {
        Config::load(sources).unwrap_err().0
    }

    #[test]
    fn defaults_need_nothing_but_a_host() {
        let config = Config::load(sources()).unwrap();
        assert_eq!(&*config.node_name, "node-1");
        assert_eq!(config.data_threads.get(), 4);
        assert_eq!(config.ca_directory, PathBuf::from("/var/lib/ztun/ca"));
        assert_eq!(config.timeouts.connect_response, Duration::from_secs(30));
        assert_eq!(config.same_node, SameNode::Direct);
    }

    #[test]
    fn a_host_without_a_name_must_be_given_one() {
        let nameless = ConfigSources {
            hostname: None,
            ..sources()
        };
        let errors = errors(nameless);
        assert!(
            errors[0].starts_with("nodeName is `` (default)"),
            "{errors:?}"
        );
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_default() {
        let mut sources = with_file("trustDomain: file\nclusterId: file\nrootNamespace: file\n");
        sources.environment = with_environment(&[
            ("ZTUN_TRUST_DOMAIN", "environment"),
            ("ZTUN_CLUSTER_ID", "environment"),
        ])
        .environment;
        sources.flags.trust_domain = Some("flag".into());
        let config = Config::load(sources).unwrap();
        assert_eq!(config.trust_domain.as_str(), "flag");
        assert_eq!(&*config.cluster_id, "environment");
        assert_eq!(&*config.root_namespace, "file");
        assert_eq!(&*config.cluster_domain, "cluster.local");
    }

    #[test]
    fn every_source_reaches_nested_settings() {
        let mut by_flag = sources();
        by_flag.flags.settings = vec!["timeouts.tcpConnect=500ms".into()];
        for sources in [
            with_file("timeouts:\n  tcpConnect: 500ms\n"),
            with_environment(&[("ZTUN_TIMEOUTS_TCP_CONNECT", "500ms")]),
            by_flag,
        ] {
            let config = Config::load(sources).unwrap();
            assert_eq!(config.timeouts.tcp_connect, Duration::from_millis(500));
        }
    }

    #[test]
    fn the_ca_directory_moves_with_the_state_directory() {
        let config = Config::load(with_file("stateDirectory: /data\n")).unwrap();
        assert_eq!(config.ca_directory, PathBuf::from("/data/ca"));
    }

    #[test]
    fn all_errors_are_told_at_once_with_key_source_and_what_is_allowed() {
        let mut sources = with_file(
            "sameNode: both\ntimeouts: {drain: 30}\nmetricsAdress: x\nlimits: {connections: 0}\n",
        );
        sources.environment =
            with_environment(&[("ZTUN_LOG_FORMAT", "xml"), ("ZTUN_NODENAME", "x")]).environment;
        sources.flags.mesh_directory = Some("relative".into());
        sources.flags.settings = vec!["timeouts.tls=1s".into(), "nonsense".into()];
        let mut errors = errors(sources);
        errors.sort();
        let expected = [
            "--set nonsense: expected KEY=VALUE",
            "--set timeouts.tls is not a setting",
            "/etc/ztun.yaml:metricsAdress is not a setting: did you mean metricsAddress?",
            "ZTUN_NODENAME is not a setting: did you mean ZTUN_NODE_NAME?",
            "limits.connections is `0` (/etc/ztun.yaml:limits.connections): expected a whole number from 1 on",
            "logFormat is `xml` (ZTUN_LOG_FORMAT): expected `text` or `json`",
            "meshDirectory is `relative` (--mesh-directory): expected an absolute path",
            "sameNode is `both` (/etc/ztun.yaml:sameNode): expected `direct` or `tunnel`",
            "timeouts.drain is `30` (/etc/ztun.yaml:timeouts.drain): expected a time longer than 0 with its unit, such as 500ms, 10s, 5m or 24h",
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn a_file_that_is_no_configuration_is_an_error() {
        for text in [
            "- a\n",
            "a: [\n",
            "nodeName: [a]\n",
            "nodeName: a\nnodeName: b\n",
        ] {
            let errors = errors(with_file(text));
            assert!(
                errors[0].starts_with("/etc/ztun.yaml"),
                "{text:?}: {errors:?}"
            );
        }
        let unreadable = ConfigSources {
            file: Some(("/etc/ztun.yaml".into(), Err("permission denied".into()))),
            ..sources()
        };
        assert_eq!(errors(unreadable), ["/etc/ztun.yaml: permission denied"]);
    }

    #[test]
    fn variables_that_kubernetes_makes_of_a_service_named_ztun_are_left_alone() {
        let links = [
            ("ZTUN_SERVICE_HOST", "10.0.0.1"),
            ("ZTUN_METRICS_SERVICE_PORT_HTTP", "15020"),
            ("ZTUN_METRICS_PORT", "tcp://10.0.0.1:15020"),
            ("ZTUN_METRICS_PORT_15020_TCP_ADDR", "10.0.0.1"),
            ("ZTUN_CONFIG", "/etc/ztun.yaml"),
            ("PATH", "/bin"),
        ];
        assert!(Config::load(with_environment(&links)).is_ok());
    }

    #[test]
    fn two_servers_on_one_address_are_an_error() {
        let errors = errors(with_file("adminAddress: \"[::]:15020\"\n"));
        assert_eq!(
            errors,
            ["adminAddress and metricsAddress are both [::]:15020: give each its own"]
        );
    }

    #[test]
    fn the_effective_configuration_is_printed_in_the_form_that_is_read() {
        let config = Config::load(with_file(
            "timeouts: {drain: 90s}\nlimits: {connections: 7}\n",
        ))
        .unwrap();
        let printed = serde_norway::to_string(&config).unwrap();
        assert!(printed.contains("drain: 90s"), "{printed}");
        assert!(printed.contains("certificateLifetime: 24h"), "{printed}");
        assert_eq!(Config::load(with_file(&printed)).unwrap(), config);
    }

    #[test]
    fn durations_have_a_unit_and_are_not_nothing() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                value::duration(text),
                Ok(Duration::from_millis(milliseconds))
            );
        }
        for text in [
            "",
            "10",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "10 s",
            "1d",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(value::duration(text).is_err(), "{text}");
        }
    }
}
