//! What the documentation says of the code.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

/// Where the short paths of the documents begin.
const BELOW: [(&str, &str); 13] = [
    ("config/", "crio-manager/src"),
    ("spans/", "crio-manager/src"),
    ("metrics/", "crio-manager/src"),
    ("lifecycle/", "crio-manager/src"),
    ("model/", "crio-manager/src"),
    ("spec/", "crio-manager/src"),
    ("drivers/", "crio-manager/src"),
    ("service/", "crio-manager/src"),
    ("streaming/", "crio-manager/src"),
    ("e2e/", "tests"),
    ("conformance/", "tests"),
    ("podman/", "tests"),
    ("monitor/", "conmon-rs/tests"),
];

#[test]
fn every_test_that_the_specification_names_is_there() {
    let named = tests_named_in("docs/specification.md");
    assert!(named > 100, "only {named} tests were found in the specification");
}

#[test]
fn every_test_that_the_monitors_contract_names_is_there() {
    let named = tests_named_in("docs/monitor-contract.md");
    assert!(named > 50, "only {named} tests were found in the contract");
}

/// Looks for each test in the file that is named before it in the same row of a table. Returns how many there are.
fn tests_named_in(document: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join(document)).unwrap();
    let mut named = 0;
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let mut file: Option<(PathBuf, String)> = None;
        // What stands between backquotes.
        for word in line.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                let short = BELOW.iter().find(|(short, _)| word.starts_with(short));
                let path = root.join(short.map_or("", |(_, below)| below)).join(word);
                let code = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{word}: {error}"));
                file = Some((path, code));
            } else if let Some((path, code)) = &file
                && word.contains('_')
                && word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            {
                let declared = format!("fn {word}(");
                assert!(code.contains(&declared), "{} has no test {word}", path.display());
                named += 1;
            }
        }
    }
    named
}
