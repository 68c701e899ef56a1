//! The fuzz targets without a fuzzer: their corpus, and what is near to it.

#![allow(clippy::expect_used)]

use std::{fs, path::PathBuf};

use proptest::{prelude::*, test_runner::TestRunner};

#[path = "../fuzz/bodies.rs"]
mod bodies;

#[test]
fn policy() {
    run("policy", bodies::policy);
}

#[test]
fn authority() {
    run("authority", bodies::authority);
}

#[test]
fn forwarded() {
    run("forwarded", bodies::forwarded);
}

#[test]
fn baggage() {
    run("baggage", bodies::baggage);
}

/// A change of an input: what is at a place (of 2³² over the whole) is replaced.
type Edit = (u32, u8, Vec<u8>);

fn run(target: &str, body: fn(&[u8])) {
    let corpus = corpus(target);
    for (path, input) in &corpus {
        println!("{}", path.display());
        body(input);
    }
    let inputs: Vec<_> = corpus.into_iter().map(|(_, input)| input).collect();
    let edits = prop::collection::vec(edit(), 0..6);
    let near =
        (prop::sample::select(inputs), edits).prop_map(|(input, edits)| edited(input, edits));
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    let mut runner = TestRunner::default();
    let tried = runner.run(&prop_oneof![4 => near, 1 => bytes], |input| {
        body(&input);
        Ok(())
    });
    tried.unwrap_or_else(|failure| panic!("{target}: {failure}"));
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&directory).expect("the target has a corpus");
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry of the corpus").path();
            let input = fs::read(&path).expect("a file of the corpus");
            (path, input)
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", directory.display());
    inputs
}

fn edit() -> impl Strategy<Value = Edit> {
    let syntax = "[-\\[\\]{}:,\"'*&!|>%@`#?;=. \n\t0-9a-z]{0,8}".prop_map(String::into_bytes);
    let bytes = prop::collection::vec(any::<u8>(), 0..8);
    (any::<u32>(), 0..8_u8, prop_oneof![3 => syntax, 1 => bytes])
}

fn edited(mut input: Vec<u8>, edits: Vec<Edit>) -> Vec<u8> {
    for (place, length, replacement) in edits {
        let start = (input.len() as u64 * u64::from(place)) >> 32;
        let start = usize::try_from(start).unwrap_or(input.len());
        let end = input.len().min(start + usize::from(length));
        input.splice(start..end, replacement);
    }
    input
}
