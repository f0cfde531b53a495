//! What may happen on this node, and in which order. One verb a file; the steps of a creation have their undo.
//!
//! A request comes down from `service`, acts through `drivers` and answers with a value. A fact from the kernel comes
//! in by one door, `observe`. State changes only in `model::*::apply`, through the cells, which `restore` fills at start.

pub mod categories;
pub mod cell;
mod checkpoint;
mod create_container;
mod create_sandbox;
pub mod error;
pub mod events;
mod exec;
mod from_checkpoint;
pub mod health;
mod images;
mod log;
pub mod metrics;
mod observe;
mod reap;
pub mod registry;
mod release;
mod remove;
mod restore;
mod specify;
mod start;
pub mod stats;
mod stop;
mod stream;
pub mod tally;
#[cfg(test)]
mod tests;
mod under_way;
mod undo;
mod update;
mod wipe;

pub use error::Error;
pub use specify::{ImageVolumes, SpecDefaults};

use crate::drivers::seams::Drivers;
use crate::spans;
use registry::Registry;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::task::TaskTracker;
pub use under_way::Look;
use under_way::{UnderWay, Verbs};

/// The verbs of a node. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    room: Arc<Room>,
}

struct Room {
    drivers: Drivers,
    registry: Registry,
    /// Replaced as a whole; what has begun keeps those it began with.
    defaults: RwLock<Arc<SpecDefaults>>,
    tasks: TaskTracker,
    verbs: Verbs,
    events: events::Events,
    tally: tally::Tally,
    /// Of SELinux.
    categories: Arc<categories::Taken>,
}

impl Lifecycle {
    /// An empty node on these drivers. `restore` fills it with what is there.
    pub fn new(drivers: Drivers, defaults: SpecDefaults) -> Self {
        let room = Room {
            drivers,
            registry: Registry::default(),
            defaults: RwLock::new(Arc::new(defaults)),
            tasks: TaskTracker::new(),
            verbs: Verbs::default(),
            events: events::Events::default(),
            tally: tally::Tally::default(),
            categories: Default::default(),
        };
        Self { room: Arc::new(room) }
    }

    /// Who exists.
    pub fn registry(&self) -> &Registry {
        &self.room.registry
    }

    /// The outside.
    pub fn drivers(&self) -> &Drivers {
        &self.room.drivers
    }

    /// What has been counted since the daemon began.
    pub fn tally(&self) -> &tally::Tally {
        &self.room.tally
    }

    /// The verbs under way, the oldest first.
    pub fn under_way(&self) -> Vec<Look> {
        let registry = self.registry();
        let mut verbs = self.room.verbs.look();
        verbs.extend(registry.sandbox_names.look());
        verbs.extend(registry.container_names.look());
        verbs.sort_by_key(|verb| std::cmp::Reverse(verb.since));
        verbs
    }

    /// From here on, what begins is specified with these.
    pub fn replace_defaults(&self, defaults: SpecDefaults) {
        *self.room.defaults.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(defaults);
    }

    /// Runs a verb in a task of its own, so that a caller who leaves does not stop the work, and neither does one who has
    /// waited for `limit`; `None` waits for ever.
    async fn run_to_end<T, W>(&self, what: &'static str, limit: Option<Duration>, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let under_way = UnderWay::new(what);
        let entered = self.room.verbs.enter(&under_way);
        let work = async move {
            let outcome = work.await;
            drop(entered);
            outcome
        };
        let task = self.room.tasks.spawn(spans::carried(under_way.clone().during(work)));
        let outcome = async {
            task.await.unwrap_or_else(|panicked| {
                tracing::error!(error = %panicked, "{what} ended without a result");
                Err(Error::Lost(what))
            })
        };
        under_way.within(limit, outcome).await
    }

    /// Counts a creation whose caller is told that it is still under way.
    fn note_stall<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::UnderWay { step, .. }) = &outcome {
            self.tally().stalled.get_or_create(&[("stage", *step)]).inc();
        }
        outcome
    }

    /// Nobody is told anything any more: who watches sees the end.
    pub fn close_events(&self) {
        self.room.events.close();
    }

    /// Waits for the verbs under way, at most `limit`. Containers are left running.
    pub async fn drain(&self, limit: Duration) {
        self.room.tasks.close();
        if tokio::time::timeout(limit, self.room.tasks.wait()).await.is_err() {
            tracing::warn!(
                ?limit,
                under_way = self.room.tasks.len(),
                "leaving with verbs under way; the next start finishes them"
            );
        }
    }
}
