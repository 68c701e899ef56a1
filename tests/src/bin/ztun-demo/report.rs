//! What the demo prints: a line a check, and a verdict at the end.

use std::{fmt::Display, process::ExitCode};

use anyhow::Result;

#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    pub fn title(text: &str) {
        println!("\n{text}\n{}", "─".repeat(text.chars().count()));
    }

    pub fn text(text: impl Display) {
        println!("{text}");
    }

    /// A step that takes a while.
    pub fn progress(text: &str) {
        println!("  … {text}");
    }

    pub fn passed(&mut self, claim: impl Display) {
        self.passed += 1;
        println!("  ✓ {claim}");
    }

    pub fn failed(&mut self, claim: impl Display) {
        self.failed += 1;
        println!("  ✗ {claim}");
    }

    /// Prints what was found, or why the check failed, and goes on.
    pub fn check<T: Display>(&mut self, claim: impl Display, outcome: Result<T>) {
        match outcome {
            Ok(found) => self.passed(format!("{claim}: {found}")),
            Err(error) => self.failed(format!("{claim}: {error:#}")),
        }
    }

    pub fn conclude(self) -> ExitCode {
        println!();
        if self.failed == 0 {
            println!("All {} checks passed.", self.passed);
            return ExitCode::SUCCESS;
        }
        println!(
            "{} of {} checks FAILED.",
            self.failed,
            self.passed + self.failed
        );
        ExitCode::FAILURE
    }
}
