//! `ztun programs`: what this kernel's verifier says of our programs.

use std::process::ExitCode;

use crate::redirect::verify_all;

pub fn run() -> anyhow::Result<ExitCode> {
    let reports = verify_all()?;
    let mut code = ExitCode::SUCCESS;
    println!(
        "{:<12} {:<20} {:>12}  VERDICT",
        "PROGRAM", "TYPE", "INSTRUCTIONS"
    );
    for report in &reports {
        let verdict = match &report.verdict {
            Ok(()) => "verified",
            Err(_) => "refused",
        };
        println!(
            "{:<12} {:<20} {:>12}  {verdict}",
            report.name, report.kind, report.instructions
        );
    }
    for report in reports {
        if let Err(log) = report.verdict {
            eprintln!("\n{}: the verifier says:\n{log}", report.name);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
