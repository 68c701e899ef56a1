//! Serves the API of [`super::api`] on a Unix socket that only root can open.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::{UnixListener, UnixStream};

use super::{
    api::{
        CertificateChain, EnrolRequest, EnrolResponse, EnrolWhen, ErrorBody, HANDED_OVER,
        LogFilterBody, TlsCheckRequest, UnenrolRequest, UnenrolResponse,
    },
    membership::Membership,
    pods::{PodError, Pods},
    records::Origin,
    socket_file::SocketFile,
    status::StatusReporter,
};
use crate::{
    config::Config,
    mesh::answers::{Answers, Query, QueryError},
    observe::LogFilter,
};

/// Requests are a few hundred bytes; more is a mistake.
const MAX_BODY: usize = 64 * 1024;

#[derive(Debug)]
pub struct ApiServer {
    listener: UnixListener,
    file: Arc<SocketFile>,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "another daemon answers on {path}, and does not hand over; stop it first, or configure another `socket`"
    )]
    InUse { path: PathBuf },
    #[error("cannot listen on {path}: {source}; check that its directory can be written by root")]
    Io { path: PathBuf, source: io::Error },
}

/// What requests act on.
#[derive(Debug)]
pub struct Api {
    pub pods: Arc<Pods>,
    pub membership: Arc<Membership>,
    pub status: StatusReporter,
    pub config: Config,
    pub log: LogFilter,
}

impl ApiServer {
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(BindError::InUse {
                path: path.to_owned(),
            });
        }
        let file = SocketFile::prepare(path)?;
        let listener = UnixListener::bind(path).map_err(|source| BindError::io(path, source))?;
        file.restrict()?;
        Ok(Self { listener, file })
    }

    /// Goes on with a predecessor's listener.
    pub fn inherited(listener: OwnedFd, path: &Path) -> Result<Self, BindError> {
        let listener = UnixListener::from_std(listener.into());
        Ok(Self {
            listener: listener.map_err(|source| BindError::io(path, source))?,
            file: SocketFile::inherited(path),
        })
    }

    pub fn file(&self) -> Arc<SocketFile> {
        Arc::clone(&self.file)
    }

    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    pub async fn serve(self, api: Arc<Api>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::task::spawn_local(answer(stream, api.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an API connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl BindError {
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

async fn answer(stream: UnixStream, api: Arc<Api>) {
    let service = service_fn(|request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(route(request, &api).await) }
    });
    if let Err(error) = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!(%error, "API connection ended early");
    }
}

async fn route(request: Request<Incoming>, api: &Api) -> Response<Full<Bytes>> {
    let result = match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/pods") => enrol(request, api).await,
        (&Method::DELETE, "/v1/pods") => unenrol(request, api).await,
        (&Method::GET, "/v1/status") => Ok(json(StatusCode::OK, &api.status.report().await)),
        (&Method::GET, "/v1/verification") => {
            Ok(json(StatusCode::OK, &api.status.verified_pods().await))
        }
        (&Method::GET, "/v1/certificates") => {
            Ok(json(StatusCode::OK, &api.status.certificates.details()))
        }
        (&Method::POST, "/v1/certificates/verify") => verify_certificate(request, api).await,
        (&Method::GET, "/v1/config") => Ok(json(StatusCode::OK, &api.config)),
        (&Method::GET, "/v1/mesh") => Ok(json(StatusCode::OK, &*api.status.mesh.snapshot())),
        (&Method::POST, "/v1/tls-check") => tls_check(request, api).await,
        (&Method::POST, "/v1/authz-explain") => authz_explain(request, api).await,
        (&Method::GET, "/v1/log-filter") => Ok(log_filter(api)),
        (&Method::PUT, "/v1/log-filter") => set_log_filter(request, api).await,
        (method, path) => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("no {method} {path} here"),
        )),
    };
    result.unwrap_or_else(|failure| json(failure.status, &failure.body))
}

