//! `ztun policy lint`: problems in the policies of a directory.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::cli::Output;

#[derive(Debug, Args)]
pub struct LintArgs {
    /// A directory of YAML and JSON files, subdirectories included
    directory: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &LintArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!(
        "{}: not readable ({:?})",
        args.directory.display(),
        args.output
    )
}
