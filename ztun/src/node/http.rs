//! The daemon's TCP endpoints: `/healthz/ready` and `/metrics`.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Answers GET requests for one path after another.
pub type Handler = dyn Fn(&str) -> Option<(StatusCode, String)>;

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
            let (status, body) = handler(request.uri().path())
                .unwrap_or_else(|| (StatusCode::NOT_FOUND, "not found\n".to_owned()));
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
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
