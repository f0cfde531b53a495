//! The man pages in contrib/man are those that the code writes.

use std::path::Path;

use clap::ValueEnum as _;
use crio_manager::manual::{Page, page};

#[test]
fn the_committed_pages_are_what_is_generated() {
    for of in Page::value_variants() {
        let name = of.to_possible_value().map(|value| value.get_name().to_owned());
        let name = name.unwrap_or_default();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/man").join(&name);
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == page(*of), "contrib/man/{name} is out of date: make config");
    }
}
