//! Asks the daemon over its Unix socket.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, runtime};

use crate::node::api::{ErrorBody, HANDED_OVER};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers on {socket}: {source}; is `ztun node` running?")]
    Unreachable {
        socket: PathBuf,
        source: std::io::Error,
    },
    #[error("the daemon on {socket} broke off: {cause}")]
    Broken { socket: PathBuf, cause: String },
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    RefusedForNow(String),
    #[error("another daemon has taken over this node again and again: try again later")]
    HandedOver,
}

impl ClientError {
    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// How often a daemon may hand over while a request waits for it.
const HANDOVERS: u32 = 10;

/// One request, one answer, blocking.
pub fn call<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ClientError> {
    for _ in 1..HANDOVERS {
        match call_once(socket, method.clone(), path, body) {
            // Its successor answers on the same socket.
            Err(ClientError::HandedOver) => {}
            result => return result,
        }
    }
    call_once(socket, method, path, body)
}

fn call_once<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ClientError> {
    let broken = |cause: String| ClientError::Broken {
        socket: socket.to_owned(),
        cause,
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| broken(error.to_string()))?;
    runtime.block_on(async {
        let stream =
            UnixStream::connect(socket)
                .await
                .map_err(|source| ClientError::Unreachable {
                    socket: socket.to_owned(),
                    source,
                })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.to_string()))?;
        let body = serde_json::to_vec(body).map_err(|error| broken(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "ztun")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let (status, bytes) = tokio::select! {
            answer = exchange => answer,
            Err(error) = connection => Err(error),
        }
        .map_err(|error| broken(error.to_string()))?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                broken(format!("unexpected answer, is it another version? {error}"))
            });
        }
        if status == HANDED_OVER {
            return Err(ClientError::HandedOver);
        }
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) if body.retry => Err(ClientError::RefusedForNow(body.error)),
            Ok(body) => Err(ClientError::Refused(body.error)),
            Err(_) => Err(broken(format!("it answered {status}"))),
        }
    })
}
