//! The table in docs/kernels.md, written from the results of a whole run.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{kernels::Wanted, matrix::Row};
use crate::{cargo, process::say, test::libtest::Outcome};

const PAGE: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- begin: written by `cargo xtask vm --write-docs` -->";
const END: &str = "<!-- end -->";

/// What users care about, and the tests that show it: those whose `TARGET::MODULE::TEST` contains one
/// of the texts. A test counts for the first feature that it matches.
const FEATURES: [(&str, &[&str]); 26] = [
    (
        "Two machines: by mutual TLS and as itself, to pods and services, IPv4 and IPv6, MTU 1500 and 9000",
        &["two_nodes::paths::", "two_nodes::volume::"],
    ),
    (
        "Two machines: nothing in clear on the wire, MTU 1500 and 9000",
        &["two_nodes::encryption::"],
    ),
    (
        "Two machines: STRICT, and closed while the other daemon is dead",
        &["two_nodes::closed::"],
    ),
    (
        "Between nodes: encrypted, by IPv4, IPv6 and v4-mapped sockets, to pods and services",
        &["_on_another_node_encrypted"],
    ),
    (
        "Within a node: the same families and targets",
        &["_on_its_node"],
    ),
    (
        "Applications see each other's real addresses",
        &["datapath::addresses::"],
    ),
    (
        "Half-close, refusal and reset arrive as what they are",
        &["datapath::ends::"],
    ),
    (
        "Server-first protocols, large and tiny writes, idle connections",
        &["datapath::streams::"],
    ),
    (
        "UDP, ICMP, loopback, open connections and foreign destinations untouched",
        &["datapath::untouched::"],
    ),
    (
        "Nothing in clear between nodes",
        &["scenarios::encryption::"],
    ),
    ("STRICT and PERMISSIVE", &["scenarios::mtls::"]),
    ("Certificates and identities", &["scenarios::identity::"]),
    (
        "Closed while the daemon is dead, taken over when it is back",
        &["faults::daemon::"],
    ),
    ("Hostile peers refused", &["faults::peers::"]),
    (
        "Malformed mesh directory survived",
        &["faults::mesh_directory::"],
    ),
    (
        "Enrolment by CNI and by hand",
        &["interop::cni::", "faults::pods::"],
    ),
    (
        "Pods with users of their own (`hostUsers: false`)",
        &["scenarios::user_namespaces::"],
    ),
    ("Pods behind netkit devices", &["netkit::"]),
    (
        "The kubelet's probes pass under STRICT, nothing else of the node does",
        &["scenarios::probes::"],
    ),
    (
        "Addresses that a pod gains, loses and shares",
        &["datapath::address_changes::"],
    ),
    (
        "Pods taken in and set free by their labels",
        &["scenarios::membership::"],
    ),
    (
        "A pod's own rules of nftables: drop, redirect, NAT",
        &["coexistence::netfilter::"],
    ),
    ("Other owners of eBPF programs and rules", &["coexist"]),
    ("The test harness's own", &["harness::"]),
    (
        "Refuses to start, names what is missing, changes nothing",
        &["refusal::"],
    ),
    ("Everything else", &[""]),
];

/// Puts the results into the page.
pub fn write(rows: &[Row]) -> Result<()> {
    let page = cargo::root().join(PAGE);
    let text =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = replace(&text, &table(rows))?;
    fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))?;
    say(format_args!("wrote {}", page.display()));
    Ok(())
}

fn replace(page: &str, table: &str) -> Result<String> {
    let (Some((before, rest)), true) = (page.split_once(BEGIN), page.contains(END)) else {
        bail!("{PAGE} lacks the lines `{BEGIN}` and `{END}`");
    };
    let after = rest.split_once(END).map_or("", |(_, after)| after);
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// A Markdown table, one line a feature and one column a kernel.
fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        line(
            "",
            rows.iter()
                .map(|row| row.version.clone().unwrap_or_else(|| row.name.into())),
        ),
        line("---", rows.iter().map(|_| "---".to_owned())),
        line(
            "Cgroups",
            rows.iter()
                .map(|row| of_each(row, |wanted| wanted.cgroups.name().into())),
        ),
        line(
            "`rp_filter`",
            rows.iter()
                .map(|row| of_each(row, |wanted| wanted.reverse_path_filter.to_string())),
        ),
        line("IPv6", rows.iter().map(ipv6)),
    ];
    for (number, (feature, _)) in FEATURES.iter().enumerate() {
        let cells: Vec<_> = rows.iter().map(|row| cell(row, number)).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            lines.push(line(feature, cells.into_iter()));
        }
    }
    lines.concat()
}

