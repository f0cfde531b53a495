//! Exit files: who waits for which, and who is woken.

use super::INOTIFY_BUFFER_BYTES;
use crate::drivers::readiness;
use crate::model::ContainerId;
use rustix::fs::inotify;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Who waits for which exit file.
#[derive(Debug, Clone, Default)]
pub struct ExitsAwaited {
    waiting: Arc<Mutex<HashMap<ContainerId, Arc<Notify>>>>,
}

/// An entry in it, for as long as somebody waits.
struct Awaited<'a> {
    exits: &'a ExitsAwaited,
    id: &'a ContainerId,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.exits.waiting().remove(self.id);
    }
}

impl ExitsAwaited {
    fn waiting(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a directory for exit files, for as long as the daemon runs.
    pub(super) fn watch(&self, directory: &Path) -> std::io::Result<()> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&changes, directory, inotify::WatchFlags::MOVED_TO)?;
        let (changes, exits) = (readiness::watch(changes)?, self.clone());
        tokio::spawn(async move {
            let mut buffer = [std::mem::MaybeUninit::uninit(); INOTIFY_BUFFER_BYTES];
            let mut events = inotify::Reader::new(changes.get_ref(), &mut buffer);
            while let Ok(mut ready) = changes.readable().await {
                match events.next() {
                    Ok(event) => match event.file_name() {
                        Some(name) => exits.appeared(name.to_bytes()),
                        // The queue was full, or the directory is gone.
                        None => exits.look_again(),
                    },
                    Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                    Err(error) => return tracing::error!(%error, "watch the exits directory; exits are seen late"),
                }
            }
        });
        Ok(())
    }

    /// Waits until there is an exit file of this name.
    pub(super) async fn appears(&self, directory: &Path, id: &ContainerId) {
        let path = directory.join(id.as_str());
        let _entry = Awaited { exits: self, id };
        loop {
            let waiter = self.waiting().entry(id.clone()).or_default().clone();
            // A look at a tmpfs. Awaited first, looked at second: no appearance falls between.
            if path.exists() {
                return;
            }
            waiter.notified().await;
        }
    }

    /// Wakes who waits for the file of this name.
    fn appeared(&self, name: &[u8]) {
        let id = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse::<ContainerId>().ok());
        if let Some(waiter) = id.and_then(|id| self.waiting().remove(&id)) {
            waiter.notify_one();
        }
    }

    /// Wakes all: what they wait for may have been missed.
    fn look_again(&self) {
        for waiter in self.waiting().values() {
            waiter.notify_one();
        }
    }
}
