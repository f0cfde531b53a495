//! Runs one CNI plugin once: environment and configuration in, its answer out, within a deadline.
//!
//! Source: the CNI specification 1.1, section 2.

use std::path::PathBuf;
use std::process::ExitStatus;

use serde::Deserialize;
use tokio::time::Instant;

use super::program::{self, Ended, ProgramError, Run, said};

pub use super::program::text;

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("not in {searched}")]
    Missing { searched: String },
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The plugin's own words.
    #[error("{msg} (code {code}){}{}", said(details), said(stderr))]
    Refused {
        code: u64,
        msg: String,
        details: String,
        stderr: String,
    },
    #[error("{status}, without a CNI error on stdout{}{}", said(stdout), said(stderr))]
    Crashed {
        status: ExitStatus,
        stdout: String,
        stderr: String,
    },
    #[error(
        "exited with success, but its answer is not a CNI result: {reason}{}{}",
        said(stdout),
        said(stderr)
    )]
    Garbage {
        reason: String,
        stdout: String,
        stderr: String,
    },
}

impl PluginError {
    /// The plugin itself said that it can't serve new pods now (STATUS, codes 50 and 51), or any other refusal.
    pub fn code(&self) -> Option<u64> {
        match self {
            PluginError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// One call of one plugin.
pub struct Call {
    pub program: PathBuf,
    /// The `CNI_*` variables.
    pub environment: Vec<(&'static str, String)>,
    pub stdin: Vec<u8>,
    pub deadline: Instant,
}

/// Runs the plugin to its end. Whatever the outcome, it is not running any more.
pub async fn run(call: Call) -> Result<Vec<u8>, PluginError> {
    let Call {
        program,
        environment,
        stdin,
        deadline,
    } = call;
    let run = Run {
        program,
        arguments: &[],
        environment,
        stdin,
        deadline,
    };
    judge(program::run(run).await?)
}

#[derive(Deserialize)]
struct ErrorAnswer {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

fn judge(ended: Ended) -> Result<Vec<u8>, PluginError> {
    let Ended { status, stdout, stderr } = ended;
    if status.success() {
        return Ok(stdout);
    }
    let stderr = text(&stderr);
    Err(match serde_json::from_slice::<ErrorAnswer>(&stdout) {
        Ok(ErrorAnswer { code, msg, details }) => PluginError::Refused {
            code,
            msg,
            details,
            stderr,
        },
        Err(_) => PluginError::Crashed {
            status,
            stdout: text(&stdout),
            stderr,
        },
    })
}
