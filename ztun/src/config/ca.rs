//! The configuration of `ztun ca`.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use rustls::pki_types::ServerName;
use serde::{Serialize, Serializer};

use super::{
    ConfigErrors, ConfigSources, LogFormat,
    sources::Reader,
    value::{self, Expected},
};
use crate::{cert::given::SignerFiles, mesh::TrustDomain, source::TranslateSettings};

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaConfig {
    pub listen: SocketAddr,
    /// DNS names and addresses by which nodes reach the CA.
    #[serde(serialize_with = "comma_separated")]
    pub server_names: Vec<ServerName<'static>>,
    pub trust_domain: TrustDomain,
    /// Kubernetes YAML that says which workloads are on which node.
    pub mesh_directory: PathBuf,
    #[serde(flatten)]
    pub signer: SignerSource,
    #[serde(flatten)]
    pub authentication: Authentication,
    /// The longest that a certificate is valid.
    #[serde(with = "value::duration")]
    pub max_lifetime: Duration,
    pub rate_limit: RateLimits,
    /// One line of JSON for each certificate.
    pub issue_log: PathBuf,
    pub readiness_address: SocketAddr,
    pub metrics_address: SocketAddr,
    /// For open requests, after SIGTERM.
    #[serde(with = "value::duration")]
    pub drain_timeout: Duration,
    pub log_format: LogFormat,
    pub log_filter: String,
}

/// The key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum SignerSource {
    /// A root of its own, made at the first start.
    Directory { ca_directory: PathBuf },
    /// One that was brought along.
    Files(#[serde(with = "SignerFilesText")] SignerFiles),
}

#[derive(Serialize)]
#[serde(remote = "SignerFiles")]
struct SignerFilesText {
    #[serde(rename = "keyFile")]
    key: PathBuf,
    #[serde(rename = "chainFile")]
    chain: Option<PathBuf>,
    #[serde(rename = "rootFile")]
    roots: PathBuf,
}

