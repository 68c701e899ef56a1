//! `ztun authz`: who may talk to whom, and by which policy.

use std::{fmt, process::ExitCode};

use clap::{Args, Subcommand};
use http::Method;

use super::{Daemon, Output, client};
use crate::mesh::{
    Decision,
    answers::{AuthzExplanation, ClientSide, HostPort, Judgement, Query, Verdict},
    policy::{
        MtlsMode,
        authorization::{Action, Mismatch, PolicyExplanation},
    },
};

const DETAILS: &str = "\
SRC and DST are named as for `ztun tls-check`. The connection is judged as the client's side would
make it: with the source's identity where it is under mutual TLS or within one node, without one
where it is in clear. A service is judged for each ready endpoint, a workload for each of its pods.

Exit codes:
  0  ALLOW
  3  DENY, for one of several at least
  1  it could not be told";

const EXIT_DENIED: u8 = 3;

#[derive(Debug, Args)]
pub struct AuthzArgs {
    #[command(subcommand)]
    command: AuthzCommand,
}

#[derive(Debug, Subcommand)]
enum AuthzCommand {
    /// Tell whether a connection may enter, and what each policy that applies says of it
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
#[command(after_long_help = DETAILS)]
struct ExplainArgs {
    /// Who connects
    #[arg(value_name = "SRC")]
    source: String,
    /// To what, such as shop/cart:8080
    #[arg(value_name = "DST:PORT")]
    destination: HostPort,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

pub fn run(args: AuthzArgs) -> anyhow::Result<ExitCode> {
    let AuthzCommand::Explain(args) = args.command;
    let query = Query {
        source: args.source,
        destination: args.destination,
    };
    let path = "/v1/authz-explain";
    let explanations: Vec<AuthzExplanation> =
        client::call(&args.daemon.socket, Method::POST, path, &query)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&explanations)?),
        Output::Table => {
            let texts = explanations.iter().map(|one| Text(one).to_string());
            print!("{}", texts.collect::<Vec<_>>().join("\n"));
        }
    }
    let denied = explanations.iter().any(|one| one.verdict == Verdict::Deny);
    Ok(ExitCode::from(if denied { EXIT_DENIED } else { 0 }))
}

/// An explanation for people: a line for each policy, and what keeps its rules from matching below.
struct Text<'a>(&'a AuthzExplanation);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AuthzExplanation {
            verdict,
            source,
            host,
            endpoint,
            client,
            identity,
            judgement,
        } = self.0;
        writeln!(f, "{verdict}  {source} -> {host} at {endpoint}")?;
        write!(f, "  client: {client}")?;
        match (identity, judgement) {
            (Some(identity), _) => writeln!(f, ", as {identity}")?,
            (None, Some(judgement)) => {
                writeln!(f, ", no identity, from {}", judgement.source_address)?;
            }
            (None, None) => writeln!(f)?,
        }
        match judgement {
            Some(judgement) => judgement_text(f, judgement),
            None if matches!(client, ClientSide::Refused { .. }) => Ok(()),
            None => writeln!(
                f,
                "  the destination is not enrolled: no policy is enforced there"
            ),
        }
    }
}

fn judgement_text(f: &mut fmt::Formatter<'_>, judgement: &Judgement) -> fmt::Result {
    let explanation = &judgement.explanation;
    match &explanation.decision {
        Decision::Deny(denial) => {
            writeln!(f, "  {denial}")?;
        }
        Decision::Allow => match &explanation.decided_by {
            None => writeln!(f, "  no policy denies it, and none has to allow it")?,
            Some(decider) => writeln!(f, "  allowed by {decider}")?,
        },
    }
    let mutual_tls = &explanation.mutual_tls;
    let mode = match mutual_tls.mode {
        MtlsMode::Strict => "STRICT",
        MtlsMode::Permissive => "PERMISSIVE",
    };
    let set_by = mutual_tls.set_by.as_deref().unwrap_or("default");
    writeln!(f, "  mutual TLS: {mode}, by {set_by}")?;
    for denial in &explanation.closed {
        writeln!(f, "  closed: {denial}")?;
    }
    for policy in &explanation.policies {
        policy_text(f, policy)?;
    }
    Ok(())
}

fn policy_text(f: &mut fmt::Formatter<'_>, policy: &PolicyExplanation) -> fmt::Result {
    write!(f, "  {} {}", action(policy), policy.policy)?;
    match policy.matching_rule {
        Some(rule) => write!(f, " matches by rules[{rule}]")?,
        None if policy.rules.is_empty() => f.write_str(" matches nothing: it has no rules")?,
        None => f.write_str(" does not match")?,
    }
    writeln!(f, " (for {})", policy.target)?;
    for (index, rule) in policy.rules.iter().enumerate() {
        for Mismatch { field, seen } in rule.mismatches.iter().filter(|_| !rule.matches) {
            writeln!(
                f,
                "    rules[{index}].{field} does not match: it sees {seen}"
            )?;
        }
        // In an ALLOW they are mismatches.
        for path in rule
            .layer7
            .iter()
            .filter(|_| policy.action != Action::Allow)
        {
            writeln!(
                f,
                "    rules[{index}].{path} is left out: layer 4 can't see it"
            )?;
        }
    }
    Ok(())
}

fn action(policy: &PolicyExplanation) -> String {
    let action = policy.action.as_str();
    if policy.dry_run {
        format!("{action} (dry run)")
    } else {
        action.to_owned()
    }
}
