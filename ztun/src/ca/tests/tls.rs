//! The CA as a TLS server.

use rustls::version::TLS13;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

async fn connect(
    rig: &Rig,
    config: ClientConfig,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(rig.address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await?;
    // In TLS 1.3 a client that is refused learns of it when it reads.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    stream.read_u8().await?;
    Ok(stream)
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

#[tokio::test]
async fn its_certificate_is_for_its_configured_names_by_its_own_root() {
    let rig = Rig::start().await;
    connect(&rig, rig.trusting_client(), "localhost")
        .await
        .unwrap();
    let error = connect(&rig, rig.trusting_client(), "elsewhere")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_client_that_does_not_speak_http_2_is_refused() {
    let rig = Rig::start().await;
    for offer in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = rig.trusting_client();
        config.alpn_protocols = offer;
        connect(&rig, config, "localhost").await.unwrap_err();
    }
    // The server counts after the client has noticed.
    let count = || rig.metric("ztun_ca_connections_refused_total{reason=\"tls\"}");
    while count() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn plaintext_is_not_answered() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A TLS alert, or a reset.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_who_comes_next() {
    let rig = Rig::start().await;
    let before = connect(&rig, rig.trusting_client(), "localhost")
        .await
        .unwrap();
    let now = SystemClock.now();
    assert!(!rig.serving.is_due(now));
    assert!(rig.serving.is_due(now + Duration::from_hours(14)));
    rig.serving.renew(&rig.signer.current(), now).unwrap();
    let after = connect(&rig, rig.trusting_client(), "localhost")
        .await
        .unwrap();
    assert_ne!(shown(&before), shown(&after));
}

#[tokio::test]
async fn its_certificate_proves_no_workload() {
    let rig = Rig::start().await;
    let stream = connect(&rig, rig.trusting_client(), "localhost")
        .await
        .unwrap();
    let certificate = shown(&stream);
    crate::cert::peer_identity(stream.get_ref().1).unwrap_err();
    let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    assert!(!certificate.is_ca());
    assert!(TLS13.version == stream.get_ref().1.protocol_version().unwrap());
}

#[tokio::test]
async fn an_orderly_end_waits_for_nobody_idle() {
    let rig = Rig::start().await;
    let client = rig.client().await;
    rig.server.stop();
    tokio::time::timeout(Duration::from_secs(20), rig.served)
        .await
        .expect("the server ends")
        .unwrap();
    drop(client);
}
