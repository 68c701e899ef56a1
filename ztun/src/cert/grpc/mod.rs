//! A CA over the network: istiod, istio-csr or `ztun ca`, by `istio.v1.auth.IstioCertificateService`.

mod address;
mod connection;
mod error;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::{BoxFuture, FutureExt};
use prost_types::{Struct, Value, value::Kind};
use tokio::fs;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};
use zeroize::Zeroizing;

pub use self::address::{CaAddress, InvalidCaAddress};
use self::connection::{Connection, Target};
use super::{CaError, CertificateAuthority, CertificateRequest, IssuedChain};
use crate::proto::ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};

/// A leaf, its intermediates and some roots are a hundredth of this.
const LARGEST_ANSWER: usize = 1 << 20;

/// Asks a CA with this node's token. Both files are read anew for each request, so that what
/// replaces them counts from then on.
pub struct GrpcCa {
    settings: GrpcCaSettings,
    cluster_id: MetadataValue<Ascii>,
    /// Connections whose last request was answered.
    idle: Mutex<Vec<Connection>>,
}

#[derive(Clone, Debug)]
pub struct GrpcCaSettings {
    pub address: CaAddress,
    /// PEM: what the CA's own certificate is verified by.
    pub root_file: PathBuf,
    /// This node's service-account token.
    pub token_file: PathBuf,
    pub cluster_id: Arc<str>,
}

#[derive(Debug, thiserror::Error)]
#[error("clusterId `{0}` can't be told to the CA: only printable ASCII characters can be sent")]
pub struct InvalidClusterId(Arc<str>);

impl GrpcCa {
    pub fn new(settings: GrpcCaSettings) -> Result<Self, InvalidClusterId> {
        let cluster_id = settings.cluster_id.parse();
        Ok(Self {
            cluster_id: cluster_id.map_err(|_| InvalidClusterId(settings.cluster_id.clone()))?,
            settings,
            idle: Mutex::default(),
        })
    }

    async fn ask(&self, request: &CertificateRequest) -> Result<IssuedChain, CaError> {
        let message = self.message(request).await?;
        let mut connection = self.connection().await?;
        let mut client = IstioCertificateServiceClient::with_origin(
            &mut connection,
            self.settings.address.uri(),
        )
        .max_decoding_message_size(LARGEST_ANSWER);
        let answer = client
            .create_certificate(message)
            .await
            .map_err(|status| error::of_status(self.to_string(), &request.identity, &status))?;
        self.idle().push(connection);
        IssuedChain::from_pem(&answer.into_inner().cert_chain)
    }

    async fn message(
        &self,
        request: &CertificateRequest,
    ) -> Result<Request<IstioCertificateRequest>, CaError> {
        let csr = request.csr.pem().map_err(|error| CaError::Key {
            identity: request.identity.clone(),
            reason: error.to_string(),
        })?;
        let identity = Kind::StringValue(request.identity.to_string());
        let identity = Value {
            kind: Some(identity),
        };
        let mut message = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(request.lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct {
                fields: [("ImpersonatedIdentity".to_owned(), identity)].into(),
            }),
        });
        let metadata = message.metadata_mut();
        metadata.insert("authorization", self.token().await?);
        metadata.insert("clusterid", self.cluster_id.clone());
        Ok(message)
    }

    async fn token(&self) -> Result<MetadataValue<Ascii>, CaError> {
        let file = &self.settings.token_file;
        let unusable = |reason: &dyn fmt::Display| CaError::NotConfigured {
            ca: self.to_string(),
            reason: format!(
                "this node's token in {} (ca.tokenFile) can't be used: {reason}",
                file.display()
            ),
        };
        let token = fs::read_to_string(file).await;
        let token = Zeroizing::new(token.map_err(|error| unusable(&error))?);
        if token.trim().is_empty() {
            return Err(unusable(&"the file is empty"));
        }
        let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut value: MetadataValue<Ascii> =
            bearer.parse().map_err(|_| unusable(&"it is not a token"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// An idle connection that the root in the file still vouches for, or a new one.
    async fn connection(&self) -> Result<Connection, CaError> {
        let root = self.root().await?;
        let kept = {
            let mut idle = self.idle();
            idle.retain(|connection| connection.is_usable(&root));
            idle.pop()
        };
        if let Some(connection) = kept {
            return Ok(connection);
        }
        let target = Target {
            address: &self.settings.address,
            root_file: &self.settings.root_file,
            root,
            ca: self.to_string(),
        };
        target.connect().await
    }

    async fn root(&self) -> Result<Arc<[u8]>, CaError> {
        let file: &Path = &self.settings.root_file;
        let unreadable = |error: io::Error| CaError::NotConfigured {
            ca: self.to_string(),
            reason: format!(
                "can't read its root in {} (ca.rootFile): {error}",
                file.display()
            ),
        };
        fs::read(file).await.map(Into::into).map_err(unreadable)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // No code that can panic leaves the list half-changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CertificateAuthority for GrpcCa {
    fn issue<'a>(
        &'a self,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedChain, CaError>> {
        self.ask(request).boxed()
    }
}

impl fmt::Display for GrpcCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the CA at {}", self.settings.address)
    }
}

impl fmt::Debug for GrpcCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcCa")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
