//! Builds the drivers from the configuration and hands them to the rooms.

use crate::config::Config;

/// Serves until SIGTERM.
pub fn serve(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("serving is not there yet in this build")
}
