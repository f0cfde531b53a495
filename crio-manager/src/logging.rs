//! The daemon's own log: events of `tracing` on standard error, or as entries of the journal where systemd has connected
//! standard error with it.

use std::path::Path;

use anyhow::Context as _;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Config, LogFormat};
use crate::journal::{self, Journal};

/// Libraries that log every frame at `debug`; `log_targets` comes later and can turn them on.
const LIBRARIES: &str =
    "h2=info,hyper=info,hyper_util=info,rustls=info,reqwest=info,netlink_proto=info,tonic=info,tower=info";

/// Changes what of this process's log is written.
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Writes from here on what `filter` lets through. Errors: the log is gone.
    pub fn replace(&self, filter: EnvFilter) -> anyhow::Result<()> {
        self.0.reload(filter).context("change the log's filter")
    }
}

/// What the configuration wants written. Errors: `log_targets` is not a list of directives.
pub fn filter(config: &Config) -> anyhow::Result<EnvFilter> {
    let level = config.runtime.log_level.as_str();
    let targets = &config.manager.log_targets;
    let directives = [level, LIBRARIES, targets]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(",");
    EnvFilter::try_new(&directives)
        .with_context(|| format!("crio_manager.log_targets: {targets:?} is not a list of target=level"))
}

/// Sets up the log of this process, once. Text becomes entries with fields where standard error is the journal's.
///
/// Errors: `log_targets` is not a list of directives; a log was set up before; there are no sockets.
pub fn start(config: &Config) -> anyhow::Result<LogFilter> {
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let lines = match config.manager.log_format {
        LogFormat::Text if journal::is_stream(std::io::stderr(), journal.as_deref()) => {
            Journal::new(Path::new(journal::SOCKET)).context("the journal")?.boxed()
        }
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(true)
            .boxed(),
    };
    let set_up = tracing_subscriber::registry().with(filter).with(lines).try_init();
    set_up.map_err(|error| anyhow::anyhow!("the log can't be set up: {error}"))?;
    Ok(LogFilter(handle))
}
