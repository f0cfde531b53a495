//! How a container ended, and when.

use super::Timestamp;
use serde::{Deserialize, Serialize};

/// How the container's first process ended. Unknown is a value of its own: nothing turns it into 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// The code, or 128 + the signal's number.
    Code(u8),
    /// Nobody saw the end; why not.
    Unknown(String),
    /// It never ran: the OCI runtime's words.
    StartFailed(String),
}

/// The code that stands for an end nobody saw, and for a start that failed.
const UNKNOWN_CODE: i32 = 255;
const START_FAILED_CODE: i32 = 128;

impl ExitStatus {
    /// From a raw wait status, as `waitid`, pidfds and `/proc` give it.
    pub fn from_wait_status(raw: i32) -> Self {
        let signal = raw & 0x7f;
        let code = if signal == 0 { (raw >> 8) & 0xff } else { 128 + signal };
        Self::Code(u8::try_from(code).unwrap_or(u8::MAX))
    }

    /// The code CRI reports: 0–255.
    pub fn code(&self) -> i32 {
        match self {
            Self::Code(code) => i32::from(*code),
            Self::Unknown(_) => UNKNOWN_CODE,
            Self::StartFailed(_) => START_FAILED_CODE,
        }
    }
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How.
    pub status: ExitStatus,
    /// Whether the kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// When.
    pub at: Timestamp,
}

impl Exit {
    /// The reason in the words the kubelet knows.
    pub fn reason(&self) -> &'static str {
        match &self.status {
            _ if self.oom_killed => "OOMKilled",
            ExitStatus::Code(0) => "Completed",
            ExitStatus::Code(_) => "Error",
            ExitStatus::Unknown(_) => "Unknown",
            ExitStatus::StartFailed(_) => "StartError",
        }
    }

    /// What a person should read beside the reason; empty when there is nothing to add.
    pub fn message(&self) -> &str {
        match &self.status {
            ExitStatus::Code(_) => "",
            ExitStatus::Unknown(why) | ExitStatus::StartFailed(why) => why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_128_more_and_every_code_itself() {
        for code in 0..=255u8 {
            assert_eq!(
                ExitStatus::from_wait_status(i32::from(code) << 8),
                ExitStatus::Code(code)
            );
        }
        for signal in 1..=64u8 {
            assert_eq!(
                ExitStatus::from_wait_status(i32::from(signal)),
                ExitStatus::Code(128 + signal)
            );
            assert_eq!(
                ExitStatus::from_wait_status(i32::from(signal) | 0x80),
                ExitStatus::Code(128 + signal),
                "core"
            );
        }
    }

    #[test]
    fn unknown_is_never_success() {
        let exit = Exit {
            status: ExitStatus::Unknown("the node was rebooted".into()),
            oom_killed: false,
            at: Timestamp::from_nanos(1),
        };
        assert_ne!(exit.status.code(), 0);
        assert_ne!(exit.reason(), "Completed");
    }
}
