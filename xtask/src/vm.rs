//! `cargo xtask vm`: the tests inside virtual machines, on kernels that users run.

mod archive;
mod borrowed;
mod console;
mod cpio;
mod docs;
mod entry;
mod guest;
mod image;
mod kernels;
mod machine;
mod matrix;
mod modules;
mod pair;
mod qemu;
mod table;

use std::process::ExitCode;

use anyhow::{Result, bail};

use self::matrix::Options;
pub use self::matrix::{Matrix, outcomes};
use crate::{
    setup,
    test::tally::{SkipPolicy, Tally},
};

#[derive(clap::Args)]
pub struct Args {
    /// Run on this kernel only (repeat it for more) [default: all of them]
    #[arg(long = "kernel", value_name = "NAME", value_parser = entry::names())]
    kernels: Vec<String>,
    /// Run only tests whose path contains this (repeat it for more)
    #[arg(long = "test", value_name = "FILTER")]
    filters: Vec<String>,
    /// Keep images and consoles, and print how each guest is started
    #[arg(long)]
    keep: bool,
    /// Print the paths of the tests instead of running them
    #[arg(long)]
    list: bool,
    /// Write the results of the whole matrix into docs/kernels.md
    #[arg(long, conflicts_with_all = ["kernels", "filters", "sabotage"])]
    write_docs: bool,
    /// Take a kernel program off each pod once it is enrolled, to see the matrix fail
    #[arg(long, value_name = "PROGRAM", hide = true)]
    sabotage: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let toolchain = setup::toolchain()?;
    let mut matrix = Matrix::prepare(&toolchain, &args.kernels)?;
    matrix.options = Options {
        keep: args.keep,
        sabotage: args.sabotage.clone(),
    };
    let mut tests = matrix.tests();
    if !args.filters.is_empty() {
        tests.retain(|test| args.filters.iter().any(|filter| test.contains(filter)));
    }
    if tests.is_empty() {
        bail!("no test matches: `cargo xtask vm --list` shows them");
    }
    if args.list {
        println!("{}", tests.join("\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut tally = Tally::default();
    let rows = matrix.run(&tests)?;
    if args.write_docs {
        docs::write(&rows)?;
    }
    for (path, outcome) in outcomes(rows) {
        tally.add(path, &outcome);
    }
    Ok(tally.close(SkipPolicy::Allow))
}
