//! Clients that watch and type, over a seqpacket socket in the bundle.
//!
//! A container has its log, so it never waits for a client: each has a backlog, in memory and then in a file, and one that
//! is too far behind even for that is cut off. The output of an exec has no other place, so it waits for its client as it
//! would in a pipe, though not for one that takes nothing for `PATIENCE`.

mod backlog;
mod client;
mod socket;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use self::client::{Client, Typed};
use self::socket::{listen_in, make_link};
use crate::contract::{ATTACH_PACKET_BYTES, ATTACH_SOCKET, Stream};
use crate::poller::{ClientId, Event, Interest, Poller};
use crate::sys::{self, Fork};

/// What a client of an exec may leave unread before the exec has to wait for it.
const BACKLOG_BYTES: usize = backlog::MEMORY_BYTES;

/// How long an exec waits for a client that takes nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the container is gone and everybody else knows: how long a client may take nothing, and how long it may read on.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(600);

/// The socket, its short name elsewhere, and who is connected.
pub struct Attach {
    listener: OwnedFd,
    socket_path: PathBuf,
    link: Option<PathBuf>,
    clients: Vec<Client>,
    next: ClientId,
    /// The process has no descriptors left: nobody is accepted until a client leaves.
    full: bool,
    waits_for_stdin: bool,
    /// Where clients' backlogs may be; without it the output waits.
    overflow: Option<PathBuf>,
}

/// Where input goes.
pub enum Stdin {
    /// A terminal that the runtime has not delivered yet.
    Expected,
    Open(OwnedFd),
    /// There is none, or no longer: input is read and dropped.
    Closed,
}

impl Attach {
    /// Makes the socket, and the link if there is to be one: `(directory, name)`. What clients leave unread goes to files in
    /// the directory `overflow`; without one the output waits for them.
    pub fn listen(bundle: &Path, link: Option<(&Path, &OsStr)>, overflow: Option<PathBuf>) -> io::Result<Attach> {
        let socket_path = bundle.join(ATTACH_SOCKET);
        let listener = listen_in(bundle, &socket_path).map_err(|error| named(error, &socket_path))?;
        let link = match link {
            None => None,
            Some((directory, name)) => {
                let path = directory.join(name);
                make_link(bundle, &path).map_err(|error| named(error, &path))?;
                Some(path)
            }
        };
        Ok(Attach {
            listener,
            socket_path,
            link,
            clients: Vec::new(),
            next: ClientId::FIRST,
            full: false,
            waits_for_stdin: false,
            overflow,
        })
    }

