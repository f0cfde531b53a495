//! Who watches the node is told what happens on it, with the pod as it was at that moment.
//!
//! Watchers cost nobody anything: what happens is put down once, whoever reads it in his own time, and who is too far
//! behind is told so and has to look for himself.

use super::Lifecycle;
use super::cell::{ContainerCell, SandboxCell};
use crate::model::{ContainerState, SandboxId, SandboxState, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// What a watcher may leave unread.
const UNREAD_EVENTS: usize = 4096;

/// What happened to a sandbox or a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is there.
    Created,
    /// It runs.
    Started,
    /// It has ended, or is not ready any more.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Something that happened.
pub struct Event {
    /// What.
    pub what: What,
    /// To which sandbox or container.
    pub id: String,
    /// When it was noticed.
    pub at: Timestamp,
    /// The pod, and its state then; `None` if it was gone.
    pub sandbox: Option<(Arc<SandboxCell>, SandboxState)>,
    /// The pod's containers, and their states then.
    pub containers: Vec<(Arc<ContainerCell>, ContainerState)>,
}

/// All who watch; closed when the daemon stops.
pub struct Events {
    sender: Mutex<Option<broadcast::Sender<Arc<Event>>>>,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(UNREAD_EVENTS);
        Self {
            sender: Mutex::new(Some(sender)),
        }
    }
}

impl Events {
    /// What happens from now on; `None` when the daemon stops.
    pub fn watch(&self) -> Option<broadcast::Receiver<Arc<Event>>> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().map(broadcast::Sender::subscribe)
    }

    /// There is no more.
    pub fn close(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `event` is only asked for if somebody watches.
    fn tell(&self, event: impl FnOnce() -> Event) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender.filter(|sender| sender.receiver_count() > 0) {
            let _ = sender.send(Arc::new(event())); // fails if the last has just left
        }
    }
}

/// How much of a container's life watchers know.
#[derive(Debug, Default)]
pub struct Told {
    /// Its start is under way: an end that is seen meanwhile is told after it.
    starting: bool,
    started: bool,
    stopped: bool,
}

impl Told {
    /// Of a container that was there before the daemon.
    pub fn of(state: &ContainerState) -> Self {
        Self {
            starting: false,
            started: !matches!(state, ContainerState::Created { .. } | ContainerState::Checkpointed),
            stopped: state.is_exited(),
        }
    }

    /// What is to be told now, in order.
    fn news(&mut self, state: &ContainerState) -> Vec<What> {
        let mut news = Vec::new();
        let (has_started, has_ended) = match state {
            ContainerState::Created { .. } | ContainerState::Checkpointed => (false, false),
            ContainerState::Running { .. } => (true, false),
            ContainerState::Exited { started_at, .. } => (started_at.is_some(), true),
        };
        if has_started && !self.started && !self.stopped {
            self.started = true;
            news.push(What::Started);
        }
        if has_ended && !self.stopped && !self.starting {
            self.stopped = true;
            news.push(What::Stopped);
        }
        news
    }
}

impl Lifecycle {
    /// What happens from now on; `None` when the daemon stops.
    pub fn watch_events(&self) -> Option<broadcast::Receiver<Arc<Event>>> {
        self.room.events.watch()
    }

    pub(super) fn tell_of_sandbox(&self, what: What, cell: &Arc<SandboxCell>) {
        self.tell(what, cell.plan.id.as_str(), &cell.plan.id, Some(cell.clone()));
    }

    pub(super) fn tell_of_container(&self, what: What, cell: &ContainerCell) {
        let sandbox = self.registry().sandbox(cell.plan.sandbox_id.as_str()).ok();
        self.tell(what, cell.plan.id.as_str(), &cell.plan.sandbox_id, sandbox);
    }

    /// A start begins.
    pub(super) fn begin_start(&self, cell: &ContainerCell) {
        cell.told.lock().unwrap_or_else(PoisonError::into_inner).starting = true;
    }

    /// It is over, one way or the other.
    pub(super) fn end_start(&self, cell: &ContainerCell) {
        cell.told.lock().unwrap_or_else(PoisonError::into_inner).starting = false;
        self.tell_container_state(cell);
    }

    /// Tells what has changed since it was told last.
    pub(super) fn tell_container_state(&self, cell: &ContainerCell) {
        // Held meanwhile, so that the order of what is told is the order of what happened.
        let mut told = cell.told.lock().unwrap_or_else(PoisonError::into_inner);
        for what in told.news(&cell.state()) {
            self.tell_of_container(what, cell);
        }
    }

    fn tell(&self, what: What, id: &str, sandbox_id: &SandboxId, sandbox: Option<Arc<SandboxCell>>) {
        self.room.events.tell(|| {
            let containers = self.registry().containers_of(sandbox_id).into_iter();
            Event {
                what,
                id: id.to_owned(),
                at: self.drivers().clock.now(),
                sandbox: sandbox.map(|cell| {
                    let state = cell.state();
                    (cell, state)
                }),
                containers: containers
                    .map(|cell| {
                        let state = cell.state();
                        (cell, state)
                    })
                    .collect(),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Exit, ExitStatus, ProcessId};
    use std::num::NonZeroU32;

    fn created() -> ContainerState {
        let process = ProcessId {
            pid: NonZeroU32::MIN,
            start_ticks: 1,
        };
        ContainerState::Created { process }
    }

    fn exited(started: bool) -> ContainerState {
        let at = Timestamp::from_nanos(1);
        ContainerState::Exited {
            exit: Exit {
                status: ExitStatus::Code(0),
                oom_killed: false,
                at,
            },
            started_at: started.then_some(at),
        }
    }

    #[test]
    fn an_end_that_is_seen_while_the_start_is_under_way_is_told_after_it() {
        let mut told = Told::of(&created());
        told.starting = true;
        assert_eq!(told.news(&exited(false)), []);
        assert_eq!(told.news(&exited(true)), [What::Started]);
        told.starting = false;
        assert_eq!(told.news(&exited(true)), [What::Stopped]);
        assert_eq!(told.news(&exited(true)), []);
    }

    #[test]
    fn what_never_started_only_stops() {
        let mut told = Told::of(&created());
        assert_eq!(told.news(&exited(false)), [What::Stopped]);
        assert_eq!(told.news(&exited(true)), []);
    }

    #[test]
    fn what_was_there_before_is_no_news() {
        for state in [created(), exited(false), exited(true)] {
            assert_eq!(Told::of(&state).news(&state), []);
        }
    }
}
