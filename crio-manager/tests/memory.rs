//! Memory that a burst of work has left is given back, and what is needed comes back by itself.

use crio_manager::drivers::process::give_back_memory;

/// Resident KiB of the mappings whose first line in `smaps` is meant.
fn resident(meant: impl Fn(&str) -> bool) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let (mut counts, mut sum) = (false, 0);
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.contains(' ')) else {
            counts = meant(line);
            continue;
        };
        if counts && name == "Rss" {
            let kib = value.trim().trim_end_matches(" kB");
            sum += kib.parse::<u64>().expect("a number of KiB");
        }
    }
    sum
}

// One test: threads beside it would use code and heap of their own accord.
#[test]
fn what_a_burst_of_work_has_left_is_given_back() {
    const BLOCKS: usize = 16 * 1024;
    const BLOCK_BYTES: usize = 1024;

    let program = std::env::current_exe().expect("the program").display().to_string();
    let meant = |rights: &str| resident(|mapping| mapping.contains(rights) && mapping.ends_with(&program));
    let code_and_constants = || [" r-xp ", " r--p 00000000 "].map(meant);
    let before = code_and_constants();
    give_back_memory();
    let after = code_and_constants();
    let less = before.iter().zip(&after).all(|(before, after)| after < before);
    assert!(less, "{before:?} KiB of code and constants, then {after:?}");

    let mut blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1; BLOCK_BYTES]).collect();
    // What is in use at the top keeps the heap from shrinking by itself.
    blocks.drain(..BLOCKS - 1);
    let before = resident(|_| true);
    give_back_memory();
    let after = resident(|_| true);
    let most = (BLOCKS * BLOCK_BYTES / 1024) as u64;
    assert!(after + most / 2 < before, "{before} KiB, then {after}");
    assert_eq!(blocks.first().map(Vec::len), Some(BLOCK_BYTES));
}
