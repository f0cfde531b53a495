//! Clients that watch and type, over a seqpacket socket in the bundle.
//!
//! A client that does not read must not stop the container, its log or its exit file; one that reads must lose nothing.
//! So each has a backlog. While one is full the container's output waits, but only for `BACKLOG_PATIENCE`: a client that
//! has not taken half of it by then is cut off.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, retry_on_intr, write};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, listen, recv, sendmsg, socket_with,
};

use crate::contract::{ATTACH_PACKET_BYTES, ATTACH_SOCKET, Stream};
use crate::poller::{ClientId, Event, Interest, Poller};
use crate::sys;

/// What a client may leave unread before the container has to wait for it.
const BACKLOG_BYTES: usize = 1024 * 1024;

/// How long the container waits for a client to take half of that.
pub const BACKLOG_PATIENCE: Duration = Duration::from_secs(1);

/// Packets of one client before others have their turn.
const PACKETS_PER_TURN: usize = 16;

/// How long clients may read on when the container is gone and everybody else knows.
const FAREWELL: Duration = Duration::from_secs(5);

const WAITING_CONNECTIONS: i32 = 10;

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
}

struct Client {
    id: ClientId,
    connection: OwnedFd,
    /// Packets that could not be sent yet.
    backlog: VecDeque<Vec<u8>>,
    backlog_bytes: usize,
    /// A part of one packet that stdin had no room for yet.
    input: Vec<u8>,
    sends_more: bool,
    reads_more: bool,
    /// Both directions are closed on its side.
    gone: bool,
    watched: Interest,
}

/// Where input goes.
pub enum Stdin {
    /// A terminal that the runtime has not delivered yet.
    Expected,
    Open(OwnedFd),
    /// There is none, or no longer: input is read and dropped.
    Closed,
}

/// What a client's input has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typed {
    /// Nothing more for now.
    Nothing,
    /// Stdin takes no more for now.
    Blocked,
    /// This client has nothing more to say.
    Finished,
}

