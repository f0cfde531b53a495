//! The service manager's store of descriptors: it keeps pidfds across a restart of this daemon, so that an exit that
//! happened in between, and that nobody recorded, can still be asked of the kernel; and the socket that the daemon made
//! where no socket unit holds one, so that who calls meanwhile waits and is not refused.
//!
//! A stored descriptor is a help and no promise: what could not be stored is as if there was no store.
//!
//! Source: sd_notify(3) `FDSTORE=1`, systemd.service(5) `FileDescriptorStoreMax=`.

use crate::model::ProcessId;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Names of what we store begin so; systemd's own are those of its socket units.
const PREFIX: &str = "process-";
const SOCKET_PREFIX: &str = "cri-socket-";

/// Words that wait for a service manager that is busy; what comes then is not stored.
const QUEUE: usize = 4096;

/// How long the service manager may leave one word lying.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// What an earlier daemon stored, and the way to store more.
#[derive(Debug)]
pub struct FdStore {
    handed: Mutex<BTreeMap<String, OwnedFd>>,
    words: mpsc::Sender<Word>,
}

#[derive(Debug)]
enum Word {
    Keep(String, OwnedFd),
    LetGo(String),
}

/// Whether a descriptor with this name is a process that a store kept for us.
pub fn is_process(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether it is a socket that we made.
pub fn is_own_socket(name: &str) -> bool {
    name.starts_with(SOCKET_PREFIX)
}

/// A file, in a way that no other has: device, inode, and when it was made (numbers of inodes are used again).
pub type FileIdentity = (u64, u64, i64, i64);

fn socket_name((device, inode, seconds, nanoseconds): FileIdentity) -> String {
    format!("{SOCKET_PREFIX}{device}-{inode}-{seconds}-{nanoseconds}")
}

/// The file of a socket that we stored, by its name in the store; `None` when that is no such name.
pub fn file_of_socket(name: &str) -> Option<FileIdentity> {
    let mut numbers = name.strip_prefix(SOCKET_PREFIX)?.split('-');
    let identity = (
        numbers.next()?.parse().ok()?,
        numbers.next()?.parse().ok()?,
        numbers.next()?.parse().ok()?,
        numbers.next()?.parse().ok()?,
    );
    numbers.next().is_none().then_some(identity)
}

fn name(id: ProcessId) -> String {
    format!("{PREFIX}{}-{}", id.pid, id.start_ticks)
}

impl FdStore {
    /// The store behind this notification socket, with what it has handed over. Called within the async runtime.
    pub fn open(socket: PathBuf, handed: Vec<(String, OwnedFd)>) -> Self {
        let (words, mut waiting) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(word) = waiting.recv().await {
                let socket = socket.clone();
                let sent = tokio::task::spawn_blocking(move || send(&socket, &word)).await;
                if let Ok(Err(error)) = sent {
                    warn!(%error, "the service manager's descriptor store, ignoring");
                }
            }
        });
        Self {
            handed: Mutex::new(handed.into_iter().collect()),
            words,
        }
    }

    /// The pidfd of this process that an earlier daemon stored, once; after it the store still has it.
    pub fn take(&self, id: ProcessId) -> Option<OwnedFd> {
        let pidfd = self.handed().remove(&name(id))?;
        match pid_of(&pidfd) {
            Ok(pid) if pid == REAPED || u32::try_from(pid) == Ok(id.pid.get()) => Some(pidfd),
            looked => {
                warn!(
                    ?looked,
                    pid = id.pid,
                    "the stored pidfd is of another process, ignoring"
                );
                self.let_go(id);
                None
            }
        }
    }

    /// Stores a pidfd.
    pub fn keep(&self, id: ProcessId, pidfd: &OwnedFd) {
        match pidfd.try_clone() {
            Ok(pidfd) => self.say(Word::Keep(name(id), pidfd)),
            Err(error) => warn!(%error, pid = id.pid, "store its pidfd, ignoring"),
        }
    }

    /// Stores a socket that listens at this file.
    pub fn keep_socket(&self, file: FileIdentity, socket: OwnedFd) {
        self.say(Word::Keep(socket_name(file), socket));
    }

    /// Has the store forget it.
    pub fn let_go(&self, id: ProcessId) {
        self.let_go_of(name(id));
    }

    /// Has the store forget what is there by this name.
    pub fn let_go_of(&self, name: String) {
        self.say(Word::LetGo(name));
    }

    /// Has the store forget what was handed over and nobody took.
    pub fn let_go_of_the_rest(&self) {
        let rest = std::mem::take(&mut *self.handed());
        for name in rest.into_keys() {
            debug!(name, "a stored descriptor that nobody asks for");
            self.say(Word::LetGo(name));
        }
    }

    fn handed(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for the service manager.
    fn say(&self, word: Word) {
        if self.words.try_send(word).is_err() {
            warn!(
                QUEUE,
                "the service manager is behind with its descriptor store, ignoring"
            );
        }
    }
}

