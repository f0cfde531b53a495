//! The undo stack of a creation: releases, newest first.

use super::under_way;
use crate::drivers::seams::DriverResult;
use crate::spans;
use futures::future::BoxFuture;
use tracing::{debug, warn};

/// A release call not yet awaited: a future does nothing until it is.
pub type Release = BoxFuture<'static, DriverResult<()>>;

/// What a half-made thing must give back.
#[derive(Default)]
pub struct Undo {
    releases: Vec<(&'static str, Release)>,
}

impl Undo {
    /// Remembers how to undo the step that comes next. Pushed before the step, because a step can fail half-way.
    pub fn push(&mut self, name: &'static str, release: impl Future<Output = DriverResult<()>> + Send + 'static) {
        self.releases.push((name, Box::pin(release)));
    }

    /// Releases newest first, does not stop at a failure; what could not be released: its name and why.
    pub async fn run(self) -> Vec<String> {
        let mut leftovers = Vec::new();
        for (name, release) in self.releases.into_iter().rev() {
            debug!(step = name, "undo");
            under_way::at(name);
            if let Err(error) = spans::within(name, release).await {
                warn!(step = name, %error, "undo failed, going on with the others");
                leftovers.push(format!("{name}: {error}"));
            }
        }
        leftovers
    }
}
