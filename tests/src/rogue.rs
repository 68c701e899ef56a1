//! Peers that don't play by the rules: clients of the HBONE port with certificates and requests of the
//! test's choice.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{pod::Pod, wait::PATIENCE};

pub const HBONE_PORT: u16 = 15008;
/// Longer than any handshake may take.
const CLOSE_LIMIT: Duration = Duration::from_mins(1);

/// A certificate for a test's client.
#[derive(Clone, Debug)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    pem: String,
    key: Arc<KeyPair>,
}

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Claims {
    names: Vec<SanType>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Claims {
    /// A certificate that is valid now, for the SPIFFE ID `identity`.
    pub fn of(identity: &str) -> Result<Self> {
        let name = identity.try_into().context("a SPIFFE ID is ASCII")?;
        Ok(Self::new(vec![SanType::URI(name)]))
    }

    /// A certificate that is valid now, for a DNS name alone.
    pub fn dns(name: &str) -> Result<Self> {
        let name = name.try_into().context("a DNS name is ASCII")?;
        Ok(Self::new(vec![SanType::DnsName(name)]))
    }

    /// The same, but expired for an hour.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.not_before = OffsetDateTime::now_utc() - Duration::from_hours(2);
        self.not_after = OffsetDateTime::now_utc() - Duration::from_hours(1);
        self
    }

    fn new(names: Vec<SanType>) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            names,
            not_before: now - Duration::from_mins(1),
            not_after: now + Duration::from_hours(1),
        }
    }
}

impl Credentials {
    /// The chain that a CA has given for `key`, without its root.
    pub fn new(chain: &[String], key: KeyPair) -> Result<Self> {
        let pem = chain.concat();
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
        Ok(Self {
            chain: certificates.collect::<Result<_, _>>()?,
            pem,
            key: Arc::new(key),
        })
    }

    /// Signed by the mesh's own certificate authority, whose files are in `ca`.
    pub fn issue(ca: &Path, claims: &Claims) -> Result<Self> {
        let root_key = KeyPair::from_pem(&fs::read_to_string(ca.join("root-key.pem"))?)?;
        let root = fs::read_to_string(ca.join("root-cert.pem"))?;
        sign(&Issuer::from_ca_cert_pem(&root, root_key)?, claims)
    }

    /// Signed by an authority that the mesh has never heard of.
    pub fn forge(claims: &Claims) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut root = CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        sign(&Issuer::new(root, key), claims)
    }

    /// The certificate as programs read it.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

