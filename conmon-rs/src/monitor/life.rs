//! What is known of a container's life, and what follows from it: pure.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::contract::ExitCode;
use crate::exit_record::{ExitRecord, Why};
use crate::log::cri::Kept;

/// From the runtime's start to the record.
pub struct Life {
    /// `--timeout`: of an exec from the start on, of a container from its pid on.
    limit: Option<Duration>,
    deadline: Option<Instant>,
    /// How the process that counts has ended: first the runtime, then the container's own.
    exit: Option<ExitCode>,
    /// When the container's pid was known, and when the kernel told of its end.
    started: SystemTime,
    finished: SystemTime,
    oom_killed: bool,
}

/// How a container's life ended, or that of the runtime before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Exited(ExitCode),
    TimedOut,
}

impl Life {
    pub fn begin(limit: Option<Duration>, is_exec: bool, now: Instant) -> Life {
        Life {
            limit: limit.filter(|_| !is_exec),
            deadline: limit.filter(|_| is_exec).map(|limit| now + limit),
            exit: None,
            started: UNIX_EPOCH,
            finished: UNIX_EPOCH,
            oom_killed: false,
        }
    }

    /// From here on it is the container whose end counts.
    pub fn pid_is_known(&mut self, now: Instant, time: SystemTime) {
        self.exit = None; // this was the runtime's
        self.started = time;
        if let Some(limit) = self.limit {
            self.deadline = Some(now + limit);
        }
    }

    /// The first report counts.
    pub fn end(&mut self, exit: ExitCode, time: SystemTime) {
        if self.exit.is_none() {
            self.exit = Some(exit);
            self.finished = time;
        }
    }

    pub fn ran_out_of_memory(&mut self) {
        self.oom_killed = true;
    }

    pub fn has_ended(&self) -> bool {
        self.exit.is_some()
    }

    pub fn exited(&self) -> Option<ExitCode> {
        self.exit
    }

    /// When it is too late.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// An end that came too late, but before anybody looked, is an end.
    pub fn outcome(&self, now: Instant) -> Option<Outcome> {
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        match self.exit {
            Some(exit) => Some(Outcome::Exited(exit)),
            None => late.then_some(Outcome::TimedOut),
        }
    }

    /// The last word.
    pub fn record(&self, outcome: Outcome, boot_id: String, kept: Kept) -> ExitRecord {
        let (exit, why) = match outcome {
            Outcome::TimedOut => (ExitCode::Unknown, Why::TimedOut),
            Outcome::Exited(exit @ ExitCode::Status(_)) => (exit, Why::Exited),
            Outcome::Exited(exit @ ExitCode::Signal(_)) => (exit, Why::Signal),
            Outcome::Exited(ExitCode::Unknown) => (ExitCode::Unknown, Why::Unseen),
        };
        ExitRecord {
            exit,
            why,
            oom_killed: self.oom_killed,
            started_ns: nanoseconds(self.started),
            finished_ns: nanoseconds(self.finished),
            boot_id,
            logged_bytes: kept.logged_bytes,
            lost_bytes: kept.lost_bytes,
        }
    }
}

/// Since 1970.
fn nanoseconds(time: SystemTime) -> u64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Happening {
        Exit(ExitCode),
        OutOfMemory,
        Time(u64),
    }

    fn exit_code() -> impl Strategy<Value = ExitCode> {
        prop_oneof![
            any::<u8>().prop_map(ExitCode::Status),
            (1u8..65).prop_map(ExitCode::Signal),
            Just(ExitCode::Unknown),
        ]
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            exit_code().prop_map(Happening::Exit),
            Just(Happening::OutOfMemory),
            (0u64..300).prop_map(Happening::Time),
        ]
    }

    proptest! {
        #[test]
        fn any_order_of_exit_memory_and_time_ends_in_one_record(
            happenings in proptest::collection::vec(happening(), 0..30),
            limit in proptest::option::of(1u64..1000),
            is_exec: bool,
            runtime_took in 0u64..500,
        ) {
            let begin = Instant::now();
            let at = |ms: u64| (begin + Duration::from_millis(ms), UNIX_EPOCH + Duration::from_millis(ms));
            let mut life = Life::begin(limit.map(Duration::from_millis), is_exec, begin);
            life.end(ExitCode::Status(0), at(runtime_took).1);
            life.pid_is_known(at(runtime_took).0, at(runtime_took).1);
            let late = limit.map(|limit| if is_exec { limit } else { limit + runtime_took });

            let (mut now, mut first, mut memory, mut outcome) = (runtime_took, None, false, None);
            for happening in happenings {
                match happening {
                    Happening::Exit(exit) => {
                        life.end(exit, at(now).1);
                        first = first.or(Some((exit, now)));
                    }
                    Happening::OutOfMemory => {
                        life.ran_out_of_memory();
                        memory = true;
                    }
                    Happening::Time(ms) => now += ms,
                }
                outcome = outcome.or(life.outcome(at(now).0));
                // Once it is decided it stays so, whatever is reported afterwards.
                match (outcome, first) {
                    (Some(Outcome::Exited(exit)), Some((seen, _))) => prop_assert_eq!(exit, seen),
                    (Some(Outcome::Exited(_)), None) => prop_assert!(false, "nobody has seen an end"),
                    (Some(Outcome::TimedOut), _) => prop_assert!(late.is_some_and(|late| now >= late)),
                    (None, first) => {
                        prop_assert_eq!(first, None);
                        prop_assert!(late.is_none_or(|late| now < late));
                    }
                }
            }
            let Some(outcome) = outcome else { return Ok(()) };
            let record = life.record(outcome, "boot".to_owned(), Kept::default());
            prop_assert_eq!(record.oom_killed, memory);
            prop_assert_eq!(record.started_ns, runtime_took * 1_000_000);
            if let (Outcome::Exited(exit), Some((_, at))) = (outcome, first) {
                prop_assert_eq!(record.exit, exit);
                prop_assert_eq!(record.finished_ns, at * 1_000_000);
            } else {
                prop_assert_eq!(record.why, Why::TimedOut);
            }
            prop_assert_eq!(ExitRecord::parse(record.render().as_bytes()), Ok(record));
        }
    }
}
