//! `cargo xtask demo`: two nodes, real pods, mutual TLS between them.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    process, setup,
};

#[derive(clap::Args)]
pub struct Args {
    /// Leave the nodes running, and print what to try next
    #[arg(long)]
    keep: bool,
    /// Passed through to the demo
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("the demo makes network namespaces: run `cargo xtask demo` as root");
    }
    setup::packages()?;
    let built = build::with_driver(Profile::Dev, "ztun-demo")?;
    let mut demo = Command::new(built.driver);
    demo.env("ZTUN_BIN", built.daemon);
    if args.keep {
        demo.arg("--keep");
    }
    process::exit_code(demo.args(&args.args))
}
