//! SIGHUP: the configuration is read again, checked as a whole, and only then swapped in.

use crate::config::{self, Config, Sources};
use crate::lifecycle::Lifecycle;
use crate::logging::{self, LogFilter};
use crate::node;
use anyhow::Context as _;
use tracing::{error, info, warn};

/// What a reload needs to know.
pub struct Reload {
    pub sources: Sources,
    pub log: LogFilter,
}

impl Reload {
    /// Reads the configuration again and gives it, live keys swapped in. With an error in it everything stays as it was,
    /// and the error is logged and given.
    pub async fn run(&self, started_with: &Config, lifecycle: &Lifecycle) -> Result<Config, String> {
        let config = self.swap(started_with, lifecycle).await.map_err(|error| {
            let error = format!("{error:#}");
            error!(
                error,
                "the configuration was not reloaded; the one before stays in force"
            );
            error
        })?;
        info!("configuration reloaded");
        Ok(config)
    }

    async fn swap(&self, started_with: &Config, lifecycle: &Lifecycle) -> anyhow::Result<Config> {
        let sources = self.sources.clone();
        // Files are read where a slow disk holds up nobody.
        let read = tokio::task::spawn_blocking(move || {
            let (config, warnings) = config::load(&sources)?;
            let defaults = node::spec_defaults(&config)?;
            anyhow::Ok((config, warnings, defaults))
        });
        let (config, warnings, defaults) = read.await.context("read the configuration")??;
        let filter = logging::filter(&config)?;
        // Nothing below can fail half-way: the log's filter is the only step that can fail, and it is the first.
        self.log.replace(filter)?;
        lifecycle.replace_defaults(defaults);
        config::log_warnings(warnings);
        for key in config::restart_needed(started_with, &config) {
            warn!(key, "configuration: it has changed, and changes with the next restart");
        }
        Ok(config)
    }
}