/// What `Pid:` says of a process that has been reaped.
const REAPED: i32 = -1;

/// The process of a pidfd, as `/proc` tells.
fn pid_of(pidfd: &OwnedFd) -> std::io::Result<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no pidfd"))
}

fn send(socket: &Path, word: &Word) -> std::io::Result<()> {
    let connection = UnixDatagram::unbound()?;
    connection.connect(socket)?;
    connection.set_write_timeout(Some(SEND_LIMIT))?;
    match word {
        Word::Keep(name, pidfd) => {
            // A pidfd is readable once its process has ended; without FDPOLL=0 it would be dropped just then.
            let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n");
            let descriptors = [pidfd.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let text = [IoSlice::new(text.as_bytes())];
            sendmsg::<()>(connection.as_raw_fd(), &text, &rights, MsgFlags::empty(), None)?;
        }
        Word::LetGo(name) => {
            connection.send(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::process::identify;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::io::IoSliceMut;

    fn ourselves() -> (ProcessId, OwnedFd) {
        let id = identify(std::process::id()).unwrap();
        let pidfd = pidfd_open(Pid::from_raw(id.pid.get().cast_signed()).unwrap(), PidfdFlags::NONBLOCK);
        (id, pidfd.unwrap())
    }

    /// What the service manager hears next, and how many descriptors came along.
    fn heard(manager: &UnixDatagram) -> (String, usize) {
        let (mut text, mut rights) = ([0; 256], nix::cmsg_space!([std::os::fd::RawFd; 4]));
        let mut parts = [IoSliceMut::new(&mut text)];
        let message = recvmsg::<()>(manager.as_raw_fd(), &mut parts, Some(&mut rights), MsgFlags::empty()).unwrap();
        let came = message.cmsgs().unwrap().map(|message| match message {
            ControlMessageOwned::ScmRights(descriptors) => descriptors.len(),
            _ => 0,
        });
        let (came, length) = (came.sum(), message.bytes);
        (String::from_utf8(text[..length].to_vec()).unwrap(), came)
    }

    #[tokio::test]
    async fn the_service_manager_is_given_a_pidfd_and_told_when_it_is_not_needed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        let store = FdStore::open(socket, Vec::new());
        let (id, pidfd) = ourselves();
        store.keep(id, &pidfd);
        store.let_go(id);
        let heard = tokio::task::spawn_blocking(move || (heard(&manager), heard(&manager)));
        let (kept, gone) = heard.await.unwrap();
        let name = name(id);
        assert!(is_process(&name) && !is_own_socket(&name));
        assert_eq!(kept, (format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n"), 1));
        assert_eq!(gone, (format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), 0));
    }

    #[test]
    fn a_stored_socket_is_known_by_its_file() {
        let file = (64, u64::MAX, 1_764_000_000, 999_999_999);
        let name = socket_name(file);
        assert!(is_own_socket(&name) && !is_process(&name));
        assert_eq!(file_of_socket(&name), Some(file));
        for other in [
            "crio-manager.socket",
            "cri-socket-",
            "cri-socket-1-2-3",
            "cri-socket-1-2-3-4-5",
            "cri-socket-a-2-3-4",
        ] {
            assert_eq!(file_of_socket(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn what_was_handed_over_is_found_by_the_record_and_only_of_the_right_process() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        let (id, pidfd) = ourselves();
        let another = ProcessId {
            start_ticks: id.start_ticks + 1,
            ..id
        };
        let init = ProcessId {
            pid: std::num::NonZeroU32::MIN,
            ..id
        };
        let handed = vec![
            (name(id), pidfd.try_clone().unwrap()),
            (name(init), pidfd.try_clone().unwrap()),
            (format!("{PREFIX}of-nobody"), pidfd),
        ];
        let store = FdStore::open(socket, handed);
        assert!(store.take(another).is_none());
        assert!(store.take(id).is_some());
        assert!(store.take(id).is_none(), "it is taken once");
        assert!(store.take(init).is_none(), "of another process than its name says");
        store.let_go_of_the_rest();
        let heard = tokio::task::spawn_blocking(move || (heard(&manager), heard(&manager)));
        let (of_init, rest) = heard.await.unwrap();
        assert_eq!(of_init.0, format!("FDSTOREREMOVE=1\nFDNAME={}\n", name(init)));
        assert_eq!(rest.0, format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}of-nobody\n"));
    }
}
