//! Envoy as HBONE's client, as Istio configures its gateways: each port leads to an internal listener,
//! which asks for a tunnel to the connection's destination, at port 15008 of the same address.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Envoy, Groups, ORIGINAL_DESTINATION, Parts, access_log, internal_cluster, internal_listener,
    tcp_proxy, tls, typed,
};
use crate::{ca, mesh::Mesh, pod::Pod, rogue::HBONE_PORT};

const TUNNELS: &str = "tunnels";

/// An Envoy that is to be.
#[derive(Clone, Debug)]
pub struct HboneClient {
    ports: Vec<(u16, SocketAddr)>,
    server: String,
    groups: Groups,
}

impl HboneClient {
    /// Takes tunnels only from servers with the SPIFFE ID `server`.
    pub fn towards(server: &str) -> Self {
        Self {
            ports: Vec::new(),
            server: server.into(),
            groups: Groups::default(),
        }
    }

    /// Listens on `port` of loopback, and tunnels what comes to `destination`.
    #[must_use]
    pub fn forward(mut self, port: u16, destination: SocketAddr) -> Self {
        self.ports.push((port, destination));
        self
    }

    #[must_use]
    pub fn groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// Starts it in `pod`, with a certificate for the pod's identity from `ztun ca`.
    pub async fn start(self, mesh: &Mesh, pod: &Pod) -> Result<Envoy> {
        let credentials = ca::credentials(mesh, pod).await?;
        Envoy::start(mesh, pod, &credentials, self.parts()).await
    }

    fn parts(&self) -> Parts {
        let mut listeners = vec![tunnelling()];
        let mut clusters = vec![self.upstream()];
        for (port, destination) in &self.ports {
            let name = format!("to-{destination}");
            listeners.push(json!({
                "name": name,
                "address": { "socket_address": {
                    "address": Ipv4Addr::LOCALHOST, "port_value": port,
                } },
                "filter_chains": [{ "filters": tcp_proxy(&name, json!({})) }],
            }));
            let passthrough = json!([{ "name": ORIGINAL_DESTINATION, "kind": { "host": {} } }]);
            let endpoint = json!({ "metadata": { "filter_metadata": {
                ORIGINAL_DESTINATION: { "local": destination.to_string() },
            } } });
            clusters.push(internal_cluster(&name, TUNNELS, &passthrough, endpoint));
        }
        Parts {
            listeners,
            clusters,
        }
    }

    /// The proxies of the destinations.
    fn upstream(&self) -> Value {
        json!({
            "name": TUNNELS,
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": { "upstream_port_override": HBONE_PORT },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                    typed("upstreams.http.v3.HttpProtocolOptions", json!({
                        "explicit_http_config": { "http2_protocol_options": {} },
                    })),
            },
            "transport_socket": tls::towards(&self.server, self.groups),
        })
    }
}

/// The internal listener that opens a tunnel for each connection.
fn tunnelling() -> Value {
    let log = access_log(&json!({
        "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "flags": "%RESPONSE_FLAGS%",
        "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        "answer": "%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:TYPED)%",
        "server": "%UPSTREAM_PEER_URI_SAN%",
        "tls": "%UPSTREAM_TLS_VERSION%",
        "received": "%BYTES_RECEIVED%",
        "sent": "%BYTES_SENT%",
    }));
    let filters = tcp_proxy(
        TUNNELS,
        json!({
            "tunneling_config": {
                "hostname": "%DOWNSTREAM_LOCAL_ADDRESS%",
                "propagate_response_headers": true,
            },
            "access_log": log,
        }),
    );
    internal_listener(TUNNELS, &filters)
}
