//! Envoy as HBONE's server, as Istio configures its waypoints: CONNECT over mutual TLS, carried on to an
//! internal listener, which connects to the tunnel's authority.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Envoy, Groups, Parts, access_log, internal_cluster, internal_listener, tcp_proxy, tls, typed,
};
use crate::{
    ca,
    mesh::Mesh,
    pod::Pod,
    rogue::{Claims, Credentials, HBONE_PORT},
};

const APPLICATION: &str = "application";
const INNER: &str = "inner";

/// How Envoy gets from a tunnel to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Connects to it.
    Direct,
    /// Connects to an internal listener, which connects to it.
    Internal,
}

/// An Envoy that is to be.
#[derive(Clone, Debug)]
pub struct HboneServer {
    client: String,
    identity: Option<String>,
    upstream: Upstream,
    denied: Option<String>,
    groups: Groups,
    options: Value,
}

impl HboneServer {
    /// Takes tunnels only from clients with the SPIFFE ID `client`.
    pub fn from(client: &str, upstream: Upstream) -> Self {
        Self {
            client: client.into(),
            identity: None,
            upstream,
            denied: None,
            groups: Groups::default(),
            options: json!({}),
        }
    }

    /// Shows a certificate for this SPIFFE ID, instead of its pod's.
    #[must_use]
    pub fn identity(mut self, identity: &str) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Its policy denies this SPIFFE ID.
    #[must_use]
    pub fn deny(mut self, principal: &str) -> Self {
        self.denied = Some(principal.into());
        self
    }

    /// A connection is told to go away (GOAWAY) with its tunnel number `number`.
    #[must_use]
    pub fn tunnels_per_connection(mut self, number: u32) -> Self {
        self.options["common_http_protocol_options"]["max_requests_per_connection"] = json!(number);
        self
    }

    /// A connection may have this many tunnels at once.
    #[must_use]
    pub fn tunnels_at_once(mut self, number: u32) -> Self {
        self.options["http2_protocol_options"]["max_concurrent_streams"] = json!(number);
        self
    }

    #[must_use]
    pub fn groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// Starts it in `pod`, with a certificate from `ztun ca`.
    pub async fn start(self, mesh: &Mesh, pod: &Pod) -> Result<Envoy> {
        let credentials = match &self.identity {
            None => ca::credentials(mesh, pod).await?,
            // Which no CA of the mesh would give it.
            Some(other) => Credentials::issue(&mesh.ca_directory(), &Claims::of(other)?)?,
        };
        Envoy::start(mesh, pod, &credentials, self.parts()).await
    }

    fn parts(&self) -> Parts {
        let connection_manager = json!([{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": typed(
                "filters.network.http_connection_manager.v3.HttpConnectionManager",
                self.connection_manager(),
            ),
        }]);
        let hbone = json!({
            "name": "hbone",
            "address": { "socket_address": {
                "address": "::", "ipv4_compat": true, "port_value": HBONE_PORT,
            } },
            "filter_chains": [{
                "transport_socket": tls::from(&self.client, self.groups),
                "filters": connection_manager,
            }],
        });
        let inner = internal_listener(INNER, &tcp_proxy(APPLICATION, json!({})));
        Parts {
            listeners: vec![hbone, inner],
            clusters: vec![
                internal_cluster(INNER, INNER, &json!([]), json!({})),
                json!({
                    "name": APPLICATION,
                    "type": "ORIGINAL_DST",
                    "lb_policy": "CLUSTER_PROVIDED",
                }),
            ],
        }
    }

    fn connection_manager(&self) -> Value {
        let cluster = match self.upstream {
            Upstream::Direct => APPLICATION,
            Upstream::Internal => INNER,
        };
        let connect = json!([{ "upgrade_type": "CONNECT", "connect_config": {} }]);
        let route = json!({
            "match": { "connect_matcher": {} },
            "route": { "cluster": cluster, "timeout": "0s", "upgrade_configs": connect },
        });
        let mut filters = Vec::new();
        filters.extend(self.denied.as_deref().map(denial));
        filters.push(destination());
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": typed("filters.http.router.v3.Router", json!({})),
        }));
        let mut manager = self.options.clone();
        manager["stat_prefix"] = json!("hbone");
        manager["codec_type"] = json!("HTTP2");
        manager["http2_protocol_options"]["allow_connect"] = json!(true);
        manager["stream_idle_timeout"] = json!("0s");
        manager["upgrade_configs"] = json!([{ "upgrade_type": "CONNECT" }]);
        manager["http_filters"] = json!(filters);
        manager["route_config"] = json!({ "virtual_hosts": [
            { "name": "tunnels", "domains": ["*"], "routes": [route] },
        ] });
        manager["access_log"] = access_log(&json!({
            "authority": "%REQ(:AUTHORITY)%",
                "status": "%RESPONSE_CODE%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "client": "%DOWNSTREAM_PEER_URI_SAN%",
                "tls": "%DOWNSTREAM_TLS_VERSION%",
                "baggage": "%REQ(BAGGAGE)%",
                "forwarded": "%REQ(FORWARDED)%",
                "traceparent": "%REQ(TRACEPARENT)%",
                "received": "%BYTES_RECEIVED%",
                "sent": "%BYTES_SENT%",
        }));
        manager
    }
}

/// Makes the authority the address that either way to the application goes to.
fn destination() -> Value {
    let keys = [
        "envoy.network.transport_socket.original_dst_address",
        "envoy.filters.listener.original_dst.local_ip",
    ];
    let values = keys.map(|key| {
        json!({
            "object_key": key,
            "format_string": { "text_format_source": { "inline_string": "%REQ(:AUTHORITY)%" } },
            "shared_with_upstream": "ONCE",
        })
    });
    json!({
        "name": "envoy.filters.http.set_filter_state",
        "typed_config": typed("filters.http.set_filter_state.v3.Config", json!({
            "on_request_headers": values,
        })),
    })
}

fn denial(principal: &str) -> Value {
    let policy = json!({
        "permissions": [{ "any": true }],
        "principals": [{ "authenticated": { "principal_name": { "exact": principal } } }],
    });
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": typed("filters.http.rbac.v3.RBAC", json!({
            "rules": { "action": "DENY", "policies": { "no-entry": policy } },
        })),
    })
}
