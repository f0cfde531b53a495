//! The program that a caller wants to be run when everything is over.

use std::ffi::OsString;

use rustix::process::set_child_subreaper;

use crate::args::ExitCommand;
use crate::child::{reap_any, wait_for};
use crate::contract::ExitCode;
use crate::runtime::{Origin, launch};
use crate::sys;

/// Runs it to its end. Every descriptor is closed before, so that whoever waits for the end of one is not kept waiting.
pub fn run(command: &ExitCommand, origin: &Origin) {
    sys::close_from(3);
    // What the command leaves running is not ours.
    if let Err(error) = set_child_subreaper(None) {
        crate::debug!("subreaper: {error}");
    }
    let words = || {
        let path: OsString = command.path.clone().into();
        [path].into_iter().chain(command.arguments.iter().cloned()).collect()
    };
    let delay = command.delay;
    match launch(words, origin, |_| {
        std::thread::sleep(delay);
        Ok(())
    }) {
        Ok(child) => match wait_for(child) {
            ExitCode::Status(0) => {}
            exit => crate::warning!("exit command {} ended with {}", command.path.display(), exit.number()),
        },
        Err(error) => crate::error!("exit command: {error}"),
    }
    while reap_any().is_some() {}
}
