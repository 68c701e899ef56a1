//! `ztun tls-check`: what both sides of a connection do about mutual TLS.

use std::process::ExitCode;

use clap::Args;
use http::Method;

use super::{Daemon, Output, client, table::Table};
use crate::{
    mesh::answers::{HostPort, Query, TlsCheck, TlsStatus},
    node::api::TlsCheckRequest,
};

const DETAILS: &str = "\
SRC is a pod or workload of the mesh, or the IP address of a source outside of it. DST may be a
service too. Names are namespace/name, with pod/ or service/ in front where both exist; a service
also has its host name, such as cart.shop or cart.shop.svc.cluster.local. A service has a row for
each ready endpoint, a workload one for each of its pods; where both ends have both families, one for
each family. ENDPOINT shows the address that the row is about.

The answer is the one that the daemons' decisions come to, from this daemon's view of the mesh; no
connection is made. For pods of one other node it takes that node's `sameNode` to be this one's, and
marks the row with `*`. It is about mutual TLS alone: `ztun authz explain` tells who may enter.

Status:
  OK         mutual TLS, or within one node; accepted
  PLAINTEXT  in clear, and accepted
  CONFLICT   refused

Exit codes:
  0  every row is OK
  3  a row is CONFLICT
  4  none is CONFLICT, and one is PLAINTEXT
  1  it could not be told";

const ASSUMED: &str = "* within another node, if its `sameNode` is as this node's";

const EXIT_CONFLICT: u8 = 3;
const EXIT_PLAINTEXT: u8 = 4;

#[derive(Debug, Args)]
#[command(after_long_help = DETAILS)]
pub struct TlsCheckArgs {
    /// Who connects
    #[arg(value_name = "SRC", required_unless_present = "all")]
    source: Option<String>,
    /// To what, such as shop/cart:8080
    #[arg(value_name = "DST:PORT", required_unless_present = "all")]
    destination: Option<HostPort>,
    /// From every enrolled workload to every port of every service
    #[arg(long, conflicts_with_all = ["source", "destination"])]
    all: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

pub fn run(args: TlsCheckArgs) -> anyhow::Result<ExitCode> {
    let request = match (args.source, args.destination) {
        (Some(source), Some(destination)) => TlsCheckRequest::Connection(Query {
            source,
            destination,
        }),
        _ => TlsCheckRequest::All,
    };
    let path = "/v1/tls-check";
    let checks: Vec<TlsCheck> = client::call(&args.daemon.socket, Method::POST, path, &request)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&checks)?),
        Output::Table => {
            print!("{}", table(&checks));
            if checks.iter().any(|check| check.assumed) {
                println!("{ASSUMED}");
            }
        }
    }
    Ok(ExitCode::from(exit_code(&checks)))
}

fn table(checks: &[TlsCheck]) -> Table {
    let mut table = Table::new([
        "FROM",
        "HOST:PORT",
        "ENDPOINT",
        "STATUS",
        "CLIENT",
        "SERVER",
        "POLICY",
    ]);
    for check in checks {
        table.row([
            check.source.clone(),
            check.host.clone(),
            check.endpoint.to_string(),
            check.status.to_string(),
            format!("{}{}", check.client, if check.assumed { "*" } else { "" }),
            check.server.to_string(),
            check.policy.as_deref().unwrap_or("-").to_owned(),
        ]);
    }
    table
}

fn exit_code(checks: &[TlsCheck]) -> u8 {
    let any = |status| checks.iter().any(|check| check.status == status);
    if any(TlsStatus::Conflict) {
        EXIT_CONFLICT
    } else if any(TlsStatus::Plaintext) {
        EXIT_PLAINTEXT
    } else {
        0
    }
}
