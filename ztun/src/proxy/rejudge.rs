//! Applies changed policies and changed trust to the connections that are open already.

use std::sync::{Arc, Weak};

use super::{Proxy, error::ProxyError, inbound};
use crate::observe::Direction;

/// Runs until the proxy is gone.
pub async fn on_changes(proxy: Weak<Proxy>) {
    let Some(mut versions) = proxy.upgrade().map(|proxy| proxy.mesh.versions()) else {
        return;
    };
    while versions.changed().await.is_ok() {
        let Some(proxy) = proxy.upgrade() else {
            return;
        };
        keep_certificates(&proxy);
        rejudge(&proxy);
    }
}

/// Runs until the proxy is gone.
pub async fn on_changed_trust(proxy: Weak<Proxy>) {
    let Some(mut changes) = proxy
        .upgrade()
        .map(|proxy| proxy.certificates.trust().changes())
    else {
        return;
    };
    while changes.changed().await.is_ok() {
        let Some(proxy) = proxy.upgrade() else {
            return;
        };
        end_distrusted(&proxy);
    }
}

/// Tunnels of peers that aren't believed any more. Connections without one end by themselves.
fn end_distrusted(proxy: &Proxy) {
    let trust = proxy.certificates.trust();
    for connection in proxy.connections.all() {
        let judged = connection.peer().map_or(Ok(()), |peer| trust.judge(peer));
        if let Err(distrusted) = judged {
            connection.close(distrusted.into());
        }
    }
}

/// Asks for the certificates of pods that the mesh state has just told about, before they need them.
fn keep_certificates(proxy: &Proxy) {
    let snapshot = proxy.mesh.snapshot();
    for pod in proxy.pods.all() {
        if let Some(workload) = snapshot.workload_by_pod(&pod.pod.name) {
            pod.keep_certificate(&workload.identity);
        }
    }
}

fn rejudge(proxy: &Arc<Proxy>) {
    let snapshot = proxy.mesh.snapshot();
    for connection in proxy.connections.all() {
        let flow = connection.flow();
        if flow.direction != Direction::Inbound {
            continue;
        }
        // One without a workload has not been let in.
        let Some(admitted) = &flow.destination.workload else {
            continue;
        };
        let destination = snapshot.workload(&admitted.uid).unwrap_or(admitted);
        if let Err(denial) = inbound::judge(proxy, &connection, destination) {
            connection.close(ProxyError::Revoked(denial));
        }
    }
}
