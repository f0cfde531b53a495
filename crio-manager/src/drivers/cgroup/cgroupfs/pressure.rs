//! Pressure stall information of a cgroup of version 2, which a hybrid node has as well.

use crate::drivers::cgroup::{Pressure, Stall, Stalls};
use std::fs;
use std::path::Path;

pub(super) fn read(dir: &Path) -> Pressure {
    let stalls = |file: &str| parse(&fs::read_to_string(dir.join(file)).ok()?);
    Pressure {
        cpu: stalls("cpu.pressure"),
        memory: stalls("memory.pressure"),
        io: stalls("io.pressure"),
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn parse(text: &str) -> Option<Stalls> {
    let line = |kind: &str| {
        let mut stall = Stall::default();
        let words = text.lines().find_map(|line| line.strip_prefix(kind))?;
        for (name, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => stall.avg10_percent = value.parse().ok()?,
                "avg60" => stall.avg60_percent = value.parse().ok()?,
                "avg300" => stall.avg300_percent = value.parse().ok()?,
                "total" => stall.total_ns = value.parse::<u64>().ok()?.saturating_mul(1000),
                _ => {}
            }
        }
        Some(stall)
    };
    Some(Stalls {
        some: line("some ")?,
        // Older kernels have no such line for the processor.
        full: line("full ").unwrap_or_default(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read_and_what_is_none_is_not_invented() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";
        let stalls = parse(text).unwrap();
        assert_eq!((stalls.some.avg10_percent, stalls.some.total_ns), (1.5, 42_000));
        assert_eq!((stalls.full.avg10_percent, stalls.full.total_ns), (0.5, 7_000));
        assert_eq!(parse("some avg10=0.00 total=1\n").unwrap().full, Stall::default());
        assert!(parse("").is_none() && parse("some avg10=x").is_none());
    }
}
