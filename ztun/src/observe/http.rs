//! The TCP endpoints of a daemon: readiness, metrics, and what else it serves.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// Answers one request after another by their heads; `None` is "not found".
pub type Handler = dyn Fn(&Parts) -> Option<Answer>;

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: String,
}

impl Answer {
    pub fn text(status: StatusCode, body: String) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}: {source}; free the port or configure another")]
pub struct ListenError {
    address: SocketAddr,
    purpose: &'static str,
    source: io::Error,
}

/// Listens on an address; where the kernel has no IPv6, `[::]` is every IPv4 address.
pub async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<TcpListener, ListenError> {
    let bound = match TcpListener::bind(address).await {
        Err(error)
            if error.raw_os_error() == Some(libc::EAFNOSUPPORT)
                && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|source| ListenError {
        address,
        purpose,
        source,
    })
}

/// `/healthz/ready`: ready when nothing is missing.
pub fn readiness(missing: impl Fn() -> Vec<String>) -> impl Fn(&Parts) -> Option<Answer> {
    move |request| {
        (request.uri.path() == "/healthz/ready").then(|| match &missing()[..] {
            [] => Answer::text(StatusCode::OK, "ready\n".to_owned()),
            missing => Answer::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready:\n{}\n", missing.join("\n")),
            ),
        })
    }
}

pub fn metrics(registry: Registry) -> impl Fn(&Parts) -> Option<Answer> {
    move |request| {
        matches!(request.uri.path(), "/metrics" | "/stats/prometheus").then(|| {
            let mut body = String::new();
            match prometheus_client::encoding::text::encode(&mut body, &registry) {
                Ok(()) => Answer {
                    status: StatusCode::OK,
                    // Prometheus 3 takes no answer whose format it isn't told.
                    content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    body,
                },
                Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        })
    }
}

/// Serves until dropped. A client that dawdles over its request is cut off, so that it holds nothing.
pub async fn serve(listener: TcpListener, handler: Arc<Handler>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = handler.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (head, _) = request.into_parts();
            let answer = handler(&head)
                .unwrap_or_else(|| Answer::text(StatusCode::NOT_FOUND, "not found\n".to_owned()));
            let mut response = Response::new(Full::new(Bytes::from(answer.body)));
            *response.status_mut() = answer.status;
            let content_type = HeaderValue::from_static(answer.content_type);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::task::spawn_local(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP connection ended early");
            }
        });
    }
}
