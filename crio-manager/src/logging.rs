//! The daemon's own log: events of `tracing` on standard error, where systemd's journal takes them.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Libraries that log every frame at `debug`; `log_targets` comes later and can turn them on.
const LIBRARIES: &str =
    "h2=info,hyper=info,hyper_util=info,rustls=info,reqwest=info,netlink_proto=info,tonic=info,tower=info";

/// Sets up the log of this process, once.
///
/// Errors: `log_targets` is not a list of directives; a log was set up before.
pub fn start(config: &Config) -> anyhow::Result<()> {
    let level = config.runtime.log_level.as_str();
    let targets = &config.manager.log_targets;
    let directives = [level, LIBRARIES, targets]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(",");
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("crio_manager.log_targets: {targets:?} is not a list of target=level"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = match config.manager.log_format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(true)
            .try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("the log can't be set up: {error}"))
}
