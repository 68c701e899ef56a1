//! Proxies that stop halfway: servers of the HBONE port that fall silent at a stage of the test's choice.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::Result;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    app::App,
    pod::Pod,
    rogue::{Credentials, HBONE_PORT},
};

/// What a server never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Say a word after it has accepted.
    Tls,
    /// Speak HTTP/2 after the TLS handshake.
    Http2,
    /// Answer a CONNECT.
    Connect,
}

impl Pod {
    /// Takes tunnels with `credentials`, and falls silent at `stage`. The pod must not be captured.
    pub fn hang_at(&self, stage: Stage, credentials: &Credentials) -> Result<App> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut configuration = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(credentials.chain().to_vec(), credentials.key())?;
        configuration.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(configuration));
        let serve = move |stream: TcpStream, _: SocketAddr| hang(stream, acceptor.clone(), stage);
        Ok(self.serve(HBONE_PORT, serve)?)
    }
}

async fn hang(stream: TcpStream, acceptor: TlsAcceptor, stage: Stage) -> io::Result<()> {
    if stage == Stage::Tls {
        return closed(stream).await;
    }
    let stream = acceptor.accept(stream).await?;
    if stage == Stage::Http2 {
        return closed(stream).await;
    }
    let handshake = h2::server::handshake(stream).await;
    let mut connection = handshake.map_err(io::Error::other)?;
    let mut unanswered = Vec::new();
    while let Some(request) = connection.accept().await {
        unanswered.push(request.map_err(io::Error::other)?);
    }
    Ok(())
}

async fn closed(mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}
