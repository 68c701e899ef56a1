//! What is tried with arbitrary bytes: by the fuzzer, and by `tests/fuzzed.rs` with the corpus.
//!
//! No input may panic, and what each body asserts holds for all of them.

// Each target is one of them.
#![allow(dead_code)]

use std::{path::Path, sync::Arc};

use http::{HeaderMap, HeaderValue, Uri, uri::Authority};
use ztun::{
    mesh::Connection,
    proxy::hbone::{baggage::Baggage, forwarded::Forwarded, headers::HboneTarget},
    source::{
        TranslateSettings,
        file::{Objects, read_text},
        kubernetes_objects::{Kind, Object, ReadContext},
        translate::Translator,
    },
};

/// Bytes that stay below this take no longer than the fuzzer waits.
const MAX_TEXT: usize = 64 << 10;

/// A file of the mesh directory, from its text to decisions about connections.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if text.len() > MAX_TEXT {
        return;
    }
    let settings = settings();
    let context = settings.read_context();
    let objects = read(text, &Objects::new(), context);
    let again = read(text, &objects, context);
    assert_eq!(again.len(), objects.len(), "the second reading differs");

    let mut translator = Translator::new(settings);
    for (key, object) in objects {
        translator.insert(key, object);
    }
    let snapshot = translator.snapshot();
    translator.problems();
    let source = "192.0.2.1:4711";
    for workload in snapshot.workloads() {
        let connection = Connection {
            source: Some(&workload.identity),
            source_address: source.parse().expect("an address"),
            destination: workload,
            destination_address: "192.0.2.2:80".parse().expect("an address"),
        };
        let explanation = snapshot.policies().explain(&connection);
        assert_eq!(explanation.decision, snapshot.authorize(&connection));
    }
}

/// The `:authority` of a CONNECT.
pub fn authority(data: &[u8]) {
    let Ok(authority) = Authority::try_from(data) else {
        return;
    };
    let Ok(HboneTarget(target)) = HboneTarget::of(&Uri::from(authority)) else {
        return;
    };
    assert_eq!(target.ip(), target.ip().to_canonical());
    let written = target.to_string().parse().expect("an authority");
    assert_eq!(HboneTarget::of(&written), Ok(HboneTarget(target)));
}

pub fn forwarded(data: &[u8]) {
    let Some(forwarded) = Forwarded::of(&headers("forwarded", data)) else {
        return;
    };
    if let Some(source) = forwarded.source {
        assert_eq!(source, source.to_canonical());
    }
    if let Some(host) = forwarded.host {
        assert!((1..=253).contains(&host.len()), "{host}");
        assert!(!host.contains(|c: char| !c.is_ascii_graphic() || c.is_ascii_uppercase()));
    }
}

/// Of several header lines, one for each line of the input.
pub fn baggage(data: &[u8]) {
    let Some(baggage) = Baggage::of(&headers("baggage", data)) else {
        return;
    };
    let Baggage {
        cluster,
        namespace,
        workload,
        service,
        version,
    } = baggage;
    for value in [cluster, namespace, workload, service, version] {
        assert!(value.len() <= 253, "{value}");
        assert!(!value.contains(char::is_control), "{value:?}");
    }
}

/// The objects of a text; a policy that it rejects has something in its place.
fn read(text: &str, previous: &Objects, context: ReadContext<'_>) -> Objects {
    let contents = read_text(Path::new("fuzzed.yaml"), text, previous, context);
    assert!(contents.rejected <= contents.problems.len() as u64);
    let policies = contents.objects.iter().filter(|(key, object)| {
        key.kind == Kind::PeerAuthentication || matches!(***object, Object::Unreadable(_))
    });
    let mut problems = contents.problems.iter();
    if problems.any(|problem| problem.object.starts_with("PeerAuthentication ")) {
        assert_ne!(policies.count(), 0, "a policy is gone without a trace");
    }
    contents.objects
}

fn settings() -> TranslateSettings {
    TranslateSettings {
        trust_domain: "cluster.local".parse().expect("a trust domain"),
        cluster_id: Arc::from("Kubernetes"),
        cluster_domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
        trust_domain_aliases: Arc::default(),
    }
}

fn headers(name: &'static str, data: &[u8]) -> HeaderMap {
    let lines = data.split(|byte| *byte == b'\n');
    let values = lines.filter_map(|line| HeaderValue::from_bytes(line).ok());
    let mut headers = HeaderMap::new();
    for value in values {
        // A map has room for a bounded number of values.
        if headers.try_append(name, value).is_err() {
            break;
        }
    }
    headers
}
