//! Ends a command that ran too long, with everything it started.
//!
//! Its process group is not enough: a descendant may have a session of its own and another parent by now. So a command
//! with a time-out is marked before it starts, by a resource limit that fork and exec hand down, that nothing in the
//! kernel acts upon (`RLIMIT_LOCKS`, without meaning since Linux 2.4), and that everybody may read in `/proc`.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, getrlimit, setrlimit};

use crate::child::Process;

/// How long we wait for killed processes to be gone: one that the kernel holds cannot be waited for.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at what is left.
const KILL_ROUND: Duration = Duration::from_millis(2);

/// Recognises the descendants of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// A mark that no other command has: the time in nanoseconds.
    pub fn new() -> Mark {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Mark(now.as_secs() * 1_000_000_000 + u64::from(now.subsec_nanos()))
    }

    /// Puts it on this process, a child that is about to exec. Without it the session and the group must do.
    pub fn put(self) {
        let limit = getrlimit(Resource::Locks);
        let _ = setrlimit(
            Resource::Locks,
            Rlimit {
                current: Some(self.0),
                ..limit
            },
        ); // refused below a lower hard limit
    }

    fn is_on(self, pid: Pid) -> bool {
        let limits = fs::read(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap_or_default();
        marked_with(&limits) == Some(self.0)
    }
}

/// The soft limit in the text of `/proc/<pid>/limits`.
fn marked_with(limits: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(limits);
    let numbers = text.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    numbers.split_ascii_whitespace().next()?.parse().ok()
}

/// Kills `command` and all that belongs to it, and waits until they are dead. `reap` is called while it waits.
pub fn kill_everything(command: &Process, mark: Option<Mark>, mut reap: impl FnMut()) {
    let family = Family::of(command.pid(), mark);
    command.signal(Signal::KILL);
    let end = Instant::now() + KILL_WAIT;
    loop {
        let living = processes().filter(|pid| family.has(*pid));
        let mut all_dead = true;
        for pid in living {
            // Looked at again through the descriptor: the number may be somebody else's by now.
            let process = Process::open(pid);
            if family.has(pid) {
                process.signal(Signal::KILL);
                all_dead = false;
            }
        }
        reap();
        if all_dead {
            return;
        }
        if Instant::now() >= end {
            crate::warning!("processes of a command that timed out do not die");
            return;
        }
        std::thread::sleep(KILL_ROUND);
    }
}

/// Who belongs to a command: those with its mark, in its session, or in its process group.
struct Family {
    mark: Option<Mark>,
    session: Option<i32>,
    group: Option<i32>,
}

impl Family {
    fn of(command: Pid, mark: Option<Mark>) -> Family {
        // A runtime that gives the command no session or group of its own leaves it in ours.
        let own = Place::of(getpid());
        let theirs = Place::of(command);
        let session = theirs
            .map(|place| place.session)
            .filter(|session| *session == command.as_raw_nonzero().get());
        let group = theirs.map(|place| place.group).filter(|group| *group > 1);
        Family {
            mark,
            session,
            group: group.filter(|group| own.is_some_and(|own| own.group != *group)),
        }
    }

    /// A zombie is dead already.
    fn has(&self, pid: Pid) -> bool {
        let Some(place) = Place::of(pid) else { return false };
        place.living
            && (self.session == Some(place.session)
                || self.group == Some(place.group)
                || self.mark.is_some_and(|mark| mark.is_on(pid)))
    }
}

/// Where a process stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    living: bool,
    group: i32,
    session: i32,
}

impl Place {
    fn of(pid: Pid) -> Option<Place> {
        Place::parse(&fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
    }

    /// The text of `/proc/<pid>/stat`. The name in it may contain anything, so we begin after its closing parenthesis.
    fn parse(stat: &[u8]) -> Option<Place> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(stat.get(name_end + 1..)?)
            .ok()?
            .split_ascii_whitespace();
        let state = fields.next()?;
        let _parent = fields.next()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        Some(Place {
            living: !matches!(state, "Z" | "X" | "x"),
            group,
            session,
        })
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|pid| *pid > 1).filter_map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_from_the_limits() {
        let limits = b"Limit   Soft Limit  Hard Limit  Units\nMax file locks            1234567                unlimited            locks     \n";
        assert_eq!(marked_with(limits), Some(1234567));
        assert_eq!(
            marked_with(b"Max file locks            unlimited            unlimited            locks     \n"),
            None
        );
        assert_eq!(marked_with(b""), None);
    }

    #[test]
    fn a_name_cannot_pretend_to_be_another_place() {
        let stat = b"42 (a) Z 1 1 1 (x) S 1 7 8 0 -1";
        assert_eq!(
            Place::parse(stat),
            Some(Place {
                living: true,
                group: 7,
                session: 8
            })
        );
        assert_eq!(
            Place::parse(b"42 (zombie) Z 1 7 8 0"),
            Some(Place {
                living: false,
                group: 7,
                session: 8
            })
        );
        assert_eq!(Place::parse(b"42 (cut off) S 1 7"), None);
    }

    #[test]
    fn we_are_in_our_own_place() {
        assert!(Place::of(getpid()).unwrap().living);
    }
}