    pub fn watch(&self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.listener, Event::AttachConnection, Interest::Readable)
    }

    pub fn accept(&mut self, poller: &Poller) {
        loop {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(connection) => {
                    let id = self.next;
                    self.next = id.next();
                    let client = Client::new(id, connection);
                    match poller.add(&client, Event::AttachClient(id), client.watched) {
                        Ok(()) => self.clients.push(client),
                        Err(error) => crate::warning!("watch client: {error}"),
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    crate::warning!("accept client: {error}");
                    poller.remove(&self.listener);
                    self.full = true;
                    return;
                }
            }
        }
    }

    /// Sends output to everybody, as far as they take it now.
    pub fn broadcast(&mut self, stream: Stream, output: &[u8], poller: &Poller) {
        for client in &mut self.clients {
            for piece in output.chunks(ATTACH_PACKET_BYTES - 1) {
                if let Err(error) = client.send(stream, piece, self.overflow.as_deref()) {
                    crate::warning!("an attached client is too far behind, it is cut off: {error}");
                    client.leave(poller);
                }
            }
            client.watch(poller);
        }
    }

    /// Somebody has more to read than we want to keep, or, where the output waits already, has not caught up yet.
    pub fn is_behind(&self, waits: bool) -> bool {
        let limit = if waits { BACKLOG_BYTES / 2 } else { BACKLOG_BYTES };
        self.overflow.is_none() && self.clients.iter().any(|client| client.backlog.bytes() > limit)
    }

    /// Until when whoever is behind has to have taken something.
    pub fn patience_ends(&self) -> Option<Instant> {
        let idle = self.clients.iter().filter_map(|client| client.backlog.idle_since());
        idle.min().map(|since| since + PATIENCE)
    }

    /// Cuts off who has taken nothing since.
    pub fn drop_idle(&mut self, now: Instant, poller: &Poller) {
        for client in &mut self.clients {
            if client.backlog.idle_since().is_some_and(|since| since + PATIENCE <= now) {
                crate::warning!("an attached client does not read, it is cut off");
                client.leave(poller);
            }
        }
    }

    /// Somebody was cut off, and is to be forgotten by `take_input`.
    pub fn anybody_left(&self) -> bool {
        self.clients.iter().any(|client| client.gone)
    }

    /// Nothing waits any more, so memory has to be enough.
    pub fn drop_far_behind(&mut self, poller: &Poller) {
        for client in &mut self.clients {
            if client.backlog.bytes() > 8 * BACKLOG_BYTES {
                crate::warning!("an attached client is too far behind, it is cut off");
                client.leave(poller);
            }
        }
    }

    /// Something has happened to a client: it reads, has typed, or is gone.
    pub fn serve(&mut self, id: ClientId, hung_up: bool, stdin: &mut Stdin, closes_stdin: bool, poller: &Poller) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.flush();
            if hung_up {
                client.leave(poller);
            }
        }
        self.take_input(stdin, closes_stdin, poller);
    }

    /// Moves input to stdin as far as it goes; afterwards whoever is gone and has nothing left to say is forgotten.
    pub fn take_input(&mut self, stdin: &mut Stdin, closes_stdin: bool, poller: &Poller) {
        for client in &mut self.clients {
            if client.sends_more || !client.input.is_empty() {
                match client.type_into(stdin) {
                    Typed::Finished if closes_stdin => close_stdin(stdin, poller),
                    Typed::Finished | Typed::Nothing | Typed::Blocked => {}
                }
            }
            client.watch(poller);
        }
        let before = self.clients.len();
        self.clients
            .retain(|client| !client.gone || client.sends_more || !client.input.is_empty());
        if self.full && self.clients.len() < before {
            self.full = self.watch(poller).is_err();
        }
        self.watch_stdin(stdin, poller);
    }

    /// Changed only if need be: each change reports a lasting end once more.
    fn watch_stdin(&mut self, stdin: &Stdin, poller: &Poller) {
        let waits = self.clients.iter().any(|client| !client.input.is_empty());
        if let Stdin::Open(stdin) = stdin
            && waits != self.waits_for_stdin
        {
            poller.change(
                stdin,
                Event::StdinHasRoom,
                if waits { Interest::NewlyWritable } else { Interest::Once },
            );
            self.waits_for_stdin = waits;
        }
    }

    /// After the last output: who has read everything sees the end now.
    pub fn release_readers(&mut self) {
        self.clients.retain(|client| !client.backlog.is_empty());
    }

    /// Gives the others time to read what is left for them, in a process of its own: nobody waits for it, and
    /// `leave_parent` gives up what it has of our callers.
    pub fn finish(mut self, leave_parent: impl FnOnce()) {
        self.clients.iter_mut().for_each(Client::flush);
        self.release_readers();
        if self.clients.is_empty() {
            return;
        }
        match sys::fork() {
            Ok(Fork::Parent(_)) => {}
            Ok(Fork::Child) => {
                leave_parent();
                self.say_farewell();
                sys::exit_now(0);
            }
            Err(error) => crate::warning!("attached clients do not get the last of the output: {error}"),
        }
    }

    fn say_farewell(&mut self) {
        let end = Instant::now() + FAREWELL;
        while !self.clients.is_empty() {
            let now = Instant::now();
            self.clients.retain(|client| {
                let idle = client.backlog.idle_since();
                idle.is_some_and(|since| now < end.min(since + FAREWELL_PATIENCE))
            });
            let mut waiting: Vec<_> = self
                .clients
                .iter()
                .map(|client| PollFd::new(&client.connection, PollFlags::OUT))
                .collect();
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut waiting, Some(&second)); // whatever it says, the time is limited
            self.clients.iter_mut().for_each(Client::flush);
            self.release_readers();
        }
    }
}

impl Drop for Attach {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket_path); // somebody may have tidied up already
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
    }
}

/// Nobody can type any more.
pub fn close_stdin(stdin: &mut Stdin, poller: &Poller) {
    if let Stdin::Open(fd) = stdin {
        poller.remove(fd);
    }
    *stdin = Stdin::Closed;
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
