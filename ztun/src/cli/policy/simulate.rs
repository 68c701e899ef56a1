//! `ztun policy simulate`: proposed policies against connections that were recorded.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    cli::Output,
    mesh::{
        TrustDomain,
        answers::simulate::{Change, RecordedFlow, RecordedFlows, Simulation},
    },
    observe::recorded,
    source::{TranslateSettings, file},
};

const DETAILS: &str = "\
DIR is the mesh directory with the policies that are proposed. FLOWS is what `ztun node` logged, as
JSON or text: its lines about inbound connections count, the others are skipped. Nothing is changed,
and no daemon is asked.

Connections are judged as they were recorded, with the identity that was proven and the address that
they came from. One that was closed because a policy changed counts as allowed.

Exit codes:
  0  nothing changes
  3  something would newly be denied
  4  nothing would newly be denied, and something newly allowed
  1  it could not be told";

const EXIT_NEWLY_DENIED: u8 = 3;
const EXIT_NEWLY_ALLOWED: u8 = 4;

#[derive(Debug, Args)]
#[command(after_long_help = DETAILS)]
pub struct SimulateArgs {
    /// Kubernetes YAML of the mesh, with the proposed policies
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The daemon's log; `-` is stdin
    #[arg(long, value_name = "FLOWS")]
    against: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The mesh's trust domain
    #[arg(long, env = "ZTUN_TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// The namespace whose policies cover the mesh
    #[arg(long, env = "ZTUN_ROOT_NAMESPACE", default_value = "istio-system")]
    root_namespace: Arc<str>,
}

pub fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let settings = TranslateSettings {
        trust_domain: args.trust_domain.clone(),
        trust_domain_aliases: Arc::default(),
        cluster_id: "".into(),
        cluster_domain: "cluster.local".into(),
        root_namespace: Arc::clone(&args.root_namespace),
    };
    let (snapshot, problems) = file::load(&args.directory, settings)?;
    for problem in problems {
        eprintln!("ztun: {problem}");
    }
    let flows = read_flows(&args.against)?;
    let simulation = Simulation::new(&snapshot, flows);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&simulation)?),
        Output::Table => print!("{}", Text(&simulation)),
    }
    let code = if !simulation.newly_denied.is_empty() {
        EXIT_NEWLY_DENIED
    } else if !simulation.newly_allowed.is_empty() {
        EXIT_NEWLY_ALLOWED
    } else {
        0
    };
    Ok(ExitCode::from(code))
}

fn read_flows(path: &Path) -> anyhow::Result<RecordedFlows> {
    let name = path.display();
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).with_context(|| format!("open the flows in {name}"))?;
        Box::new(BufReader::new(file))
    };
    let mut flows = RecordedFlows::new();
    for (number, line) in (1..).zip(reader.split(b'\n')) {
        let line = line.with_context(|| format!("read the flows in {name}"))?;
        match recorded::inbound(&String::from_utf8_lossy(&line)) {
            Ok(Some((flow, connections))) => *flows.entry(flow).or_default() += connections,
            Ok(None) => {}
            // Where a log was cut off, for one.
            Err(error) => eprintln!("ztun: {name}:{number}: left out: {error}"),
        }
    }
    ensure!(
        !flows.is_empty(),
        "{name} has no line about an inbound connection: is it the log of `ztun node`, with a filter that shows `access=info`?"
    );
    Ok(flows)
}

struct Text<'a>(&'a Simulation);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Simulation {
            newly_denied,
            newly_allowed,
            not_judged,
            still_allowed,
            still_denied,
        } = self.0;
        for change in newly_denied {
            writeln!(f, "NEWLY DENIED   {}", Line(change))?;
            if let Some(denial) = &change.denied {
                writeln!(f, "  {denial}")?;
            }
        }
        for change in newly_allowed {
            writeln!(f, "NEWLY ALLOWED  {}", Line(change))?;
            match &change.decided_by {
                Some(decider) => writeln!(f, "  allowed by {decider}")?,
                None => writeln!(f, "  no policy denies it, and none has to allow it")?,
            }
            if let Some(denied) = &change.flow.denied {
                writeln!(f, "  before: {denied}")?;
            }
        }
        for change in not_judged {
            writeln!(f, "NOT JUDGED     {}", Line(change))?;
            writeln!(f, "  the mesh has no such destination any more")?;
        }
        let count = |changes: &[Change]| -> u64 { changes.iter().map(|one| one.connections).sum() };
        writeln!(
            f,
            "connections: {} newly denied, {} newly allowed, {} not judged, {still_allowed} still allowed, {still_denied} still denied",
            count(newly_denied),
            count(newly_allowed),
            count(not_judged),
        )
    }
}

/// One flow, such as `3 x foo/client (spiffe://…) -> foo/server 10.0.0.2:80`.
struct Line<'a>(&'a Change);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordedFlow {
            source_identity,
            source_pod,
            source_address,
            destination_pod,
            destination_address,
            denied: _,
        } = &self.0.flow;
        write!(f, "{} x ", self.0.connections)?;
        if let Some(pod) = source_pod {
            write!(f, "{pod} ")?;
        }
        write!(f, "{source_address} ")?;
        match source_identity {
            Some(identity) => write!(f, "({identity})")?,
            None => f.write_str("(plaintext)")?,
        }
        f.write_str(" -> ")?;
        if let Some(pod) = destination_pod {
            write!(f, "{pod} ")?;
        }
        destination_address.fmt(f)
    }
}
