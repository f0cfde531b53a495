//! Arguments in, exit code out.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use crio_manager::check;
use crio_manager::cli::{self, Format, Invocation};
use crio_manager::config::{self, Config, Sources};
use crio_manager::images;
use crio_manager::logging::{self, LogFilter};
use crio_manager::manual;
use crio_manager::node;
use crio_manager::progress;
use crio_manager::reload::Reload;
use crio_manager::status;
use crio_manager::systemd::HandedOver;
use crio_manager::wipe;

fn main() -> ExitCode {
    match run(cli::from_process()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crio-manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false`: it has been said already what is wrong.
fn run(invocation: Invocation) -> anyhow::Result<bool> {
    match invocation {
        Invocation::Check { sources, format } => return check(&sources, format),
        Invocation::Serve(sources) => {
            // Before anything else is opened.
            let handed = HandedOver::take()?;
            let (config, log) = load_and_log(&sources)?;
            node::serve(config, Reload { sources, log }, handed)?;
        }
        Invocation::PrintConfig(sources) => print(&config::effective(&load_and_warn(&sources)?))?,
        Invocation::PrintDefaultConfig => print(&config::commented_defaults())?,
        Invocation::LoadImage { sources, file } => {
            let config = load_and_log(&sources)?.0;
            let shown = progress::spinner(format!("loading {}", file.display()));
            let loaded = node::load_images(&config, &file);
            drop(shown);
            for (id, tags) in loaded? {
                print(&format!("{}\n", [&[id], tags.as_slice()].concat().join(" ")))?;
            }
        }
        Invocation::ListImages { sources, format } => {
            let found = images::list(&load_and_log(&sources)?.0)?;
            match format {
                Format::Text => print(&images::text(&found))?,
                Format::Json => print(&format!("{:#}\n", images::json(&found)))?,
            }
        }
        Invocation::PruneImages { sources, dry_run } => {
            let pruned = images::prune(&load_and_log(&sources)?.0, dry_run)?;
            print_lines(pruned.iter().map(images::Listed::line))?;
        }
        Invocation::Wipe {
            sources,
            scope,
            dry_run,
        } => print_lines(wipe::wipe(load_and_log(&sources)?.0, scope, dry_run)?)?,
        Invocation::Status { sources, format } => {
            let socket = load_and_warn(&sources)?.api.listen;
            let answer = status::ask(&socket)?;
            match format {
                Format::Text => print(&status::text(&socket, &answer))?,
                Format::Json => print(&format!("{}\n", status::json(&answer)))?,
            }
        }
        Invocation::Completion(shell) => print(&String::from_utf8_lossy(&cli::completion(shell)))?,
        Invocation::Manual(page) => print(&manual::page(page))?,
        Invocation::Version(Format::Text) => print(&format!("crio-manager {}\n", env!("CARGO_PKG_VERSION")))?,
        Invocation::Version(Format::Json) => {
            let version = serde_json::json!({ "name": "crio-manager", "version": env!("CARGO_PKG_VERSION") });
            print(&format!("{version}\n"))?;
        }
    }
    Ok(true)
}

fn check(sources: &Sources, format: Format) -> anyhow::Result<bool> {
    let config = load_and_warn(sources)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let findings = runtime
        .context("start the async runtime")?
        .block_on(check::look(&config));
    match format {
        Format::Text => print(&check::table(&findings))?,
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?,
    }
    Ok(check::is_fit(&findings))
}

/// The configuration, checked, with its warnings in the log that it describes.
fn load_and_log(sources: &Sources) -> anyhow::Result<(Config, LogFilter)> {
    let (config, warnings) = config::load(sources)?;
    let log = logging::start(&config)?;
    config::log_warnings(warnings);
    Ok((config, log))
}

/// The configuration, checked, with its warnings on standard error.
fn load_and_warn(sources: &Sources) -> anyhow::Result<Config> {
    let (config, warnings) = config::load(sources)?;
    warnings.iter().for_each(|warning| eprintln!("crio-manager: {warning}"));
    Ok(config)
}

fn print_lines(lines: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let lines = lines.into_iter().map(|line| line + "\n");
    print(&lines.collect::<String>())
}

/// `println!` would panic when the reader of a pipe has left.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}
