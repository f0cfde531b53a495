//! The process of an exec: the container's own with another command.

use super::json;
use crate::drivers::seams::{DriverError, ErrorKind};
use crate::spec;
use crate::spec::process::Terminal;
use oci_spec::runtime::Process;

/// All of a container's spec that an exec needs: the rest, the system call filter above all, is many times as long.
#[derive(serde::Deserialize)]
struct Container {
    process: Option<Process>,
}

/// The OCI JSON of an exec: the container's own process with another command.
pub(in crate::lifecycle) fn specify_exec(config: &[u8], command: &[String], tty: bool) -> Result<Vec<u8>, DriverError> {
    let broken = |why: String| DriverError::new(ErrorKind::Failed, format!("config.json of the container: {why}"));
    let container: Container = serde_json::from_slice(config).map_err(|error| broken(error.to_string()))?;
    let process = container
        .process
        .ok_or_else(|| broken("it has no process".to_owned()))?;
    let terminal = if tty { Terminal::New } else { Terminal::None };
    Ok(json(&spec::exec_process(&process, command, terminal)?)?)
}