/// How callers prove which node they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(
    tag = "authentication",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Authentication {
    /// By a token of the file.
    StaticTokens { token_file: PathBuf },
    /// By a service account's token, which the API server judges.
    TokenReview { token_review: TokenReviewSettings },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenReviewSettings {
    #[serde(serialize_with = "text")]
    pub api_server: Uri,
    /// The CA's own token for the API server.
    pub token_file: PathBuf,
    /// Roots of the API server's certificate.
    pub root_file: PathBuf,
    /// What callers' tokens must be meant for.
    pub audience: Arc<str>,
    /// Service accounts that node daemons run as, `namespace/name`.
    #[serde(serialize_with = "comma_separated")]
    pub node_accounts: Vec<Arc<str>>,
}

/// Certificates for each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimits {
    pub per_second: NonZeroUsize,
    /// So many at once, such as when all pods of a node start.
    pub burst: NonZeroUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthenticationKind {
    StaticTokens,
    TokenReview,
}

impl CaConfig {
    pub fn load(sources: ConfigSources) -> Result<Self, ConfigErrors> {
        let hostname = sources.hostname.clone().unwrap_or_default();
        let mut read = Reader::new(sources);
        let config = Self::read(&mut read, &hostname);
        if let Some(config) = &config {
            read.check_addresses(&[
                ("listen", config.listen),
                ("readinessAddress", config.readiness_address),
                ("metricsAddress", config.metrics_address),
            ]);
        }
        let errors = read.finish();
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// Of the objects, only who runs where counts here.
    pub fn translate_settings(&self) -> TranslateSettings {
        TranslateSettings {
            trust_domain: self.trust_domain.clone(),
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            trust_domain_aliases: Arc::default(),
        }
    }

    /// Every setting is read before the first bad one ends it, so that all errors are told.
    fn read(read: &mut Reader, hostname: &str) -> Option<Self> {
        let listen = read.setting("listen", "[::]:15012", value::address);
        let server_names = read.setting("serverNames", hostname, server_names);
        let trust_domain = read.setting("trustDomain", "cluster.local", value::trust_domain);
        let mesh_directory = read.setting("meshDirectory", "/etc/ztun/mesh", value::path);
        let state_directory = read.setting("stateDirectory", "/var/lib/ztun", value::path);
        let state = state_directory.as_deref().unwrap_or("".as_ref()).display();
        let signer = SignerSource::read(read, format!("{state}/ca").into());
        let authentication = Authentication::read(read);
        let max_lifetime = read.setting("maxLifetime", "24h", value::duration);
        let rate_limit = RateLimits::read(read);
        let issued = format!("{state}/issued.jsonl");
        let issue_log = read.setting("issueLog", &issued, value::path);
        // Not the daemon's ports: both may run on one host.
        let readiness_address = read.setting("readinessAddress", "[::]:15022", value::address);
        let metrics_address = read.setting("metricsAddress", "[::]:15014", value::address);
        let drain_timeout = read.setting("drainTimeout", "10s", value::duration);
        let log_format = read.setting("logFormat", "text", value::log_format);
        let log_filter = read.setting("logFilter", "info", value::log_filter);
        Some(Self {
            listen: listen?,
            server_names: server_names?,
            trust_domain: trust_domain?,
            mesh_directory: mesh_directory?,
            signer: signer?,
            authentication: authentication?,
            max_lifetime: max_lifetime?,
            rate_limit: rate_limit?,
            issue_log: issue_log?,
            readiness_address: readiness_address?,
            metrics_address: metrics_address?,
            drain_timeout: drain_timeout?,
            log_format: log_format?,
            log_filter: log_filter?,
        })
    }
}

impl SignerSource {
    fn read(read: &mut Reader, own_directory: PathBuf) -> Option<Self> {
        let directory = read.setting("caDirectory", "", optional_path);
        let key = read.setting("keyFile", "", optional_path);
        let chain = read.setting("chainFile", "", optional_path);
        let roots = read.setting("rootFile", "", optional_path);
        match (directory?, key?, chain?, roots?) {
            (directory, None, None, None) => Some(Self::Directory {
                ca_directory: directory.unwrap_or(own_directory),
            }),
            (None, Some(key), chain, Some(roots)) => {
                Some(Self::Files(SignerFiles { key, chain, roots }))
            }
            (Some(_), ..) => {
                read.error(
                    "caDirectory makes a root, keyFile, chainFile and rootFile bring one along: give one or the other".to_owned(),
                );
                None
            }
            (None, ..) => {
                read.error(
                    "a key that is brought along needs both keyFile and rootFile, and an intermediate's its chainFile".to_owned(),
                );
                None
            }
        }
    }
}

impl Authentication {
    fn read(read: &mut Reader) -> Option<Self> {
        let kind = read.setting("authentication", "tokenReview", authentication_kind);
        let token_file = read.setting("tokenFile", "", optional_path);
        let token_review = TokenReviewSettings::read(read);
        match (kind?, token_file?) {
            (AuthenticationKind::StaticTokens, Some(token_file)) => {
                Some(Self::StaticTokens { token_file })
            }
            (AuthenticationKind::StaticTokens, None) => {
                read.error("authentication is staticTokens: give their tokenFile".to_owned());
                None
            }
            (AuthenticationKind::TokenReview, None) => Some(Self::TokenReview {
                token_review: token_review?,
            }),
            (AuthenticationKind::TokenReview, Some(_)) => {
                read.error(
                    "tokenFile is for authentication: staticTokens, and it is tokenReview"
                        .to_owned(),
                );
                None
            }
        }
    }
}

impl TokenReviewSettings {
    fn read(read: &mut Reader) -> Option<Self> {
        const OWN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
        let api_server = read.setting(
            "tokenReview.apiServer",
            "https://kubernetes.default.svc",
            https_url,
        );
        let token_file = format!("{OWN}/token");
        let token_file = read.setting("tokenReview.tokenFile", &token_file, value::path);
        let root_file = format!("{OWN}/ca.crt");
        let root_file = read.setting("tokenReview.rootFile", &root_file, value::path);
        let audience = read.setting("tokenReview.audience", "istio-ca", value::text);
        let accounts = read.setting("tokenReview.nodeAccounts", "istio-system/ztun", accounts);
        Some(Self {
            api_server: api_server?,
            token_file: token_file?,
            root_file: root_file?,
            audience: audience?,
            node_accounts: accounts?,
        })
    }
}

impl RateLimits {
    fn read(read: &mut Reader) -> Option<Self> {
        let per_second = read.setting("rateLimit.perSecond", "10", value::count);
        let burst = read.setting("rateLimit.burst", "500", value::count);
        Some(Self {
            per_second: per_second?,
            burst: burst?,
        })
    }
}

fn optional_path(value: &str) -> Result<Option<PathBuf>, Expected> {
    match value {
        "" => Ok(None),
        path => value::path(path).map(Some),
    }
}

fn authentication_kind(value: &str) -> Result<AuthenticationKind, Expected> {
    match value {
        "staticTokens" => Ok(AuthenticationKind::StaticTokens),
        "tokenReview" => Ok(AuthenticationKind::TokenReview),
        _ => Err("`tokenReview` or `staticTokens`".to_owned()),
    }
}

fn https_url(value: &str) -> Result<Uri, Expected> {
    let expected = || "an address such as https://kubernetes.default.svc:443".to_owned();
    let url: Uri = value.parse().map_err(|_| expected())?;
    let host = url.host().unwrap_or_default();
    let is_server = url.scheme_str() == Some("https")
        && ServerName::try_from(host.trim_matches(['[', ']'])).is_ok()
        && matches!(url.path(), "" | "/");
    if is_server { Ok(url) } else { Err(expected()) }
}

fn server_names(value: &str) -> Result<Vec<ServerName<'static>>, Expected> {
    let expected = || {
        "DNS names or addresses, separated by commas, such as ztun-ca.istio-system.svc".to_owned()
    };
    list(value, |name| ServerName::try_from(name.to_owned()).ok()).ok_or_else(expected)
}

fn accounts(value: &str) -> Result<Vec<Arc<str>>, Expected> {
    let account = |account: &str| {
        let (namespace, name) = account.split_once('/')?;
        (value::name(namespace).is_ok() && value::name(name).is_ok()).then(|| account.into())
    };
    list(value, account).ok_or_else(|| {
        "namespace/service-account, separated by commas, such as istio-system/ztun".to_owned()
    })
}

/// At least one element, each of them good.
fn list<T>(value: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    value
        .split(',')
        .map(|element| parse(element.trim()))
        .collect()
}

trait Text {
    fn text(&self) -> String;
}

impl Text for ServerName<'static> {
    fn text(&self) -> String {
        self.to_str().into_owned()
    }
}

impl Text for Arc<str> {
    fn text(&self) -> String {
        self.to_string()
    }
}

fn comma_separated<S: Serializer, T: Text>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let list: Vec<String> = list.iter().map(Text::text).collect();
    serializer.serialize_str(&list.join(","))
}

fn text<S: Serializer>(value: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests;
