//! OpenSSL's own client on a pod's HBONE port: what it is let in with, and what it is refused for.
//!
//! Each case ends in a byte of HTTP/2 or in none: in TLS 1.3 a client is through before the server has
//! judged its certificate.

use std::{fs, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, PodSpec,
    rogue::{Claims, Credentials, HBONE_PORT},
    scenario, wait,
};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const HYBRID: &str = "X25519MLKEM768";
const CLASSICAL: &[&str] = &["X25519", "P-256", "P-384"];
/// A handshake that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30);
/// The part of an HTTP/2 frame before its payload (RFC 9113, 4.1); the server's first is SETTINGS.
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;

/// A pod that takes tunnels, and one outside of the mesh to try from.
fn mesh() -> MeshBuilder {
    let outside = PodSpec::new("outside/client").enrolment(Enrolment::Outside);
    Mesh::builder()
        .nodes(["a"])
        .pod(PodSpec::new("shop/server"))
        .pod(outside)
        .needs("openssl")
}

fn mesh_with(key_exchange: &str) -> MeshBuilder {
    mesh().setting("tls.keyExchange", json!(key_exchange))
}

#[test]
fn openssl_and_the_pod_prove_themselves_to_each_other() {
    scenario(mesh(), async |mesh| {
        for family in [Family::V4, Family::V6] {
            let to = mesh.pod("shop/server").at(family, HBONE_PORT);
            let client = Client::of_mesh(mesh)?;
            client.run(mesh, to, &["-alpn", "h2"]).await?.is_let_in();
        }
        Ok(())
    });
}

#[test]
fn tls_1_2_is_refused() {
    is_refused(
        &["-alpn", "h2", "-tls1_2"],
        "alert protocol version",
        "does not speak the mesh's TLS 1.3",
    );
}

#[test]
fn another_protocol_than_http_2_is_refused() {
    is_refused(
        &["-alpn", "http/1.1"],
        "alert no application protocol",
        "does not offer HTTP/2",
    );
}

#[test]
fn no_protocol_is_refused() {
    is_refused(&[], "", "does not offer HTTP/2");
}

#[test]
fn a_cipher_suite_that_is_not_aes_is_refused() {
    is_refused(
        &[
            "-alpn",
            "h2",
            "-ciphersuites",
            "TLS_CHACHA20_POLY1305_SHA256",
        ],
        "alert handshake failure",
        "NoCipherSuitesInCommon",
    );
}

#[test]
fn no_client_certificate_is_refused() {
    scenario(mesh(), async |mesh| {
        let client = Client::without_certificate(mesh);
        let end = client.run(mesh, hbone(mesh), &["-alpn", "h2"]).await?;
        end.is_refused("alert certificate required");
        is_logged(mesh, "no certificate was presented").await
    });
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    scenario(mesh(), async |mesh| {
        let forged = Credentials::forge(&Claims::of(CLIENT)?)?;
        let client = Client::with(mesh, &forged)?;
        let end = client.run(mesh, hbone(mesh), &["-alpn", "h2"]).await?;
        end.is_refused("alert unknown ca");
        is_logged(mesh, "not signed by a root").await
    });
}

/// The hybrid one is offered by OpenSSL 3.5 and newer; with an older one, `interop::envoy::trust` alone does it.
#[test]
fn the_key_exchanges_that_the_setting_allows_are_accepted() {
    let hybrid = if knows_the_hybrid() {
        &[HYBRID][..]
    } else {
        &[]
    };
    for (setting, accepted, refused) in [
        ("hybrid-preferred", [CLASSICAL, hybrid].concat(), &[][..]),
        ("hybrid-only", hybrid.to_vec(), CLASSICAL),
        ("classical", CLASSICAL.to_vec(), hybrid),
    ] {
        scenario(mesh_with(setting), async |mesh| {
            for group in &accepted {
                offer(mesh, group).await?.is_let_in();
            }
            for group in refused {
                let end = offer(mesh, group).await?;
                end.is_refused("alert handshake failure");
                is_logged(mesh, "compare `tls.keyExchange` of both sides").await?;
            }
            Ok(())
        });
    }
}

