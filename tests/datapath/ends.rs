//! How connections fail is how the application sees them fail.

use std::io::ErrorKind;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use ztun_tests::{Family, Mesh, app, scenario, wait::PATIENCE};

use crate::{PORT, two_nodes};

#[test]
fn a_refused_connection_is_reset_on_the_same_node() {
    scenario(two_nodes(), async |mesh| {
        is_refused(mesh, "shop/near").await
    });
}

#[test]
fn a_refused_connection_is_reset_on_another_node() {
    scenario(two_nodes(), async |mesh| is_refused(mesh, "shop/far").await);
}

#[test]
fn a_reset_by_the_server_is_a_reset_for_the_client_on_the_same_node() {
    scenario(two_nodes(), async |mesh| {
        server_resets(mesh, "shop/near").await
    });
}

#[test]
fn a_reset_by_the_server_is_a_reset_for_the_client_on_another_node() {
    scenario(two_nodes(), async |mesh| {
        server_resets(mesh, "shop/far").await
    });
}

#[test]
fn a_reset_by_the_client_is_a_reset_for_the_server() {
    scenario(two_nodes(), async |mesh| {
        for server in ["shop/near", "shop/far"] {
            let (ended, mut end) = tokio::sync::mpsc::channel(1);
            let server = mesh.pod(server);
            let _server = server.serve(PORT, move |mut stream: TcpStream, _| {
                let ended = ended.clone();
                async move {
                    stream.write_all(b"!").await?;
                    let end = stream.read_to_end(&mut Vec::new()).await;
                    // The test that waits for this has failed if nobody listens.
                    let _ = ended.send(end.map_err(|error| error.kind())).await;
                    Ok(())
                }
            })?;
            let to = server.at(Family::V4, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            assert_eq!(stream.read_u8().await?, b'!');
            app::reset(stream)?;
            let end = timeout(PATIENCE, end.recv()).await?;
            assert_eq!(end, Some(Err(ErrorKind::ConnectionReset)));
        }
        Ok(())
    });
}

/// The client's `connect()` has succeeded by the time the refusal is known: it ends in a reset then.
async fn is_refused(mesh: &Mesh, server: &str) -> Result<()> {
    for &family in Family::available() {
        let to = mesh.pod(server).at(family, PORT);
        let end = match mesh.pod("shop/client").connect(to).await {
            Ok(mut stream) => timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await?,
            Err(error) => Err(error),
        };
        let kind = end.map_err(|error| error.kind());
        assert!(
            matches!(
                kind,
                Err(ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
            ),
            "{family:?}: {kind:?}"
        );
    }
    Ok(())
}

async fn server_resets(mesh: &Mesh, server: &str) -> Result<()> {
    let server = mesh.pod(server);
    let _server = server.reset_after(PORT, 5)?;
    let to = server.at(Family::V4, PORT);
    let mut stream = mesh.pod("shop/client").connect(to).await?;
    stream.write_all(b"12345").await?;
    let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
    assert_eq!(
        end.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionReset)
    );
    Ok(())
}
