//! Ends a command that ran too long, or a runtime that does not get it started, with everything that came of it.
//!
//! Its process group is not enough: a descendant may have a session of its own and another parent by now. So a command
//! with a time-out is marked before it starts, by a resource limit that fork and exec hand down, that nothing in the
//! kernel acts upon (`RLIMIT_LOCKS`, without meaning since Linux 2.4), and that everybody may read in `/proc`. The runtime
//! carries it too, and so does what it has brought into the container. A command whose own limits replace the mark is
//! known by its parents, its session and its group.

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

/// Kills `first`, the command or the runtime that was to start it, and all that belongs to it, and waits until they are
/// dead. `reap` is called while it waits. `named` is the command by the word of such a runtime: believed if it is one of
/// them, because a pid file may be old.
pub fn kill_everything(first: &Process, named: Option<Pid>, mark: Option<Mark>, mut reap: impl FnMut()) {
    // Looked for before anybody is dead: afterwards nobody knows whose children they were.
    let mut relatives = descendants(first.pid());
    let mut family = Family::of(first.pid(), mark);
    let is_ours = |process: &Process| {
        let pid = process.pid();
        let orphan = || Place::of(pid).is_some_and(|place| place.parent == getpid().as_raw_nonzero().get());
        relatives.iter().any(|relative| relative.pid() == pid) || family.has(pid) || orphan()
    };
    if let Some(command) = named.map(Process::open).filter(is_ours) {
        let theirs = descendants(command.pid());
        family.add(command.pid());
        relatives.push(command);
        relatives.extend(theirs);
    }
    // Parents first: none is to see, and say, that its child was killed.
    first.signal(Signal::KILL);
    relatives.iter().for_each(|relative| relative.signal(Signal::KILL));
    let end = Instant::now() + KILL_WAIT;
    loop {
        let living = processes().filter(|pid| family.has(*pid));
        let mut all_dead = first.has_ended() && relatives.iter().all(Process::has_ended);
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

/// The children of a process, their children, and so on, as they are now.
fn descendants(of: Pid) -> Vec<Process> {
    let others = processes().filter(|pid| *pid != of);
    let parents: Vec<(Pid, i32)> = others.filter_map(|pid| Some((pid, Place::of(pid)?.parent))).collect();
    let mut found = vec![of];
    let mut asked = 0;
    while let Some(parent) = found.get(asked).map(|pid| pid.as_raw_nonzero().get()) {
        let children = parents.iter().filter(|(_, theirs)| *theirs == parent);
        found.extend(children.map(|(pid, _)| *pid));
        asked += 1;
    }
    let opened = found.into_iter().skip(1).filter_map(|pid| {
        let process = Process::open(pid);
        // Looked at again: the number may be somebody else's by now.
        let parent = Place::of(pid)?.parent;
        parents.contains(&(pid, parent)).then_some(process)
    });
    opened.collect()
}

/// Who belongs to a command: those with its mark, in its session, or in its process group.
struct Family {
    mark: Option<Mark>,
    sessions: Vec<i32>,
    groups: Vec<i32>,
}

impl Family {
    fn of(first: Pid, mark: Option<Mark>) -> Family {
        let mut family = Family {
            mark,
            sessions: Vec::new(),
            groups: Vec::new(),
        };
        family.add(first);
        family
    }

    /// With those in its session and its group, unless these are ours: a runtime need not give the command its own.
    fn add(&mut self, process: Pid) {
        let (Some(own), Some(theirs)) = (Place::of(getpid()), Place::of(process)) else {
            return;
        };
        if theirs.session == process.as_raw_nonzero().get() {
            self.sessions.push(theirs.session);
        }
        if theirs.group > 1 && theirs.group != own.group {
            self.groups.push(theirs.group);
        }
    }

    /// A zombie is dead already.
    fn has(&self, pid: Pid) -> bool {
        let Some(place) = Place::of(pid) else { return false };
        place.living
            && (self.sessions.contains(&place.session)
                || self.groups.contains(&place.group)
                || self.mark.is_some_and(|mark| mark.is_on(pid)))
    }
}

/// Where a process stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    living: bool,
    parent: i32,
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
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        Some(Place {
            living: !matches!(state, "Z" | "X" | "x"),
            parent,
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
                parent: 1,
                group: 7,
                session: 8
            })
        );
        assert_eq!(
            Place::parse(b"42 (zombie) Z 1 7 8 0"),
            Some(Place {
                living: false,
                parent: 1,
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
