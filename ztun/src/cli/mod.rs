//! The commands of `ztun`, one file each.

mod authz;
mod ca;
mod certs;
mod client;
mod cni;
mod dump;
mod enrol;
mod log;
mod node;
mod policy;
mod programs;
mod status;
mod table;
mod tls_check;
mod unenrol;
mod verify;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::node::api::default_socket;

/// Node-level transparent proxy: mutual TLS between workloads, without sidecars.
#[derive(Debug, Parser)]
#[command(name = "ztun", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this node (or check its configuration with --check)
    Node(Box<node::NodeArgs>),
    /// Run a CA that gives nodes the certificates of the workloads on them (or check its configuration)
    Ca(Box<ca::CaArgs>),
    /// Capture a pod
    Enrol(enrol::EnrolArgs),
    /// Let go of a pod
    Unenrol(unenrol::UnenrolArgs),
    /// Show pods, certificates and connections of this node
    Status(status::StatusArgs),
    /// Show the certificates of this node, or judge a certificate by this node's trust
    Certs(certs::CertsArgs),
    /// Print what the daemon was told: its configuration or its view of the mesh
    Dump(dump::DumpArgs),
    /// Show or change the daemon's log filter
    Log(log::LogArgs),
    /// Tell what both sides of a connection do about mutual TLS
    TlsCheck(tls_check::TlsCheckArgs),
    /// Tell who may talk to whom, and by which policy
    Authz(authz::AuthzArgs),
    /// Try what capture needs of this kernel, and read from it whether each pod is captured
    Verify(verify::VerifyArgs),
    /// Look into policies before they are in force
    Policy(policy::PolicyArgs),
    /// Answer a container runtime as a chained CNI plugin (input on stdin and in CNI_… variables)
    Cni,
    /// Load every kernel program into this kernel's verifier and report; nothing stays behind
    Programs,
}

/// How a command finds the daemon.
#[derive(Debug, Args)]
struct Daemon {
    /// The daemon's Unix socket
    #[arg(long, env = "ZTUN_SOCKET", value_name = "PATH", default_value_os_t = default_socket())]
    socket: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    // A container runtime calls the plugin by its name, with no arguments.
    let called_as_plugin =
        std::env::args().count() == 1 && std::env::var_os("CNI_COMMAND").is_some();
    let command = if called_as_plugin {
        Command::Cni
    } else {
        Cli::parse().command
    };
    let result = match command {
        Command::Cni => return cni::run(),
        Command::Node(args) => node::run(*args),
        Command::Ca(args) => ca::run(*args),
        Command::Enrol(args) => enrol::run(&args),
        Command::Unenrol(args) => unenrol::run(args),
        Command::Status(args) => status::run(&args),
        Command::Certs(args) => certs::run(args),
        Command::Dump(args) => dump::run(&args),
        Command::Log(args) => log::run(args),
        Command::TlsCheck(args) => tls_check::run(args),
        Command::Authz(args) => authz::run(args),
        Command::Verify(args) => verify::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Programs => programs::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ztun: {error:#}");
            ExitCode::FAILURE
        }
    }
}
