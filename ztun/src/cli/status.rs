//! `ztun status`: pods, certificates and connections of this node.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use http::Method;
use time::OffsetDateTime;

use super::{Daemon, Output, client, table::Table};
use crate::{node::status::NodeStatus, observe::PartyStatus, redirect::CaptureState};

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status: NodeStatus = client::call(&args.daemon.socket, Method::GET, "/v1/status", &())?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table => print!("{}", render(&status, OffsetDateTime::now_utc())),
    }
    Ok(ExitCode::SUCCESS)
}

fn render(status: &NodeStatus, now: OffsetDateTime) -> String {
    let mut text = String::new();
    let state = match &status.not_ready[..] {
        [] => "ready".to_owned(),
        missing => format!("NOT READY: {}", missing.join("; ")),
    };
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "node {}  ztun {}  {state}",
        status.node, status.version
    );
    let _ = writeln!(
        text,
        "mesh: {} workloads, {} services",
        status.mesh.workloads, status.mesh.services
    );
    for problem in &status.mesh.problems {
        let _ = writeln!(text, "  problem: {problem}");
    }
    let _ = write!(
        text,
        "\n{}\n{}\n{}",
        pods(status),
        certificates(status, now),
        connections(status)
    );
    text
}

fn pods(status: &NodeStatus) -> Table {
    let mut table = Table::new(["POD", "ADDRESSES", "IDENTITY", "CAPTURE"]);
    for pod in &status.pods {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        let capture = match &pod.capture {
            CaptureState::Captured => match &pod.problem {
                None => "captured".to_owned(),
                Some(problem) => format!("captured; PROBLEM: {problem}"),
            },
            CaptureState::NotCaptured { why } => format!("NOT CAPTURED: {why}"),
        };
        table.row([
            pod.pod.to_string(),
            addresses.join(","),
            pod.identity
                .as_ref()
                .map_or("unknown".to_owned(), ToString::to_string),
            capture,
        ]);
    }
    table
}

fn certificates(status: &NodeStatus, now: OffsetDateTime) -> Table {
    let mut table = Table::new([
        "CERTIFICATE",
        "SERIAL",
        "EXPIRES IN",
        "ROTATES IN",
        "PROBLEM",
    ]);
    let left = |moment: Option<OffsetDateTime>| {
        moment.map_or_else(|| "-".to_owned(), |moment| duration(moment - now))
    };
    for certificate in &status.certificates {
        table.row([
            certificate.identity.to_string(),
            certificate.serial.clone().unwrap_or_else(|| "-".to_owned()),
            left(certificate.not_after),
            left(certificate.rotates_at),
            certificate.error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

fn connections(status: &NodeStatus) -> Table {
    let mut table = Table::new(["CONNECTION", "FROM", "TO", "ENCRYPTED", "BYTES OUT/IN"]);
    for connection in &status.connections {
        table.row([
            connection.direction.to_string(),
            party(&connection.source),
            party(&connection.destination),
            connection.security.to_string(),
            format!(
                "{}/{}",
                connection.bytes_to_destination, connection.bytes_to_source
            ),
        ]);
    }
    table
}

/// The address, and the identity if one is proven.
fn party(party: &PartyStatus) -> String {
    match &party.identity {
        Some(identity) => format!("{} ({identity})", party.address),
        None => party.address.to_string(),
    }
}

/// The two largest units: `23h59m`, `4m10s`.
fn duration(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds();
    if seconds <= 0 {
        return "expired".to_owned();
    }
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_in_their_two_largest_units() {
        for (seconds, text) in [
            (-5, "expired"),
            (0, "expired"),
            (42, "42s"),
            (250, "4m10s"),
            (86_399, "23h59m"),
            (90_000, "1d1h"),
        ] {
            assert_eq!(duration(time::Duration::seconds(seconds)), text);
        }
    }
}
