//! The `nft` command: a ruleset goes in whole, in one transaction, or not at all.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::super::program::{self, Ended, ProgramError, Run, said};
use super::ruleset::TABLE;

/// Thousands of rules take it a second.
const NFT_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft")]
    Program(#[from] ProgramError),
    /// Its own words.
    #[error("nft {}{}", ended.0, said(&ended.1))]
    Refused { ended: (std::process::ExitStatus, String) },
}

/// Puts this ruleset in force.
pub async fn load(ruleset: String) -> Result<(), NftError> {
    accepted(run(&["-f", "-"], ruleset).await?)
}

/// Has tool and kernel say whether they could, and changes nothing.
pub async fn try_out(ruleset: String) -> Result<(), NftError> {
    accepted(run(&["--check", "-f", "-"], ruleset).await?)
}

/// Whether there is a table of ours.
pub async fn has_table() -> Result<bool, NftError> {
    let Ended { status, stdout, stderr } = run(&["list", "tables", "inet"], String::new()).await?;
    if !status.success() {
        return accepted(Ended { status, stdout, stderr }).map(|()| false);
    }
    let ours = format!("table inet {TABLE}");
    Ok(String::from_utf8_lossy(&stdout).lines().any(|line| line.trim() == ours))
}

async fn run(arguments: &'static [&'static str], input: String) -> Result<Ended, NftError> {
    let run = Run {
        program: PathBuf::from("nft"),
        arguments,
        environment: Vec::new(),
        stdin: input.into_bytes(),
        deadline: Instant::now() + NFT_LIMIT,
    };
    Ok(program::run(run).await?)
}

fn accepted(Ended { status, stderr, .. }: Ended) -> Result<(), NftError> {
    if status.success() {
        return Ok(());
    }
    let ended = (status, program::text(&stderr));
    Err(NftError::Refused { ended })
}
