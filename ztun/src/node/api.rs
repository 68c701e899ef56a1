//! What the daemon answers on its Unix socket: HTTP/1.1 with JSON bodies.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/pods` | [`EnrolRequest`] | [`EnrolResponse`] once kernel state is in place |
//! | `DELETE /v1/pods` | [`UnenrolRequest`] | [`UnenrolResponse`] |
//! | `GET /v1/status` | – | [`NodeStatus`](super::status::NodeStatus) |
//! | `GET /v1/certificates` | – | a list of [`CertificateDetails`](crate::cert::inspect::CertificateDetails), without keys |
//! | `POST /v1/certificates/verify` | [`CertificateChain`] | [`Judgement`](crate::cert::inspect::Judgement) |
//! | `GET /v1/config` | – | [`Config`](crate::config::Config) |
//! | `GET /v1/mesh` | – | [`Snapshot`](crate::mesh::Snapshot) |
//! | `GET /v1/log-filter` | – | [`LogFilterBody`] |
//! | `PUT /v1/log-filter` | [`LogFilterBody`] | the same, once it is in force |
//! | `POST /v1/tls-check` | [`TlsCheckRequest`] | a list of [`TlsCheck`](crate::mesh::answers::TlsCheck) |
//! | `POST /v1/authz-explain` | [`Query`] | a list of [`AuthzExplanation`](crate::mesh::answers::AuthzExplanation) |
//!
//! Errors are [`ErrorBody`] with a status of 400 and above.

use std::{net::IpAddr, path::PathBuf};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    mesh::{PodName, answers::Query},
    redirect::PodSandbox,
};

/// The answer to a request that came too late for this daemon: nothing was done, and the one that
/// has taken over answers on the same socket.
pub const HANDED_OVER: StatusCode = StatusCode::MISDIRECTED_REQUEST;

/// Which pods an enrolment is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnrolWhen {
    /// The caller says that this pod is to be captured.
    #[default]
    Always,
    /// Only if the mesh says that the pod takes part: how a CNI plugin asks, which sees every pod.
    InMesh,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrolRequest {
    pub sandbox: PodSandbox,
    #[serde(default)]
    pub when: EnrolWhen,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum EnrolResponse {
    /// The pod is captured from now on.
    Enrolled { addresses: Vec<IpAddr> },
    /// The mesh says that the pod takes no part in it; it is enrolled when that changes.
    NotInMesh,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnenrolRequest {
    pub pod: PodName,
    /// Only if the pod is enrolled with this sandbox: a late DEL must not hit the pod's successor.
    #[serde(default)]
    pub sandbox_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UnenrolResponse {
    Released,
    /// No such pod is enrolled (or it is another sandbox by now): nothing was done.
    NotEnrolled,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilterBody {
    pub filter: String,
}

/// What a peer would show.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateChain {
    /// The leaf, then intermediates. Private keys don't belong here.
    pub pem: String,
}

/// Which connections are to be checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsCheckRequest {
    Connection(Query),
    /// From every enrolled workload to every port of every service.
    All,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
    /// Whether the same request may succeed later, with nothing changed by the caller.
    #[serde(default)]
    pub retry: bool,
}

/// Where the daemon listens unless the configuration says otherwise.
pub fn default_socket() -> PathBuf {
    PathBuf::from("/run/ztun/ztun.sock")
}