/// What is wanted of each machine.
fn of_each(row: &Row, value: impl Fn(&Wanted) -> String) -> String {
    let values: Vec<_> = row.wanted.iter().map(|wanted| value(wanted)).collect();
    values.join(" + ")
}

fn ipv6(row: &Row) -> String {
    of_each(row, |wanted| {
        let has_ipv6 = wanted.has_ipv6();
        if has_ipv6 { "yes" } else { wanted.parameters }.into()
    })
}

fn line(first: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<_> = cells.collect();
    format!("| {first} | {} |\n", cells.join(" | "))
}

/// Such as `yes (5)`; empty where no test of the feature ran.
fn cell(row: &Row, feature: usize) -> String {
    let (mut passed, mut failed, mut reasons) = (0, 0, Vec::new());
    for (path, outcome) in &row.report.outcomes {
        let Some(test) = path
            .splitn(3, "::")
            .nth(2)
            .filter(|test| test.contains("::"))
        else {
            continue;
        };
        if feature_of(test) != Some(feature) {
            continue;
        }
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed => failed += 1,
            Outcome::Skipped(reason) => reasons.push(reason.as_str()),
        }
    }
    let mut parts = Vec::new();
    if failed > 0 {
        parts.push(format!("**no** ({failed} of {})", failed + passed));
    } else if passed > 0 {
        parts.push(format!("yes ({passed})"));
    }
    reasons.sort_unstable();
    reasons.dedup();
    if !reasons.is_empty() {
        parts.push(format!("skipped: {}", reasons.join("; ")));
    }
    parts.join(", ")
}

fn feature_of(test: &str) -> Option<usize> {
    FEATURES
        .iter()
        .position(|(_, texts)| texts.iter().any(|text| test.contains(text)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::vm::{guest::Report, kernels::MATRIX};

    fn row(name: &'static str, outcomes: &[(&str, Outcome)]) -> Row {
        let paths = outcomes.iter();
        Row {
            name,
            wanted: MATRIX.iter().filter(|wanted| wanted.name == name).collect(),
            version: Some(format!("{name}.9")),
            report: Report {
                outcomes: paths
                    .map(|(path, outcome)| (format!("vm::{name}::{path}"), outcome.clone()))
                    .collect(),
                times: BTreeMap::new(),
                total: Duration::ZERO,
            },
        }
    }

    #[test]
    fn a_feature_is_there_only_if_all_of_its_tests_passed() {
        let strict = |outcome| ("scenarios::mtls::strict", outcome);
        let permissive = ("scenarios::mtls::permissive", Outcome::Passed);
        let boots = ("boots_and_ends", Outcome::Passed);
        let table = table(&[
            row(
                "6.1",
                &[boots.clone(), strict(Outcome::Failed), permissive.clone()],
            ),
            row(
                "6.12",
                &[boots.clone(), strict(Outcome::Passed), permissive],
            ),
            row(
                "newest",
                &[boots, strict(Outcome::Skipped("no tcx".into()))],
            ),
        ]);
        assert!(
            table.contains(
                "| STRICT and PERMISSIVE | **no** (1 of 2) | yes (2) | skipped: no tcx |"
            ),
            "{table}"
        );
        assert!(
            table.starts_with("|  | 6.1.9 | 6.12.9 | newest.9 |"),
            "{table}"
        );
        assert!(!table.contains("Hostile peers"), "nothing ran: {table}");
        assert!(!table.contains("Everything else"), "a boot is no feature");
    }

    #[test]
    fn only_the_table_of_the_page_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let written = replace(&page, "new\n").unwrap();
        assert_eq!(written, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert!(replace("nothing to replace", "new\n").is_err());
    }
}
