//! What a verb is at, for callers who have waited long enough. What hangs in the kernel (a mount, a sync, a process in
//! uninterruptible sleep) cannot be broken off: the verb goes on in its own task, undoes or finishes itself when the
//! kernel lets go, and is joined by a retry. Only the wait has an end.

use super::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
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
    step: Arc<Mutex<&'static str>>,
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
            step: Arc::new(Mutex::new(step)),
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
