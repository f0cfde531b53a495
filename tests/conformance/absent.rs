//! Ids that need what the product has not: NRI.

use crate::summary::{Outcome, Summary};

const NRI_IDS: u32 = 13;

/// Notes these ids as skipped.
pub fn note(summary: &mut Summary) {
    for number in 1..=NRI_IDS {
        summary.add(
            &format!("nri-{number:02}"),
            Outcome::Skipped("NRI in the product".to_owned()),
        );
    }
}
