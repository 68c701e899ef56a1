//! Real Envoys in pods, as ends of HBONE: what Istio's gateways and waypoints are made of.

mod client;
mod server;
mod tls;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
};

pub use self::{
    client::HboneClient,
    server::{HboneServer, Upstream},
    tls::Groups,
};
use crate::{mesh::Mesh, pod::Pod, rogue::Credentials, wait};

/// Needed by every test that starts one.
pub const PROGRAM: &str = "envoy";
/// The parts of the configuration that clients and servers share by name.
const ORIGINAL_DESTINATION: &str = "envoy.filters.listener.original_dst";

/// An Envoy process in a pod that is not captured, killed when it is dropped.
pub struct Envoy {
    process: Child,
    directory: TempDir,
}

impl Envoy {
    async fn start(
        mesh: &Mesh,
        pod: &Pod,
        credentials: &Credentials,
        parts: Parts,
    ) -> Result<Self> {
        let directory = TempDir::with_prefix_in("envoy-", mesh.scratch(&pod.spec.name)?)?;
        tls::write(directory.path(), &mesh.ca_directory(), credentials)?;
        let configuration = directory.path().join("envoy.yaml");
        let bootstrap = parts.bootstrap(directory.path());
        fs::write(&configuration, serde_norway::to_string(&bootstrap)?)?;
        let output = fs::File::create(directory.path().join("output.log"))?;
        let process = pod
            .command(PROGRAM)?
            .arg("--config-path")
            .arg(&configuration)
            .args(["--disable-hot-restart", "--concurrency", "1"])
            .args(["--log-level", "warning"])
            .args(["--file-flush-interval-msec", "50"])
            .current_dir(directory.path())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("start Envoy")?;
        let mut envoy = Self { process, directory };
        let mut exited = None;
        let ready = wait::until("Envoy is ready", async || {
            exited = envoy.process.try_wait().ok().flatten();
            exited.is_some() || envoy.ask("/ready").await.is_ok_and(|body| body == "LIVE\n")
        });
        ready.await.with_context(|| envoy.output())?;
        ensure!(
            exited.is_none(),
            "Envoy has ended at once: {}",
            envoy.output()
        );
        Ok(envoy)
    }

    /// Each tunnel that is over, as its access log has it.
    pub fn tunnels(&self) -> Vec<Value> {
        let log = self.read("tunnels.log");
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    }

    /// Waits until a tunnel is over whose `field` has this value, and answers its record.
    pub async fn tunnel_with(&self, field: &str, value: &Value) -> Result<Value> {
        let find = || {
            let mut tunnels = self.tunnels().into_iter();
            tunnels.find(|tunnel| tunnel[field] == *value)
        };
        let what = format_args!("a tunnel with {field} {value} is over");
        let seen = wait::until(what, async || find().is_some()).await;
        seen.with_context(|| format!("{:?}\n{}", self.tunnels(), self.output()))?;
        find().context("an access log that shrinks")
    }

    /// The sum of the counters and gauges whose names end so.
    pub async fn counted(&self, name: &str) -> Result<u64> {
        let stats = self.ask("/stats").await?;
        let values = stats.lines().filter_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.ends_with(name).then(|| value.parse::<u64>().ok())?
        });
        Ok(values.sum())
    }

    /// What Envoy itself has printed.
    pub fn output(&self) -> String {
        self.read("output.log")
    }

    /// Ends it as the kernel would, and waits until it is gone.
    pub async fn kill(mut self) -> Result<()> {
        self.process.kill().await.context("end Envoy")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.path().join(file)).unwrap_or_default()
    }

    /// GETs `path` of the administration interface.
    async fn ask(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(admin(self.directory.path())).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.contains(" 200 OK"), "{path}: {head}");
        unchunked(body).with_context(|| format!("{path}: {answer}"))
    }
}

/// A body in chunks (RFC 9112, section 7.1), as Envoy sends them all.
fn unchunked(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).context("not a chunk's size")?;
        let (chunk, next) = rest.split_at_checked(size).context("half a chunk")?;
        whole.push_str(chunk);
        body = next
            .strip_prefix("\r\n")
            .context("a chunk without an end")?;
        if size == 0 {
            return Ok(whole);
        }
    }
    bail!("no last chunk")
}

/// What a configuration is made of.
struct Parts {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
}

impl Parts {
    fn bootstrap(self, directory: &Path) -> Value {
        json!({
            "admin": { "address": { "pipe": { "path": admin(directory) } } },
            "bootstrap_extensions": [{
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": typed("bootstrap.internal_listener.v3.InternalListener", json!({})),
            }],
            "static_resources": { "listeners": self.listeners, "clusters": self.clusters },
        })
    }
}

fn admin(directory: &Path) -> PathBuf {
    directory.join("admin.sock")
}

/// The configuration of an extension; `kind` is what follows `envoy.extensions.`.
fn typed(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/envoy.extensions.{kind}"));
    fields
}

/// A line of JSON for each tunnel, in the file that [`Envoy::tunnels`] reads.
fn access_log(fields: &Value) -> Value {
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": typed("access_loggers.file.v3.FileAccessLog", json!({
            "path": "tunnels.log",
            "log_format": { "json_format": fields },
        })),
    }])
}

/// A cluster with one endpoint: the listener of this name in the same process.
fn internal_cluster(cluster: &str, listener: &str, passthrough: &Value, endpoint: Value) -> Value {
    let mut endpoint = endpoint;
    endpoint["endpoint"] = json!({ "address": {
        "envoy_internal_address": { "server_listener_name": listener, "endpoint_id": cluster },
    } });
    json!({
        "name": cluster,
        "load_assignment": {
            "cluster_name": cluster,
            "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": typed("transport_sockets.internal_upstream.v3.InternalUpstreamTransport", json!({
                "passthrough_metadata": passthrough,
                "transport_socket": {
                    "name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": typed("transport_sockets.raw_buffer.v3.RawBuffer", json!({})),
                },
            })),
        },
    })
}

fn tcp_proxy(cluster: &str, mut fields: Value) -> Value {
    fields["stat_prefix"] = json!(cluster);
    fields["cluster"] = json!(cluster);
    json!([{
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", fields),
    }])
}

/// A listener for connections from within the process, each with a destination of its own.
fn internal_listener(name: &str, filters: &Value) -> Value {
    json!({
        "name": name,
        "internal_listener": {},
        "listener_filters": [{
            "name": ORIGINAL_DESTINATION,
            "typed_config": typed("filters.listener.original_dst.v3.OriginalDst", json!({})),
        }],
        "filter_chains": [{ "filters": filters }],
    })
}
