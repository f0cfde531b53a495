//! Arguments in, exit code out.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use crio_manager::cli::{self, Invocation, VersionFormat};
use crio_manager::config::{self, Config, Sources};
use crio_manager::{logging, node};

fn main() -> ExitCode {
    match run(cli::from_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crio-manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<()> {
    match invocation {
        Invocation::Serve(sources) => node::serve(load_and_log(&sources)?),
        Invocation::PrintConfig(sources) => {
            let (config, warnings) = config::load(&sources)?;
            warnings.iter().for_each(|warning| eprintln!("crio-manager: {warning}"));
            print(&config::effective(&config))
        }
        Invocation::PrintDefaultConfig => print(&config::commented_defaults()),
        Invocation::LoadImage { sources, file } => {
            for (id, tags) in node::load_images(&load_and_log(&sources)?, &file)? {
                print(&format!("{}\n", [&[id], tags.as_slice()].concat().join(" ")))?;
            }
            Ok(())
        }
        Invocation::Version(VersionFormat::Text) => print(&format!("crio-manager {}\n", env!("CARGO_PKG_VERSION"))),
        Invocation::Version(VersionFormat::Json) => {
            let version = serde_json::json!({ "name": "crio-manager", "version": env!("CARGO_PKG_VERSION") });
            print(&format!("{version}\n"))
        }
    }
}

/// The configuration, checked, with its warnings in the log that it describes.
fn load_and_log(sources: &Sources) -> anyhow::Result<Config> {
    let (config, warnings) = config::load(sources)?;
    logging::start(&config)?;
    for warning in warnings {
        tracing::warn!(place = %warning.place, key = warning.key, "configuration: {}", warning.message);
    }
    Ok(config)
}

/// `println!` would panic when the reader of a pipe has left.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}
