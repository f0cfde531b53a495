//! memory.events → the OOM file. On cgroup v1 an eventfd says that memory ran out, on v2 the counters do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, retry_on_intr};
use rustix::process::Pid;

use crate::args::{MonitorPlan, Task};
use crate::cgroup::{MemoryCgroup, memory_cgroup};
use crate::contract::OOM_FILE;
use crate::poller::Interest;
use crate::sys;

/// Watches one cgroup. The files it needs stay open, because the cgroup may be removed before we look a last time.
pub struct OomWatch {
    source: Source,
    /// Nothing more can be learned.
    finished: bool,
}

enum Source {
    V1 { eventfd: OwnedFd, event_control: PathBuf },
    V2 { events: File, seen: Counters },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    oom: u64,
    oom_kill: u64,
}

impl OomWatch {
    /// Begins to watch the cgroup of this process; `None` where there is nothing to watch.
    pub fn begin(pid: Pid, task: &Task) -> io::Result<Option<OomWatch>> {
        let source = match memory_cgroup(pid)? {
            None => return Ok(None),
            Some(MemoryCgroup::V1(directory)) => {
                let control = OwnedFd::from(File::open(directory.join("memory.oom_control"))?);
                let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let event_control = directory.join("cgroup.event_control");
                let registration = format!("{} {}", sys::number(&eventfd), sys::number(&control));
                fs::write(&event_control, registration)?;
                Source::V1 { eventfd, event_control }
            }
            Some(MemoryCgroup::V2(directory)) => {
                let events = match File::open(directory.join("memory.events")) {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    opened => opened?,
                };
                // A new container starts at zero; an exec joins one that may have a past.
                let seen = match task {
                    Task::Create | Task::Restore { .. } => Counters::default(),
                    Task::Exec { .. } => read_counters(&events)?,
                };
                Source::V2 { events, seen }
            }
        };
        Ok(Some(OomWatch {
            source,
            finished: false,
        }))
    }

    pub fn interest(&self) -> Interest {
        match self.source {
            Source::V1 { .. } => Interest::Readable,
            Source::V2 { .. } => Interest::Changed,
        }
    }

    /// True if memory has run out since the last look.
    pub fn look(&mut self) -> bool {
        match &mut self.source {
            Source::V1 { eventfd, event_control } => {
                let mut count = [0; 8];
                if retry_on_intr(|| read(&*eventfd, &mut count)).is_err() {
                    return false; // nothing has happened
                }
                // The removal of the cgroup raises one event too, and that is the last one.
                let removed = !event_control.exists();
                self.finished = removed;
                !(removed && u64::from_ne_bytes(count) == 1)
            }
            Source::V2 { events, seen } => match read_counters(events) {
                Ok(now) => {
                    let more = now.oom > seen.oom || now.oom_kill > seen.oom_kill;
                    *seen = now;
                    more
                }
                Err(_) => {
                    self.finished = true; // the cgroup is gone
                    false
                }
            },
        }
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { eventfd, .. } => eventfd.as_fd(),
            Source::V2 { events, .. } => events.as_fd(),
        }
    }
}

fn read_counters(events: &File) -> io::Result<Counters> {
    let mut text = [0; 512];
    let length = events.read_at(&mut text, 0)?;
    Ok(counters(text.get(..length).unwrap_or_default()))
}

fn counters(text: &[u8]) -> Counters {
    let mut counters = Counters::default();
    for line in String::from_utf8_lossy(text).lines() {
        match line.split_once(' ') {
            Some(("oom", count)) => counters.oom = count.parse().unwrap_or_default(),
            Some(("oom_kill", count)) => counters.oom_kill = count.parse().unwrap_or_default(),
            _ => {}
        }
    }
    counters
}

/// Leaves word of it, everywhere where somebody may look.
pub fn write_oom_files(plan: &MonitorPlan) {
    for directory in [&plan.persist_dir, &plan.bundle].into_iter().flatten() {
        let path = directory.join(OOM_FILE);
        if let Err(error) = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&path)
        {
            crate::warning!("write {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_counters_are_read() {
        let text = b"low 0\nhigh 7\nmax 31\noom 2\noom_kill 1\noom_group_kill 5\n";
        assert_eq!(counters(text), Counters { oom: 2, oom_kill: 1 });
        assert_eq!(counters(b"garbage\noom x\n"), Counters::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_without_harm(text: Vec<u8>, oom: u64) {
            let _ = counters(&text);
            prop_assert_eq!(counters(format!("oom {oom}\n").as_bytes()).oom, oom);
        }
    }
}
