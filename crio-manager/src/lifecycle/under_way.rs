//! What a verb is at, for callers who have waited long enough. What hangs in the kernel (a mount, a sync, a process in
//! uninterruptible sleep) cannot be broken off: the verb goes on in its own task, undoes or finishes itself when the
//! kernel lets go, and is joined by a retry. Only the wait has an end.

use super::error::Error;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// How long a caller waits, beyond the limits that a verb's parts have of their own. Enough to kill and delete what does
/// not end by itself, and less than the two minutes after which the kubelet leaves without having heard why.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// How long a caller waits for a pull or a load, which is under way for as long as bytes come in.
pub const PULL_PATIENCE: Duration = Duration::from_secs(3600);

tokio::task_local! {
    static VERB: UnderWay;
}

/// The step that a verb is at. A clone is the same verb's.
#[derive(Debug, Clone)]
pub struct UnderWay {
    what: &'static str,
    began: Instant,
    step: Arc<Mutex<&'static str>>,
}

/// What a verb is at, for whoever asks what takes so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub what: &'static str,
    pub step: &'static str,
    pub since: Duration,
}

/// The verbs under way but for creations, which the registry knows by name. A verb that has ended is gone from it by itself.
#[derive(Debug, Default)]
pub struct Verbs {
    tasks: Mutex<Vec<Weak<UnderWay>>>,
}

impl Verbs {
    /// Knows of a verb for as long as what is returned lives.
    pub fn enter(&self, verb: &UnderWay) -> Arc<UnderWay> {
        let entry = Arc::new(verb.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| task.strong_count() > 0);
        tasks.push(Arc::downgrade(&entry));
        entry
    }

    /// What each is at now.
    pub fn look(&self) -> Vec<Look> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().filter_map(Weak::upgrade).map(|verb| verb.look()).collect()
    }
}

impl UnderWay {
    /// A verb that begins.
    pub fn new(what: &'static str) -> Self {
        Self::at(what, "begin")
    }

    /// A verb that is at this step already.
    pub fn at(what: &'static str, step: &'static str) -> Self {
        Self {
            what,
            began: Instant::now(),
            step: Arc::new(Mutex::new(step)),
        }
    }

    /// What it is at now.
    pub fn look(&self) -> Look {
        Look {
            what: self.what,
            step: *self.step.lock().unwrap_or_else(PoisonError::into_inner),
            since: self.began.elapsed(),
        }
    }

    /// The verb's work, in which [`at`] tells the step.
    pub async fn during<W: Future>(self, work: W) -> W::Output {
        VERB.scope(self, work).await
    }

    /// The verb's outcome, or that it is still under way after `limit`.
    pub async fn within<T>(
        &self,
        limit: Option<Duration>,
        outcome: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        // A limit beyond what the clock can show is none.
        let Some((limit, deadline)) = limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?))) else {
            return outcome.await;
        };
        timeout_at(deadline, outcome).await.unwrap_or_else(|_elapsed| {
            let step = *self.step.lock().unwrap_or_else(PoisonError::into_inner);
            warn!(step, ?limit, "{} is still under way, its caller is told so", self.what);
            Err(Error::UnderWay {
                what: self.what,
                step,
                limit,
            })
        })
    }
}

/// Notes the step that the verb of this task comes to now.
pub fn at(step: &'static str) {
    // What runs outside of a verb, such as the reaper, has nobody who waits.
    let _ = VERB.try_with(|verb| *verb.step.lock().unwrap_or_else(PoisonError::into_inner) = step);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_shows_the_step_and_the_time_of_what_is_under_way_and_nothing_else() {
        let verbs = Verbs::default();
        let (stop, pull) = (UnderWay::new("stop"), UnderWay::new("pull"));
        let entered = verbs.enter(&stop);
        drop(verbs.enter(&pull));
        stop.clone().during(async { at("wait for exit") }).await;
        tokio::time::advance(Duration::from_secs(12)).await;
        let expected = Look {
            what: "stop",
            step: "wait for exit",
            since: Duration::from_secs(12),
        };
        assert_eq!(verbs.look(), [expected]);
        drop(entered);
        assert_eq!(verbs.look(), []);
    }
}
