//! How long a session has been silent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The clock of one session. A clone is the same session's.
#[derive(Debug, Clone)]
pub struct Idle {
    limit: Duration,
    last: Arc<Mutex<Instant>>,
}

impl Idle {
    /// Begins now.
    pub fn new(limit: Duration) -> Self {
        let last = Arc::new(Mutex::new(Instant::now()));
        Self { limit, last }
    }

    /// Something came or went.
    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until nothing has come or gone for the limit.
    pub async fn expired(&self) {
        loop {
            let end = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + self.limit;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_touch_begins_the_wait_anew() {
        let idle = Idle::new(Duration::from_secs(10));
        let began = Instant::now();
        let toucher = idle.clone();
        let touch = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                toucher.touch();
            }
        };
        tokio::join!(idle.expired(), touch);
        assert_eq!(began.elapsed(), Duration::from_secs(37));
    }
}
