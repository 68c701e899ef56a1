//! Mutual TLS of an Envoy: TLS 1.3, HTTP/2, and exactly the SPIFFE IDs that are expected.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::typed;
use crate::rogue::Credentials;

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const ROOT: &str = "root.pem";

/// The groups for key exchange that it offers or takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Groups {
    /// Its own choice.
    #[default]
    Default,
    /// X25519 alone.
    Classical,
    /// X25519MLKEM768 alone.
    Hybrid,
}

/// Writes what the contexts name into Envoy's directory.
pub fn write(directory: &Path, ca: &Path, credentials: &Credentials) -> Result<()> {
    let (certificate, key) = (credentials.certificate_pem(), credentials.key_pem());
    fs::write(directory.join(CERTIFICATE), certificate)?;
    fs::write(directory.join(KEY), key)?;
    let root = ca.join("root-cert.pem");
    fs::copy(&root, directory.join(ROOT)).with_context(|| format!("copy {}", root.display()))?;
    Ok(())
}

pub fn towards(server: &str, groups: Groups) -> Value {
    let common = common(server, groups);
    socket(
        "UpstreamTlsContext",
        json!({ "common_tls_context": common }),
    )
}

pub fn from(client: &str, groups: Groups) -> Value {
    let context = json!({
        "common_tls_context": common(client, groups),
        "require_client_certificate": true,
        "disable_stateless_session_resumption": true,
    });
    socket("DownstreamTlsContext", context)
}

fn socket(context: &str, fields: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(&format!("transport_sockets.tls.v3.{context}"), fields),
    })
}

fn common(peer: &str, groups: Groups) -> Value {
    let mut parameters = json!({
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
    });
    match groups {
        Groups::Default => {}
        Groups::Classical => parameters["ecdh_curves"] = json!(["X25519"]),
        Groups::Hybrid => parameters["ecdh_curves"] = json!(["X25519MLKEM768"]),
    }
    json!({
        "tls_params": parameters,
        "alpn_protocols": ["h2"],
        "tls_certificates": [{
            "certificate_chain": { "filename": CERTIFICATE },
            "private_key": { "filename": KEY },
        }],
        "validation_context": {
            "trusted_ca": { "filename": ROOT },
            "match_typed_subject_alt_names": [
                { "san_type": "URI", "matcher": { "exact": peer } },
            ],
        },
    })
}