async fn enrol(request: Request<Incoming>, api: &Api) -> Result<Response<Full<Bytes>>, Failure> {
    let EnrolRequest { sandbox, when } = body(request).await?;
    let origin = match when {
        EnrolWhen::Always => Origin::Asked,
        EnrolWhen::InMesh if api.membership.takes_part(&sandbox).await? => Origin::Runtime,
        EnrolWhen::InMesh => {
            api.pods.remember(sandbox).await?;
            return Ok(json(StatusCode::OK, &EnrolResponse::NotInMesh));
        }
    };
    let addresses = api.pods.enrol(sandbox, origin).await?;
    Ok(json(StatusCode::OK, &EnrolResponse::Enrolled { addresses }))
}

async fn unenrol(request: Request<Incoming>, api: &Api) -> Result<Response<Full<Bytes>>, Failure> {
    let UnenrolRequest { pod, sandbox_id } = body(request).await?;
    let response = if api.pods.release(&pod, sandbox_id.as_deref()).await? {
        UnenrolResponse::Released
    } else {
        UnenrolResponse::NotEnrolled
    };
    Ok(json(StatusCode::OK, &response))
}

async fn verify_certificate(
    request: Request<Incoming>,
    api: &Api,
) -> Result<Response<Full<Bytes>>, Failure> {
    let CertificateChain { pem } = body(request).await?;
    let judged = api.status.certificates.judge(&pem);
    let judgement = judged
        .map_err(|error| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    Ok(json(StatusCode::OK, &judgement))
}

async fn tls_check(
    request: Request<Incoming>,
    api: &Api,
) -> Result<Response<Full<Bytes>>, Failure> {
    let checks = match body(request).await? {
        TlsCheckRequest::Connection(query) => {
            answer_about_mesh(api, move |answers| answers.tls_check(&query)).await?
        }
        TlsCheckRequest::All => {
            answer_about_mesh(api, |answers| Ok(answers.tls_check_all())).await?
        }
    };
    Ok(json(StatusCode::OK, &checks))
}

async fn authz_explain(
    request: Request<Incoming>,
    api: &Api,
) -> Result<Response<Full<Bytes>>, Failure> {
    let query: Query = body(request).await?;
    let explain = move |answers: Answers<'_>| answers.authz_explain(&query);
    let explanations = answer_about_mesh(api, explain).await?;
    Ok(json(StatusCode::OK, &explanations))
}

/// On a thread of its own: an answer about a large mesh takes a while.
async fn answer_about_mesh<T: Send + 'static>(
    api: &Api,
    ask: impl FnOnce(Answers<'_>) -> Result<T, QueryError> + Send + 'static,
) -> Result<T, Failure> {
    let mesh = &api.status.mesh;
    if !mesh.synced() {
        let error = "the mesh state is not read yet".to_owned();
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, error));
    }
    let (snapshot, transport) = (mesh.snapshot(), api.config.transport_settings());
    let node = Arc::clone(&api.config.node_name);
    let answering = tokio::task::spawn_blocking(move || {
        ask(Answers {
            snapshot: &snapshot,
            node: &node,
            transport,
        })
    });
    answering
        .await
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
        .map_err(|error| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

fn log_filter(api: &Api) -> Response<Full<Bytes>> {
    let filter = api.log.text();
    json(StatusCode::OK, &LogFilterBody { filter })
}

async fn set_log_filter(
    request: Request<Incoming>,
    api: &Api,
) -> Result<Response<Full<Bytes>>, Failure> {
    let LogFilterBody { filter } = body(request).await?;
    api.log
        .set(&filter)
        .map_err(|error| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    Ok(log_filter(api))
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let bytes = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("request body: {error}")))?
        .to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("request body: {error}")))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

struct Failure {
    status: StatusCode,
    body: ErrorBody,
}

impl Failure {
    fn new(status: StatusCode, error: String) -> Self {
        Self {
            status,
            body: ErrorBody {
                error,
                retry: false,
            },
        }
    }
}

impl From<PodError> for Failure {
    fn from(error: PodError) -> Self {
        tracing::warn!(%error, "request refused");
        let status = match error {
            PodError::HandedOver => HANDED_OVER,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self {
            status,
            body: ErrorBody {
                error: error.to_string(),
                retry: error.is_temporary(),
            },
        }
    }
}
