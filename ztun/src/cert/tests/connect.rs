//! A handshake in memory, seen from both sides.

use std::{io, sync::Arc};

use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::cert::{PeerError, describe_tls_error, require_h2, tls};

pub(super) struct Connected {
    pub(super) client: client::TlsStream<DuplexStream>,
    pub(super) server: server::TlsStream<DuplexStream>,
}

/// How a handshake ended on each side that did not get through it.
pub(super) struct Refused {
    by_client: Option<io::Error>,
    by_server: Option<io::Error>,
}

/// A handshake and one byte from the server: a TLS 1.3 client is through before it hears of a refusal.
pub(super) async fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Connected, Refused> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        let name = ServerName::try_from("b.default.svc").unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        require_h2(stream.get_ref().1)?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        require_h2(stream.get_ref().1)?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        Ok(stream)
    };
    match tokio::join!(client, server) {
        (Ok(client), Ok(server)) => Ok(Connected { client, server }),
        (client, server) => Err(Refused {
            by_client: client.err(),
            by_server: server.err(),
        }),
    }
}

impl Refused {
    pub(super) fn client(&self) -> String {
        describe_tls_error(self.by_client.as_ref().unwrap())
    }

    pub(super) fn server(&self) -> String {
        describe_tls_error(self.by_server.as_ref().unwrap())
    }

    pub(super) fn server_identity_error(&self) -> &PeerError {
        let error = self.by_server.as_ref().unwrap();
        PeerError::of(tls::tls_error(error).unwrap()).unwrap()
    }
}