impl Attach {
    /// Makes the socket, and the link if there is to be one: `(directory, name)`.
    pub fn listen(bundle: &Path, link: Option<(&Path, &OsStr)>) -> io::Result<Attach> {
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
                client.send(stream, piece);
            }
            client.watch(poller);
        }
    }

    /// Somebody has more to read than we want to keep.
    pub fn is_behind(&self) -> bool {
        self.clients.iter().any(|client| client.backlog_bytes > BACKLOG_BYTES)
    }

    /// Somebody has so much to read that even the end is no reason to keep more.
    pub fn is_far_behind(&self) -> bool {
        self.clients
            .iter()
            .any(|client| client.backlog_bytes > 2 * BACKLOG_BYTES)
    }

    /// Somebody has not caught up.
    pub fn is_catching_up(&self) -> bool {
        self.clients
            .iter()
            .any(|client| client.backlog_bytes > BACKLOG_BYTES / 2)
    }

    /// Cuts off who did not catch up.
    pub fn drop_slow(&mut self, poller: &Poller) {
        for client in &mut self.clients {
            if client.backlog_bytes > BACKLOG_BYTES / 2 {
                crate::warning!("an attached client does not read, it is cut off");
                client.backlog.clear();
                client.backlog_bytes = 0;
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

    /// Gives the others a little time to read what is left for them.
    pub fn finish(mut self) {
        let end = Instant::now() + FAREWELL;
        loop {
            self.clients.iter_mut().for_each(Client::flush);
            self.release_readers();
            let left = end.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return;
            }
            let mut waiting: Vec<_> = self
                .clients
                .iter()
                .map(|client| PollFd::new(&client.connection, PollFlags::OUT))
                .collect();
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let _ = poll(&mut waiting, Some(&timeout)); // whatever it says, the time is limited
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

impl Client {
    fn new(id: ClientId, connection: OwnedFd) -> Client {
        Client {
            id,
            connection,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            input: Vec::new(),
            sends_more: true,
            reads_more: true,
            gone: false,
            watched: Interest::Readable,
        }
    }

    fn send(&mut self, stream: Stream, output: &[u8]) {
        if !self.reads_more {
            return;
        }
        let head = [stream.packet_byte()];
        if self.backlog.is_empty() {
            let parts = [IoSlice::new(&head), IoSlice::new(output)];
            match send_packet(&self.connection, &parts) {
                Ok(()) => return,
                Err(Errno::AGAIN | Errno::NOBUFS) => {}
                Err(_) => return self.stop_sending(),
            }
        }
        let packet = [&head, output].concat();
        self.backlog_bytes += packet.len();
        self.backlog.push_back(packet);
    }

    fn flush(&mut self) {
        while let Some(packet) = self.backlog.front() {
            match send_packet(&self.connection, &[IoSlice::new(packet)]) {
                Ok(()) => {
                    self.backlog_bytes -= packet.len();
                    self.backlog.pop_front();
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Err(_) => return self.stop_sending(),
            }
        }
    }

    /// It has closed its reading side; it may still type.
    fn stop_sending(&mut self) {
        self.reads_more = false;
        self.backlog.clear();
        self.backlog_bytes = 0;
    }

    fn type_into(&mut self, stdin: &mut Stdin) -> Typed {
        // One that is gone does not wake us again, and has no more to say than it has said.
        let packets = if self.gone { usize::MAX } else { PACKETS_PER_TURN };
        for _ in 0..packets {
            // What was held comes first. What is typed before there is a terminal waits in the socket.
            if self.write_input(stdin) == Typed::Blocked || matches!(stdin, Stdin::Expected) {
                return Typed::Blocked;
            }
            if !self.sends_more {
                return Typed::Nothing;
            }
            match receive_packet(&self.connection) {
                Ok(packet) if packet.is_empty() => {
                    self.sends_more = false;
                    return Typed::Finished;
                }
                Ok(packet) => self.input = packet,
                Err(Errno::AGAIN) => return Typed::Nothing,
                Err(_) => {
                    self.sends_more = false;
                    self.stop_sending();
                    return Typed::Finished;
                }
            }
        }
        self.write_input(stdin)
    }

    fn write_input(&mut self, stdin: &mut Stdin) -> Typed {
        if self.input.is_empty() {
            return Typed::Nothing;
        }
        let Stdin::Open(fd) = stdin else {
            self.input = Vec::new();
            return Typed::Nothing;
        };
        match retry_on_intr(|| write(&*fd, &self.input)) {
            Ok(length) if length < self.input.len() => {
                self.input.drain(..length);
                Typed::Blocked
            }
            Ok(_) => {
                self.input = Vec::new();
                Typed::Nothing
            }
            Err(Errno::AGAIN) => Typed::Blocked,
            Err(_) => {
                self.input = Vec::new(); // nobody reads it any more
                Typed::Nothing
            }
        }
    }

    fn interest(&self) -> Interest {
        match (self.sends_more && self.input.is_empty(), !self.backlog.is_empty()) {
            (true, true) => Interest::ReadableOrWritable,
            (true, false) => Interest::Readable,
            (false, true) => Interest::Writable,
            (false, false) => Interest::Nothing,
        }
    }

    fn watch(&mut self, poller: &Poller) {
        let interest = self.interest();
        if !self.gone && interest != self.watched {
            poller.change(self, Event::AttachClient(self.id), interest);
            self.watched = interest;
        }
    }

    /// What it has sent before is still read; then it is forgotten.
    fn leave(&mut self, poller: &Poller) {
        if !self.gone {
            self.gone = true;
            self.stop_sending();
            poller.remove(self);
            // A client that was cut off is to see the end at once.
            let _ = rustix::net::shutdown(&self.connection, rustix::net::Shutdown::Both);
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn send_packet(connection: &OwnedFd, parts: &[IoSlice<'_>]) -> rustix::io::Result<()> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    retry_on_intr(|| sendmsg(connection, parts, &mut SendAncillaryBuffer::default(), flags)).map(drop)
}

/// Receives a packet whole, whatever its size.
fn receive_packet(connection: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
    let look = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let (_, size) = retry_on_intr(|| recv(connection, &mut [0; 1], look))?;
    let mut packet = vec![0; size];
    let (_, length) = retry_on_intr(|| recv(connection, packet.as_mut_slice(), RecvFlags::DONTWAIT))?;
    packet.truncate(length);
    Ok(packet)
}

/// Through a descriptor of the directory, because the path of a socket may have only 107 bytes.
fn listen_in(bundle: &Path, socket_path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(socket_path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = open(
        bundle,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{ATTACH_SOCKET}", sys::number(&directory)))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let usual = rustix::process::umask(Mode::from_raw_mode(0o077));
    let bound = bind(&listener, &address);
    rustix::process::umask(usual);
    bound?;
    listen(&listener, WAITING_CONNECTIONS)?;
    Ok(listener)
}

fn make_link(bundle: &Path, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(std::path::absolute(bundle)?, path)
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
