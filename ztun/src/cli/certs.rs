//! `ztun certs`: the certificates of this node, and what it says of others.

use std::{
    fmt::{self, Write as _},
    fs,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Daemon, Output, client, table::Table};
use crate::{
    cert::inspect::{CertificateDetails, CertificateFacts, Judgement, Verdict},
    mesh::Identity,
    node::api::CertificateChain,
};

/// Enough of a fingerprint to tell certificates apart.
const SHORT_FINGERPRINT: usize = 12;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CertsArgs {
    #[command(subcommand)]
    command: Option<CertsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Judge a PEM file (a leaf, then its chain) as this node would judge a peer that shows it;
    /// fails unless it is accepted as a client and as a server
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Of this identity alone
    #[arg(long, value_name = "SPIFFE ID")]
    identity: Option<Identity>,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t)]
    output: ListOutput,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    file: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ListOutput {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// The certificates themselves, as the CA answered: leaf, intermediates, roots
    Pem,
}

pub fn run(args: CertsArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => list(args.list),
        Some(CertsCommand::Verify(args)) => verify(&args),
    }
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let socket = &args.daemon.socket;
    let mut certificates: Vec<CertificateDetails> =
        client::call(socket, Method::GET, "/v1/certificates", &())?;
    if let Some(identity) = args.identity {
        certificates.retain(|certificate| certificate.status.identity == identity);
        ensure!(
            !certificates.is_empty(),
            "no certificate is kept for {identity}: no enrolled workload of this node has it"
        );
    }
    match args.output {
        ListOutput::Table => print!("{}", table(&certificates)),
        ListOutput::Json => println!("{}", serde_json::to_string_pretty(&certificates)?),
        ListOutput::Pem => print!("{}", pem(&certificates)),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(certificates: &[CertificateDetails]) -> Table {
    let mut table = Table::new([
        "IDENTITY",
        "SERIAL",
        "ISSUER",
        "NOT AFTER",
        "ROTATES",
        "CHAIN",
        "VERIFIED BY",
        "PROBLEM",
    ]);
    for certificate in certificates {
        let CertificateDetails {
            status,
            chain,
            verified_by,
            refused,
            ..
        } = certificate;
        let chain: Vec<&str> = chain.iter().map(short).collect();
        let problems: Vec<&str> = [refused, &status.error]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        table.row([
            status.identity.to_string(),
            or_dash(status.serial.clone()),
            or_dash(status.issuer.clone()),
            or_dash(status.not_after.map(date)),
            or_dash(status.rotates_at.map(date)),
            or_dash((!chain.is_empty()).then(|| chain.join(" < "))),
            or_dash(verified_by.as_ref().map(named)),
            or_dash((!problems.is_empty()).then(|| problems.join("; "))),
        ]);
    }
    table
}

/// PEM readers pass over what is not between the marks.
fn pem(certificates: &[CertificateDetails]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let (status, pem) = (&certificate.status, &certificate.chain_pem);
        let heading = match &status.serial {
            Some(serial) => format!("{} (serial {serial})", status.identity),
            None => format!("{}: no certificate yet", status.identity),
        };
        let chain = pem.as_deref().unwrap_or_default();
        // Writing to a string can't fail.
        let _ = writeln!(text, "# {heading}\n{chain}");
    }
    text
}

fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let file = args.file.display();
    let text = fs::read_to_string(&args.file).with_context(|| format!("read {file}"))?;
    let pem = certificates_in(&text);
    ensure!(!pem.is_empty(), "{file} holds no certificate in PEM");
    let path = "/v1/certificates/verify";
    let body = CertificateChain { pem };
    let judgement: Judgement = client::call(&args.daemon.socket, Method::POST, path, &body)?;
    match args.output {
        Output::Table => print!("{}", Rendered(&judgement)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&judgement)?),
    }
    Ok(if judgement.is_accepted() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A file may hold the private key as well: that stays here.
fn certificates_in(text: &str) -> String {
    let mut certificates = String::new();
    let mut inside = false;
    for line in text.lines().map(str::trim_end) {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            certificates.push_str(line);
            certificates.push('\n');
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    certificates
}

struct Rendered<'a>(&'a Judgement);

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judgement {
            chain,
            identity,
            as_client,
            as_server,
        } = self.0;
        match identity {
            Some(identity) => writeln!(f, "identity: {identity}")?,
            None => writeln!(f, "identity: none")?,
        }
        for (role, verdict) in [("client", as_client), ("server", as_server)] {
            match verdict {
                Verdict::Accepted { root } => {
                    writeln!(f, "as a {role}: accepted, by root {}", named(root))?;
                }
                Verdict::Refused { why } => writeln!(f, "as a {role}: REFUSED: {why}")?,
            }
        }
        let mut table = Table::new([
            "CERTIFICATE",
            "SERIAL",
            "SUBJECT",
            "ISSUER",
            "NAMES",
            "NOT BEFORE",
            "NOT AFTER",
            "USAGES",
        ]);
        for certificate in chain {
            table.row([
                short(certificate).to_owned(),
                certificate.serial.clone(),
                or_dash(Some(certificate.subject.clone())),
                or_dash(Some(certificate.issuer.clone())),
                or_dash(Some(certificate.names.join(", "))),
                date(certificate.not_before),
                date(certificate.not_after),
                or_dash(Some(certificate.usages.join(", "))),
            ]);
        }
        write!(f, "\n{table}")
    }
}

fn short(certificate: &CertificateFacts) -> &str {
    let fingerprint = &certificate.fingerprint;
    fingerprint.get(..SHORT_FINGERPRINT).unwrap_or(fingerprint)
}

fn named(certificate: &CertificateFacts) -> String {
    format!("{} ({})", short(certificate), certificate.subject)
}

fn date(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_in_the_file_is_not_sent() {
        let file = "bag attributes\n-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n\
                    -----BEGIN CERTIFICATE-----\r\nbGVhZg==\r\n-----END CERTIFICATE-----\r\nnote\n\
                    -----BEGIN CERTIFICATE-----\ncm9vdA==\n-----END CERTIFICATE-----\n";
        assert_eq!(
            certificates_in(file),
            "-----BEGIN CERTIFICATE-----\nbGVhZg==\n-----END CERTIFICATE-----\n\
             -----BEGIN CERTIFICATE-----\ncm9vdA==\n-----END CERTIFICATE-----\n"
        );
    }
}
