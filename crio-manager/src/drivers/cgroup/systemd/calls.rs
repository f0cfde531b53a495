//! What systemd is asked for, counted: how it ended, and how long it took.

use super::Error;
use super::bus::Start;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Instant;

/// Upper bounds of latencies, in seconds: from a busy bus to the longest wait for one.
const LATENCY_BOUNDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 2.5, 10.0, 60.0];

/// Results of jobs, as systemd has them.
const JOB_RESULTS: [&str; 5] = ["canceled", "timeout", "failed", "dependency", "skipped"];

/// A histogram of latencies for each verb.
type Latencies = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// Counts and latencies. A clone counts on.
#[derive(Debug, Clone)]
pub struct Calls {
    /// By verb and result.
    pub results: Family<[(&'static str, &'static str); 2], Counter>,
    /// By verb.
    pub latencies: Latencies,
}

fn latencies() -> Histogram {
    Histogram::new(LATENCY_BOUNDS)
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            results: Family::default(),
            latencies: Latencies::new_with_constructor(latencies),
        }
    }
}

impl Calls {
    pub(super) async fn count<T: Outcome>(
        &self,
        verb: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let outcome = work.await;
        self.latencies
            .get_or_create(&[("verb", verb)])
            .observe(began.elapsed().as_secs_f64());
        let result = match &outcome {
            Ok(done) => done.word(),
            Err(Error::Job { result, .. }) => {
                let known = JOB_RESULTS.into_iter().find(|known| known == result);
                known.unwrap_or("failed")
            }
            Err(error) => error.kind().word(),
        };
        self.results.get_or_create(&[("verb", verb), ("result", result)]).inc();
        outcome
    }
}

/// What went well, as the value of a label.
pub(super) trait Outcome {
    fn word(&self) -> &'static str;
}

impl Outcome for () {
    fn word(&self) -> &'static str {
        "done"
    }
}

impl Outcome for Start {
    fn word(&self) -> &'static str {
        match self {
            Self::Made => "done",
            Self::Exists => "exists",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_systemd_is_asked_for_is_counted_by_how_it_ended() {
        let calls = Calls::default();
        let job = |result: &str| Error::Job {
            what: "start a.scope".to_owned(),
            result: result.to_owned(),
        };
        for outcome in [
            Ok(Start::Made),
            Ok(Start::Made),
            Ok(Start::Exists),
            Err(job("timeout")),
            Err(job("a word that comes from outside")),
            Err(Error::Lost { what: String::new() }),
        ] {
            let _ = calls.count("start", async { outcome }).await;
        }
        calls.count("forget", async { Ok(()) }).await.unwrap();
        let counted = |verb, result| calls.results.get_or_create(&[("verb", verb), ("result", result)]).get();
        for (result, times) in [
            ("done", 2),
            ("exists", 1),
            ("timeout", 1),
            ("failed", 1),
            ("unavailable", 1),
        ] {
            assert_eq!(counted("start", result), times, "{result}");
        }
        assert_eq!(counted("forget", "done"), 1);
        assert_eq!(calls.latencies.get_or_create(&[("verb", "start")]).count(), 6);
    }
}
