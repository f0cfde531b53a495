//! Everything goes: for a node that no daemon serves. What a restore finds is removed as its client would have it.

use super::Lifecycle;
use super::error::{Error, InStep};
use futures::StreamExt;

/// Pods that are removed at one time: each has plugins and runtimes at work.
const REMOVED_AT_ONCE: usize = 8;

impl Lifecycle {
    /// Removes every pod with its containers, running ones too, and whatever was half-made.
    ///
    /// Errors: the records cannot be listed; `Leftovers` names what could not be removed. Its record stays, and another
    /// wipe, or a daemon, goes on there.
    pub async fn wipe(&self) -> Result<(), Error> {
        let (_, half_made) = self.take_up().await?;
        let (pods, _) = self.registry().snapshot();
        let removals = pods.into_iter().map(|pod| async move {
            let id = pod.plan.id.clone();
            let removed = self.remove_sandbox(pod).await;
            removed.err().map(|error| format!("pod {id}: {error}"))
        });
        let removals = futures::stream::iter(removals).buffer_unordered(REMOVED_AT_ONCE);
        let mut leftovers: Vec<String> = removals.filter_map(std::future::ready).collect().await;
        for what in &half_made {
            let left = self.release_half_made(what).await;
            leftovers.extend(left.into_iter().map(|left| format!("{}: {left}", what.id())));
        }
        if leftovers.is_empty() {
            leftovers = self.still_recorded().await?;
        }
        if leftovers.is_empty() {
            return Ok(());
        }
        Err(Error::Leftovers {
            what: "wipe",
            leftovers,
        })
    }

    /// What was left alone because nobody could take hold of its processes.
    async fn still_recorded(&self) -> Result<Vec<String>, Error> {
        let loaded = self.drivers().store.load().await.in_step("load records")?;
        let ids = loaded.containers.iter().map(|record| &record.plan.id);
        Ok(ids
            .map(|id| format!("container {id}: its processes cannot be looked at"))
            .collect())
    }
}
