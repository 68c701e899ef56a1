//! Everything that is done to this repository, one file a command.

mod bench;
mod build;
mod cargo;
mod demo;
mod load;
mod process;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, test and show ztun.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Provide what is missing: the toolchain for kernel programs, and what the tests drive
    Setup(setup::Args),
    /// Build the kernel programs and the daemon
    Build(build::Args),
    /// Put the kernel programs through the running kernel's verifier (root)
    Load(load::Args),
    /// Run every test, or those whose path contains a filter
    Test(test::Args),
    /// Run the tests inside virtual machines, on every kernel of the matrix
    Vm(vm::Args),
    /// Show two nodes with mutual TLS between their pods, on real traffic (root)
    Demo(demo::Args),
    /// Run a benchmark against a release build (root)
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
