use super::*;

/// The outcomes of a binary of the crate `net`, whose lines are all on its standard output.
fn outcomes(output: &str) -> Vec<(String, Outcome)> {
    parse(output, &skips(output)).outcomes.into_iter().collect()
}

fn skips(output: &str) -> BTreeMap<String, String> {
    output
        .lines()
        .filter_map(|line| parse_skip(line, "net"))
        .map(|(test, reason)| (test.to_owned(), reason.to_owned()))
        .collect()
}

fn skipped(reason: &str) -> Outcome {
    Outcome::Skipped(reason.to_owned())
}

#[test]
fn tests_are_listed_and_benchmarks_are_not() {
    let list = "mesh::parses: test\nmesh::fast: benchmark\ncert::rotates: test\n";
    assert_eq!(parse_list(list), ["mesh::parses", "cert::rotates"]);
}

#[test]
fn results_are_read_line_by_line() {
    assert_eq!(
        parse_result("test a::b ... ok"),
        Some(("a::b", Outcome::Passed))
    );
    assert_eq!(
        parse_result("test a::b ... FAILED"),
        Some(("a::b", Outcome::Failed))
    );
    assert_eq!(
        parse_result("test a ... ignored"),
        Some(("a", skipped("ignored")))
    );
    assert_eq!(
        parse_result("test a ... ignored, needs a VM, a big one"),
        Some(("a", skipped("needs a VM, a big one")))
    );
    assert_eq!(
        parse_result("test a - should panic ... ok"),
        Some(("a", Outcome::Passed))
    );
}

#[test]
fn other_lines_are_no_results() {
    for line in [
        "running 3 tests",
        "test result: ok. 1 passed",
        "test a ... what",
        "a ... ok",
    ] {
        assert_eq!(parse_result(line), None, "{line}");
    }
}

const MIXED: &str = "
running 4 tests
test fails ... FAILED
test passes ... ok
test m::skips ... ok
test waits ... ignored, too slow

successes:

---- m::skips stdout ----
looking for cgroup2
SKIPPED: m::skips: no cgroup2: mount it

---- passes stdout ----
hello


successes:
    m::skips
    passes

failures:

---- fails stdout ----
test passes ... FAILED
SKIPPED: fails: half-way

thread 'fails' panicked at a.rs:1:1:
left is not right


failures:
    fails

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

#[test]
fn each_test_has_its_outcome() {
    assert_eq!(
        outcomes(MIXED),
        [
            ("fails".to_owned(), Outcome::Failed),
            ("m::skips".to_owned(), skipped("no cgroup2: mount it")),
            ("passes".to_owned(), Outcome::Passed),
            ("waits".to_owned(), skipped("too slow")),
        ]
    );
}

#[test]
fn each_test_keeps_what_it_printed() {
    let output = parse(MIXED, &BTreeMap::new()).output;
    assert_eq!(output["passes"].trim(), "hello");
    assert!(output["fails"].contains("left is not right"));
    assert!(!output["fails"].contains("test result"));
}

#[test]
fn a_result_that_something_wrote_into_is_found_at_the_end() {
    let output = "\
running 2 tests
test bad ... a child's message
FAILED
test good ... a child's message
ok

successes:

successes:
    good

failures:

---- bad stdout ----
no

failures:
    bad

test result: FAILED. 1 passed; 1 failed; 0 ignored
";
    assert_eq!(
        outcomes(output),
        [
            ("bad".to_owned(), Outcome::Failed),
            ("good".to_owned(), Outcome::Passed)
        ]
    );
}

#[test]
fn a_skip_is_the_tests_that_it_names_and_no_others() {
    let output = "\
running 3 tests
SKIPPED: net::skips: no root
test skips ... ok
test m::skips ... ok
test also_skips ... ok
";
    assert_eq!(
        outcomes(output),
        [
            ("also_skips".to_owned(), Outcome::Passed),
            ("m::skips".to_owned(), Outcome::Passed),
            ("skips".to_owned(), skipped("no root")),
        ]
    );
}

#[test]
fn a_skip_names_its_test_with_or_without_the_crate() {
    let expected = Some(("m::a", "no root: be root"));
    assert_eq!(
        parse_skip("SKIPPED: net::m::a: no root: be root", "net"),
        expected
    );
    assert_eq!(
        parse_skip("SKIPPED: m::a: no root: be root", "net"),
        expected
    );
    assert_eq!(parse_skip("this is not SKIPPED: m::a: x", "net"), None);
}

#[test]
fn a_binary_that_dies_leaves_the_results_so_far() {
    let output = "running 2 tests\ntest a ... ok\ntest b ... ";
    assert_eq!(outcomes(output), [("a".to_owned(), Outcome::Passed)]);
}
