//! How many ids passed, which were skipped and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use e2e::Runtime;

pub enum Outcome {
    Passed(Duration),
    /// What is missing.
    Skipped(String),
    Failed(String),
}

pub struct Summary {
    runtime: Runtime,
    passed: usize,
    failed: Vec<String>,
    /// What is missing → the ids that need it.
    skipped: BTreeMap<String, BTreeSet<String>>,
}

impl Summary {
    pub fn new(runtime: Runtime) -> Self {
        Summary {
            runtime,
            passed: 0,
            failed: Vec::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Notes an outcome and prints it.
    pub fn add(&mut self, id: &str, outcome: Outcome) {
        let name = self.runtime.name();
        match outcome {
            Outcome::Passed(took) => {
                println!("conformance {name}/{id} ... ok ({:.1} s)", took.as_secs_f32());
                self.passed += 1;
            }
            Outcome::Skipped(what) => {
                println!("conformance {name}/{id} ... skipped: {what}");
                self.skipped.entry(what).or_default().insert(id.to_owned());
            }
            Outcome::Failed(why) => {
                println!("conformance {name}/{id} ... FAILED: {why}");
                self.failed.push(id.to_owned());
            }
        }
    }

    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Prints it, keeps it for the end of `make test` where all ids were run, and says whether none failed.
    pub fn finish(&self, all: bool) -> bool {
        let skipped: usize = self.skipped.values().map(BTreeSet::len).sum();
        let name = self.runtime.name();
        let mut text = format!(
            "conformance with {name}: {} ids passed, {skipped} were skipped, {} failed\n",
            self.passed,
            self.failed.len()
        );
        for (what, ids) in &self.skipped {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let _ = writeln!(text, "  skipped for lack of {what}: {}", ids.join(" "));
        }
        for id in &self.failed {
            let _ = writeln!(text, "  FAILED: {id}");
        }
        print!("{text}");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/conformance");
        if all {
            let kept = std::fs::create_dir_all(&directory)
                .and_then(|()| std::fs::write(directory.join(format!("{name}.txt")), text));
            if let Err(error) = kept {
                println!("{}: {error}", directory.display());
            }
        }
        !self.has_failed()
    }
}
