//! Wire formats shared with Istio, generated from `ztun/proto`.

/// `istio.v1.auth`: certificates.
#[allow(clippy::pedantic, unused_qualifications)]
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}
