//! `--log-path`: which drivers there are, and what the journal's fields can say.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::check::{Refusal, refuse};
use crate::log::journald::{SHORT_ID_BYTES, split_label};

/// What the journal's fields can say.
pub(super) fn check_for_journald(container_id: &[u8], labels: &[OsString]) -> Result<(), Refusal> {
    if container_id.len() <= SHORT_ID_BYTES {
        return refuse("Container ID must be longer than 12 characters");
    }
    for label in labels {
        let shown = label.to_string_lossy();
        let Some((name, _)) = split_label(label.as_bytes()) else {
            return refuse(format!("Container labels must be in format LABEL=VALUE ({shown})"));
        };
        if !name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
            return refuse(format!(
                "Container label names must contain only uppercase letters, numbers and underscore (in '{shown}')"
            ));
        }
    }
    Ok(())
}

/// Where output goes.
#[derive(Default)]
pub(super) struct LogDrivers {
    /// The last of several wins.
    pub(super) file: Option<PathBuf>,
    /// There is nothing to log: the container writes to where the monitor's own stdio goes.
    pub(super) passthrough: bool,
    pub(super) journald: bool,
}

pub(super) fn log_drivers(entries: &[OsString]) -> Result<LogDrivers, Refusal> {
    if entries.is_empty() {
        return refuse("Log driver not provided. Use --log-path");
    }
    let mut drivers = LogDrivers::default();
    for entry in entries {
        let bytes = entry.as_bytes();
        // Only the first colon separates: a path may contain others.
        let (driver, path) = match bytes.iter().position(|byte| *byte == b':') {
            Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
            None => (bytes, None),
        };
        match (driver, path) {
            (b"", None | Some(b"")) => return refuse("log-path must not be empty"),
            (b"none" | b"off" | b"null", _) => {}
            (b"passthrough", _) => drivers.passthrough = true,
            (b"journald", _) => drivers.journald = true,
            (b"k8s-file", None | Some(b"")) => return refuse("k8s-file requires a filename"),
            (b"" | b"k8s-file", Some(path)) => drivers.file = Some(PathBuf::from(OsString::from_vec(path.to_vec()))),
            (_, None) => drivers.file = Some(PathBuf::from(entry)),
            (unknown, Some(_)) => {
                return refuse(format!("No such log driver {}", String::from_utf8_lossy(unknown)));
            }
        }
    }
    Ok(drivers)
}
