//! What a benchmark prints: where and how it ran, tables, and whether it met its targets.

use std::{env, fmt::Display, process::ExitCode, time::Duration};

use crate::machine;

#[derive(Default)]
pub struct Report {
    missed: Vec<String>,
}

impl Report {
    pub fn begin(title: &str) -> Self {
        let arguments: Vec<_> = env::args().skip(1).collect();
        println!("{title}");
        println!("  machine   {}", machine::describe());
        println!("  reproduce cargo xtask bench {}\n", arguments.join(" "));
        Self::default()
    }

    /// A step that takes a while; standard output is left to results.
    pub fn progress(text: impl Display) {
        eprintln!("  … {text}");
    }

    /// Prints `rows` in columns: the first flush left, the others flush right.
    pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) {
        println!();
        for line in aligned(head, rows) {
            println!("  {line}");
        }
    }

    pub fn text(text: impl Display) {
        println!("  {text}");
    }

    /// Records a target that was not met.
    pub fn missed(&mut self, target: impl Display) {
        self.missed.push(target.to_string());
    }

    pub fn conclude(self) -> ExitCode {
        println!();
        if self.missed.is_empty() {
            println!("PASS");
            return ExitCode::SUCCESS;
        }
        for target in &self.missed {
            println!("FAIL: {target}");
        }
        ExitCode::FAILURE
    }
}

/// `yes` or `NO`, which stands out in a column.
pub fn verdict(met: bool) -> String {
    if met { "yes" } else { "NO" }.to_owned()
}

pub fn mebibytes(kibibytes: u64) -> String {
    let tenths = (kibibytes * 10 + 512) / 1024;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn aligned<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let head = head.map(str::to_owned);
    let lines = || std::iter::once(&head).chain(rows);
    let width_of = |column: usize| {
        let widths = lines().map(|cells| cells[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width_of);
    lines()
        .map(|cells| {
            let (first, others) = (&cells[0], cells.iter().zip(widths).skip(1));
            let mut line = format!("{first:<width$}", width = widths[0]);
            line.extend(others.map(|(cell, width)| format!("  {cell:>width$}")));
            line
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "1"], ["longer", "1000"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            aligned(["what", "n"], &rows),
            ["what       n", "a          1", "longer  1000"]
        );
    }

    #[test]
    fn memory_is_rounded_to_tenths_of_a_mebibyte() {
        assert_eq!(mebibytes(20 << 10), "20.0 MiB");
        assert_eq!(mebibytes(1590), "1.6 MiB");
        assert_eq!(mebibytes(0), "0.0 MiB");
    }
}