/// An open tunnel in a connection of its own.
pub struct Tunnel {
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Tunnel {
    /// To `authority`, by way of the HBONE port at `to`.
    pub async fn open(
        pod: &Pod,
        to: SocketAddr,
        credentials: &Credentials,
        authority: &str,
    ) -> Result<Self> {
        let stream = tls(pod, to, Some(credentials), &["h2"]).await?;
        let (client, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let (response, send) = client
            .ready()
            .await?
            .send_request(connect(authority)?, false)?;
        let response = response.await?;
        ensure!(
            response.status() == 200,
            "the tunnel is refused: {}",
            response.status()
        );
        Ok(Self {
            send,
            receive: response.into_body(),
            connection,
        })
    }

    pub async fn exchange(&mut self, text: &str) -> Result<String> {
        self.send
            .send_data(Bytes::copy_from_slice(text.as_bytes()), false)?;
        let mut answer = Vec::new();
        while answer.len() < text.len() {
            let data = self
                .receive
                .data()
                .await
                .context("the tunnel has ended")??;
            answer.extend_from_slice(&data);
        }
        Ok(String::from_utf8(answer)?)
    }

    /// Waits until the tunnel is reset; fails if it ends as if all were said.
    pub async fn is_reset(&mut self) -> Result<()> {
        let end = timeout(PATIENCE, self.receive.data());
        match end.await.context("the tunnel stays open")? {
            Some(Err(_)) => Ok(()),
            other => bail!("the tunnel ended with {other:?}"),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A TLS connection from `pod`, which must not be captured, to `to`, with `credentials` if any.
pub async fn tls(
    pod: &Pod,
    to: SocketAddr,
    credentials: Option<&Credentials>,
    protocols: &[&str],
) -> Result<TlsStream<TcpStream>> {
    let stream = pod.connect(to).await?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
    let mut configuration = match credentials {
        Some(credentials) => {
            builder.with_client_auth_cert(credentials.chain.clone(), credentials.key())?
        }
        None => builder.with_no_client_auth(),
    };
    configuration.enable_sni = false;
    let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
    configuration.alpn_protocols = protocols.collect();
    let name = ServerName::IpAddress(to.ip().into());
    let handshake = TlsConnector::from(Arc::new(configuration)).connect(name, stream);
    timeout(PATIENCE, handshake)
        .await
        .context("the TLS handshake hangs")?
        .context("TLS handshake")
}

/// The names in the certificate that the HBONE port at `to` shows, as a reader of certificates prints
/// them: `URI(spiffe://…)`.
pub async fn names_shown(pod: &Pod, to: SocketAddr) -> Result<Vec<String>> {
    let stream = tls(pod, to, None, &["h2"]).await?;
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().context("no certificate")?;
    let leaf = chain.first().context("an empty chain")?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf)?;
    let names = leaf.subject_alternative_name()?.context("no names")?;
    let names = names.value.general_names.iter();
    Ok(names.map(ToString::to_string).collect())
}

/// Asks for a tunnel to `authority` by way of the HBONE port at `to`; answers the status.
///
/// In TLS 1.3 a client learns only afterwards that its certificate is refused: the error may come from any
/// of the steps.
pub async fn hbone_connect(
    pod: &Pod,
    to: SocketAddr,
    credentials: &Credentials,
    authority: &str,
) -> Result<StatusCode> {
    ask(pod, to, credentials, connect(authority)?).await
}

fn connect(authority: &str) -> Result<Request<()>> {
    let target = Uri::builder().authority(authority).build()?;
    let request = Request::builder().method(Method::CONNECT).uri(target);
    Ok(request.body(())?)
}

/// GETs `/` from the HBONE port at `to`; answers the status.
pub async fn get(pod: &Pod, to: SocketAddr, credentials: &Credentials) -> Result<StatusCode> {
    let request = Request::get(format!("https://{to}/")).body(())?;
    ask(pod, to, credentials, request).await
}

async fn ask(
    pod: &Pod,
    to: SocketAddr,
    credentials: &Credentials,
    request: Request<()>,
) -> Result<StatusCode> {
    let stream = tls(pod, to, Some(credentials), &["h2"]).await?;
    let asked = async {
        let (client, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let mut client = client.ready().await?;
        let (response, _body) = client.send_request(request, false)?;
        let status = response.await?.status();
        connection.abort();
        Ok(status)
    };
    timeout(PATIENCE, asked)
        .await
        .context("no answer to the request")?
}

/// Waits until the peer has closed or reset `stream`; answers what it sent before.
pub async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut received = Vec::new();
    // A reset is as good an end as any here.
    let end = timeout(CLOSE_LIMIT, stream.read_to_end(&mut received)).await;
    ensure!(end.is_ok(), "the peer keeps the connection open");
    Ok(received)
}

pub(crate) fn sign(issuer: &Issuer<'_, KeyPair>, claims: &Claims) -> Result<Credentials> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names.clone_from(&claims.names);
    leaf.not_before = claims.not_before;
    leaf.not_after = claims.not_after;
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let certificate = leaf.signed_by(&key, issuer)?;
    Ok(Credentials {
        pem: certificate.pem(),
        chain: vec![certificate.into()],
        key: Arc::new(key),
    })
}

/// Accepts every server: what is tested is what the server accepts.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
