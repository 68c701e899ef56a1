//! `ztun policy migrate`: Istio's legacy policies to today's.

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, ValueEnum};

use crate::{
    migrate::{self, Format, Input, Layer7, MigratedPolicy, Migration, Outcome, Settings},
    source::file,
};

const EXIT_CODES: &str = "\
Reads MeshPolicy, Policy, DestinationRule, ClusterRbacConfig, RbacConfig, ServiceRole and
ServiceRoleBinding, and Services with the pods or controllers behind them: legacy policies name
services, today's select workloads. Prints PeerAuthentications and AuthorizationPolicies.

What is left out or means something else than before is listed with the reason: on stderr, or in
the document with `-o json`. Nothing is allowed more than before without being listed.

Exit codes:
  0  everything is translated
  3  something was left out or means something else: read the list
  1  something could not be read: no policy is printed";

/// What was left out or changed is no failure, and no success without a look.
const EXIT_NOT_FAITHFUL: u8 = 3;

#[derive(Debug, Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct MigrateArgs {
    /// Directories of YAML and JSON files, subdirectories included, or files; `-` is stdin
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    /// The policies to apply, or one document with the policies and the list
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The namespace whose policies are for the whole mesh
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    root_namespace: Arc<str>,
    /// The end of services' names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: Arc<str>,
    /// Drop methods, paths, hosts, headers and claims, which a layer-4 proxy can't see, from what is
    /// allowed. Each is listed: more is allowed than before
    #[arg(long)]
    layer4: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Yaml,
    Json,
}

pub fn run(args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let mut input = Input::default();
    for path in &args.paths {
        read(path, &mut input);
    }
    if !input.problems().is_empty() {
        for problem in input.problems() {
            eprintln!("ztun: {problem}");
        }
        eprintln!("ztun: no policy is printed: it might leave out what could not be read");
        return Ok(ExitCode::FAILURE);
    }
    if input.is_empty() {
        eprintln!("ztun: there is nothing to migrate");
    }
    let settings = Settings {
        root_namespace: Arc::clone(&args.root_namespace),
        cluster_domain: Arc::clone(&args.cluster_domain),
        layer7: if args.layer4 {
            Layer7::Drop
        } else {
            Layer7::Keep
        },
    };
    let migration = migrate::migrate(&input, &settings);
    match args.output {
        Output::Yaml => {
            print!("{}", yaml(&migration.policies)?);
            eprint!("{}", list(&migration));
        }
        Output::Json => println!("{}", serde_json::to_string_pretty(&migration)?),
    }
    Ok(if migration.report.is_faithful() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_NOT_FAITHFUL)
    })
}

fn read(path: &Path, input: &mut Input) {
    let name = path.display().to_string();
    if name == "-" {
        let mut text = String::new();
        match io::stdin().read_to_string(&mut text) {
            Ok(_) => input.read("stdin", Format::Yaml, &text),
            Err(error) => input.unreadable("stdin", error),
        }
        return;
    }
    if !path.is_dir() {
        return read_file(path, input);
    }
    match file::manifests(path) {
        Ok(files) if files.is_empty() => input.unreadable(&name, "holds no YAML or JSON file"),
        Ok(files) => files.iter().for_each(|file| read_file(file, input)),
        Err(error) => input.unreadable(&name, error),
    }
}

fn read_file(path: &Path, input: &mut Input) {
    let name = path.display().to_string();
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    let format = if is_json { Format::Json } else { Format::Yaml };
    match file::text(path) {
        Ok(text) => input.read(&name, format, &text),
        Err(error) => input.unreadable(&name, error),
    }
}

/// Documents with the objects that they come from as comments.
fn yaml(policies: &[MigratedPolicy]) -> anyhow::Result<String> {
    let mut text = String::new();
    for (index, policy) in policies.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        for origin in &policy.from {
            writeln!(text, "# {origin}")?;
        }
        text.push_str(&serde_norway::to_string(policy)?);
    }
    Ok(text)
}

fn list(migration: &Migration) -> String {
    let entries = migration.report.entries();
    let mut text = String::new();
    for entry in entries {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{entry}");
    }
    let count = |outcome| {
        entries
            .iter()
            .filter(|entry| entry.outcome == outcome)
            .count()
    };
    let _ = writeln!(
        text,
        "{} policies; {} left out, {} changed",
        migration.policies.len(),
        count(Outcome::LeftOut),
        count(Outcome::Changed)
    );
    text
}
