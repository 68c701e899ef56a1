//! `ztun status`: pods, certificates and connections of this node.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use clap::Args;
use http::Method;
use time::OffsetDateTime;

use super::{Daemon, Output, client, table::Table};
use crate::{
    cert::trust::{Relation, TrustStatus},
    node::{kubelet::KubeletStatus, status::NodeStatus},
    observe::PartyStatus,
    redirect::CaptureState,
};

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
        "mesh: {} workloads, {} services{}",
        status.mesh.workloads,
        status.mesh.services,
        age(status.mesh.as_of, now)
    );
    for problem in &status.mesh.problems {
        let _ = writeln!(text, "  problem: {problem}");
    }
    let _ = writeln!(text, "kubelet: {}", kubelet(&status.kubelet));
    let kept = status.privileges.capabilities.join(" ");
    let _ = writeln!(text, "capabilities: {kept}");
    for missing in &status.privileges.missing {
        let _ = writeln!(text, "  MISSING: {missing}");
    }
    for problem in &status.trust.problems {
        let _ = writeln!(text, "trust: problem: {problem}");
    }
    let _ = write!(
        text,
        "\n{}\n{}\n{}",
        pods(status),
        certificates(status, now),
        roots(&status.trust, now)
    );
    if !status.trust.crls.is_empty() {
        let _ = write!(text, "\n{}", crls(&status.trust, now));
    }
    let _ = write!(text, "\n{}", connections(status));
    text
}

/// How old the mesh state is, which a working source confirms every few seconds.
fn age(as_of: Option<OffsetDateTime>, now: OffsetDateTime) -> String {
    let old = as_of.map(|as_of| (now - as_of).max(time::Duration::SECOND));
    old.map_or_else(String::new, |old| format!(", as of {} ago", duration(old)))
}

fn kubelet(status: &KubeletStatus) -> String {
    match status {
        KubeletStatus::Passing { cgroup } => format!("probes pass from {}", cgroup.display()),
        KubeletStatus::NoKubelet => "none here, so no probes pass under STRICT".to_owned(),
        KubeletStatus::Failed { why } => format!("NO PROBES PASS under STRICT: {why}"),
    }
}

fn pods(status: &NodeStatus) -> Table {
    let mut table = Table::new(["POD", "ADDRESSES", "IDENTITY", "TAKEN/REFUSED", "CAPTURE"]);
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
            taken_and_refused(&pod.verdicts),
            capture,
        ]);
    }
    table
}

/// How many connections the kernel gave to the daemon, and how many it refused.
fn taken_and_refused(verdicts: &BTreeMap<String, u64>) -> String {
    let sum = |starts: &[&str]| -> u64 {
        let counts = verdicts.iter();
        counts
            .filter(|(verdict, _)| starts.iter().any(|start| verdict.starts_with(start)))
            .map(|(_, count)| count)
            .sum()
    };
    format!("{}/{}", sum(&["steered"]), sum(&["refused", "dropped"]))
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

fn roots(trust: &TrustStatus, now: OffsetDateTime) -> Table {
    let mut table = Table::new(["TRUST DOMAIN", "ROOT", "SHA-256", "EXPIRES IN", "FROM"]);
    for domain in &trust.domains {
        let mut names = vec![domain.trust_domain.to_string()];
        names.extend(domain.aliases.iter().map(ToString::to_string));
        let mut name = names.join(",");
        if domain.relation == Relation::Federated {
            name.push_str(" (federated)");
        }
        for root in &domain.roots {
            let sources: Vec<String> = root.sources.iter().map(ToString::to_string).collect();
            table.row([
                name.clone(),
                root.subject.clone(),
                // Enough to tell a handful apart; JSON has all of it.
                root.fingerprint.chars().take(16).collect(),
                duration(root.not_after - now),
                sources.join(","),
            ]);
        }
    }
    table
}

fn crls(trust: &TrustStatus, now: OffsetDateTime) -> Table {
    let mut table = Table::new([
        "REVOCATION LIST OF",
        "SIGNED BY",
        "REVOKED",
        "AGE",
        "NEXT IN",
    ]);
    for crl in &trust.crls {
        let signer = crl.signed_by.as_deref();
        let next = crl.next_update;
        table.row([
            crl.issuer.clone(),
            signer.map_or("no root".to_owned(), |it| it.chars().take(16).collect()),
            crl.revoked.to_string(),
            duration(now - crl.this_update),
            next.map_or_else(|| "-".to_owned(), |next| duration(next - now)),
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
    fn what_the_kernel_refused_is_told_from_what_it_took() {
        let counts = [
            ("captured", 7),
            ("dropped", 1),
            ("refused_link_local", 2),
            ("refused_no_listener", 3),
            ("steered_inbound_hbone", 4),
            ("steered_outbound", 7),
        ];
        let verdicts = counts.map(|(verdict, count)| (verdict.to_owned(), count));
        assert_eq!(taken_and_refused(&verdicts.into()), "11/6");
    }

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
