//! `cargo xtask bench handshake`: what a TLS handshake costs, both ends together, in memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs::kx_group},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};
use ztun::{
    cert::{
        KeyExchange, Trust,
        trust::OwnDomains,
        verifier::{ClientIdentityVerifier, ServerIdentityVerifier},
    },
    mesh::Identity,
};
use ztun_tests::{
    authority::Authority,
    rogue::{Claims, Credentials},
};

use crate::{report::Report, trend::median};

const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// Time of a handshake by key exchange, with peers that are new and peers that were seen before
#[derive(clap::Args)]
pub struct Args {
    /// Handshakes for each number
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=4000))]
    handshakes: u16,
}

/// What one end is: its credentials, judged by the other's trust.
struct Lab {
    trust: Arc<Trust>,
    authority: Authority,
    identity: Identity,
}

/// Whether the other end's chain was verified in an earlier handshake.
#[derive(Clone, Copy, PartialEq)]
enum Peers {
    New,
    Seen,
}

pub fn run(args: &Args) -> Result<Report> {
    let report = Report::begin("Handshake: both ends of a mutual TLS 1.3 handshake, in memory");
    let lab = Lab::new()?;
    let groups: [(&str, &dyn SupportedKxGroup); 3] = [
        ("X25519MLKEM768", kx_group::X25519MLKEM768),
        ("X25519", kx_group::X25519),
        ("P-256", kx_group::SECP256R1),
    ];
    let mut rows = Vec::new();
    for (name, group) in groups {
        Report::progress(name);
        let new = lab.measure(group, Peers::New, args)?;
        let seen = lab.measure(group, Peers::Seen, args)?;
        rows.push([
            name.to_owned(),
            microseconds(new),
            microseconds(seen),
            format!(
                "{:.0} %",
                100.0 * (1.0 - seen.as_secs_f64() / new.as_secs_f64())
            ),
        ]);
    }
    Report::table(
        ["key exchange, medians", "new peers", "seen before", "saved"],
        &rows,
    );
    Ok(report)
}

impl Lab {
    fn new() -> Result<Self> {
        let identity: Identity = IDENTITY.parse()?;
        let authority = Authority::new("Root CA")?;
        let trust = Trust::new(OwnDomains::new(identity.trust_domain().clone(), &[]));
        trust.answered(
            &identity,
            &[CertificateDer::from_pem_slice(authority.root().as_bytes())?],
        )?;
        Ok(Self {
            trust,
            authority,
            identity,
        })
    }

    fn measure(
        &self,
        group: &'static dyn SupportedKxGroup,
        peers: Peers,
        args: &Args,
    ) -> Result<Duration> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![group],
            ..(*KeyExchange::default().provider()).clone()
        });
        let first = (self.server(&provider)?, self.client(&provider)?);
        handshake(&first)?;
        let mut times = Vec::new();
        for _ in 0..args.handshakes {
            // Certificates of their own, which nobody has verified yet.
            let pair = match peers {
                Peers::New => &(self.server(&provider)?, self.client(&provider)?),
                Peers::Seen => &first,
            };
            times.push(handshake(pair)?);
        }
        median(&times).context("no handshake was measured")
    }

    fn server(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<ServerConfig>> {
        let own = self.credentials()?;
        let clients = ClientIdentityVerifier::new(Arc::clone(&self.trust));
        let config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(clients))
            .with_single_cert(own.chain().to_vec(), own.key())?;
        Ok(Arc::new(config))
    }

    fn client(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<ClientConfig>> {
        let own = self.credentials()?;
        let expected = [self.identity.clone()].into();
        let servers = ServerIdentityVerifier::new(Arc::clone(&self.trust), expected);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers))
            .with_client_auth_cert(own.chain().to_vec(), own.key())?;
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    fn credentials(&self) -> Result<Credentials> {
        self.authority.issue(&Claims::of(IDENTITY)?)
    }
}

/// The time that it takes, without the network's.
fn handshake((server, client): &(Arc<ServerConfig>, Arc<ClientConfig>)) -> Result<Duration> {
    let name = ServerName::try_from("unused.example")?;
    let started = Instant::now();
    let mut client = Connection::from(ClientConnection::new(Arc::clone(client), name)?);
    let mut server = Connection::from(ServerConnection::new(Arc::clone(server))?);
    while client.is_handshaking() || server.is_handshaking() {
        let moved = pass(&mut client, &mut server)? + pass(&mut server, &mut client)?;
        ensure!(moved > 0, "the handshake stands still");
    }
    Ok(started.elapsed())
}

/// Gives what one end has to say to the other.
fn pass(from: &mut Connection, to: &mut Connection) -> Result<usize> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes)?;
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets()?;
    }
    Ok(bytes.len())
}

fn microseconds(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}