/// Asks for a tunnel with nothing wrong but these options.
fn is_refused(options: &[&str], alert: &str, logged: &str) {
    scenario(mesh(), async |mesh| {
        let client = Client::of_mesh(mesh)?;
        client
            .run(mesh, hbone(mesh), options)
            .await?
            .is_refused(alert);
        is_logged(mesh, logged).await
    });
}

async fn offer(mesh: &Mesh, group: &str) -> Result<End> {
    let options = ["-alpn", "h2", "-groups", group];
    Client::of_mesh(mesh)?
        .run(mesh, hbone(mesh), &options)
        .await
}

fn hbone(mesh: &Mesh) -> SocketAddr {
    mesh.pod("shop/server").at(Family::V4, HBONE_PORT)
}

async fn is_logged(mesh: &Mesh, reason: &str) -> Result<()> {
    wait::until(format_args!("the log says: {reason}"), async || {
        mesh.node("a").log().contains(reason)
    })
    .await
}

fn knows_the_hybrid() -> bool {
    let listed = std::process::Command::new("openssl")
        .args(["list", "-kem-algorithms"])
        .output();
    listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(HYBRID))
}

/// `openssl s_client`, which itself takes only the mesh's root.
struct Client {
    root: PathBuf,
    certificate: Option<(PathBuf, PathBuf)>,
}

/// How it ended: what the server sent inside of TLS, and what OpenSSL says.
#[derive(Debug)]
struct End {
    received: Vec<u8>,
    said: String,
}

impl Client {
    fn of_mesh(mesh: &Mesh) -> Result<Self> {
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?)?;
        Self::with(mesh, &credentials)
    }

    fn with(mesh: &Mesh, credentials: &Credentials) -> Result<Self> {
        let directory = mesh.scratch("openssl")?;
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        fs::write(&certificate, credentials.certificate_pem())?;
        fs::write(&key, credentials.key_pem())?;
        Ok(Self {
            certificate: Some((certificate, key)),
            ..Self::without_certificate(mesh)
        })
    }

    fn without_certificate(mesh: &Mesh) -> Self {
        Self {
            root: mesh.ca_directory().join("root-cert.pem"),
            certificate: None,
        }
    }

    /// Connects from outside of the mesh, and waits for the first frame or the end.
    async fn run(&self, mesh: &Mesh, to: SocketAddr, options: &[&str]) -> Result<End> {
        let mut command: Command = mesh.pod("outside/client").command("openssl")?;
        command
            .args(["s_client", "-connect", &to.to_string()])
            .args(["-brief", "-noservername", "-verify_return_error"])
            .arg("-CAfile")
            .arg(&self.root)
            .args(options);
        if let Some((certificate, key)) = &self.certificate {
            command.arg("-cert").arg(certificate).arg("-key").arg(key);
        }
        // An open standard input: at its end, s_client would end.
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start openssl")?;
        let mut stdout = process.stdout.take().context("no output")?;
        let mut frame = [0; FRAME_HEADER];
        let mut received = 0;
        let reading = async {
            while received < FRAME_HEADER {
                match stdout.read(&mut frame[received..]).await? {
                    0 => break,
                    count => received += count,
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        timeout(LIMIT, reading).await.context("openssl hangs")??;
        // It may have ended by itself.
        let _ = process.start_kill();
        let output = process.wait_with_output().await?;
        Ok(End {
            received: frame[..received].to_vec(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

impl End {
    fn is_let_in(&self) {
        assert_eq!(self.received.get(3), Some(&SETTINGS), "{self:?}");
        // OpenSSL's own verdict about the pod's certificate.
        assert!(self.said.contains("Verification: OK"), "{self:?}");
    }

    fn is_refused(&self, alert: &str) {
        assert!(self.received.is_empty(), "{self:?}");
        assert!(self.said.contains(alert), "{self:?}");
    }
}
