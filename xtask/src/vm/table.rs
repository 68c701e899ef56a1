//! What a run of the matrix came to, as a table.

use std::{collections::BTreeSet, fmt::Write};

use super::matrix::Row;
use crate::test::libtest::Outcome;

/// One line a kernel, one column a target: how many tests passed, failed and skipped, and the time.
pub fn of(rows: &[Row]) -> String {
    let targets: BTreeSet<&str> = rows.iter().flat_map(Row::targets).collect();
    let mut lines = vec![header(&targets)];
    lines.extend(rows.iter().map(|row| line(row, &targets)));
    align(&lines)
}

fn header(targets: &BTreeSet<&str>) -> Vec<String> {
    let targets = targets.iter().map(|target| (*target).to_owned());
    std::iter::once("kernel".to_owned())
        .chain(targets)
        .chain(["in all".to_owned()])
        .collect()
}

fn line(row: &Row, targets: &BTreeSet<&str>) -> Vec<String> {
    let name = match &row.version {
        Some(version) => format!("{} ({version})", row.name),
        None => row.name.to_owned(),
    };
    let cell = |target: &&str| {
        let marker = format!("::{target}::");
        let of_target = row.report.outcomes.iter();
        let counts = counts(of_target.filter(|(path, _)| path.contains(&marker)));
        match row.report.times.get(*target) {
            Some(time) => format!("{counts}, {} s", time.as_secs()),
            None => counts,
        }
    };
    let total = counts(row.report.outcomes.iter());
    std::iter::once(name)
        .chain(targets.iter().map(cell))
        .chain([format!("{total}, {} s", row.report.total.as_secs())])
        .collect()
}

fn counts<'a>(outcomes: impl Iterator<Item = &'a (String, Outcome)>) -> String {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (_, outcome) in outcomes {
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed => failed += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
    }
    let mut text = String::new();
    for (count, word) in [(failed, "FAILED"), (passed, "ok"), (skipped, "skipped")] {
        if count > 0 {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{count} {word}");
        }
    }
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(String::len).max().unwrap_or(0)
        })
        .collect();
    let lines: Vec<_> = lines
        .iter()
        .map(|line| {
            let cells = line.iter().zip(&widths);
            let cells: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}
