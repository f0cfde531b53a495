//! epoll, signalfd, pidfd → `Event`. What can wake the monitor is this one closed list.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::contract::Stream;

/// What can happen to a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A child ended, or somebody wants us or the container to end.
    Signals,
    /// The container's first process ended, whether it is our child or not.
    ContainerGone,
    /// The container wrote something, or closed its end.
    Output(Stream),
    /// The kernel ran out of memory for the container.
    OutOfMemory,
    /// The runtime delivers the terminal.
    Console,
    Control,
    WindowSize,
    /// Somebody wants to attach.
    AttachConnection,
    /// A client has typed, or has room for output.
    AttachClient(ClientId),
    /// A client is gone, or has closed both directions.
    ClientHungUp(ClientId),
    /// The container says that it is ready, or the like.
    Notification,
    /// The container reads what was typed.
    StdinHasRoom,
}

/// One attached client; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(u64);

impl ClientId {
    pub const FIRST: ClientId = ClientId(0);

    pub fn next(self) -> ClientId {
        ClientId(self.0 + 1)
    }
}

const FIRST_CLIENT_TOKEN: u64 = 16;

impl Event {
    fn token(self) -> u64 {
        match self {
            Event::Signals => 0,
            Event::ContainerGone => 1,
            Event::Output(Stream::Stdout) => 2,
            Event::Output(Stream::Stderr) => 3,
            Event::OutOfMemory => 4,
            Event::Console => 5,
            Event::Control => 6,
            Event::WindowSize => 7,
            Event::AttachConnection => 8,
            Event::StdinHasRoom => 9,
            Event::Notification => 10,
            Event::AttachClient(client) | Event::ClientHungUp(client) => FIRST_CLIENT_TOKEN + client.0,
        }
    }

    fn of(token: u64, flags: epoll::EventFlags) -> Option<Event> {
        let hung_up = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        Some(match token {
            0 => Event::Signals,
            1 => Event::ContainerGone,
            2 => Event::Output(Stream::Stdout),
            3 => Event::Output(Stream::Stderr),
            4 => Event::OutOfMemory,
            5 => Event::Console,
            6 => Event::Control,
            7 => Event::WindowSize,
            8 => Event::AttachConnection,
            9 => Event::StdinHasRoom,
            10 => Event::Notification,
            _ => {
                let client = ClientId(token.checked_sub(FIRST_CLIENT_TOKEN)?);
                if hung_up {
                    Event::ClientHungUp(client)
                } else {
                    Event::AttachClient(client)
                }
            }
        })
    }
}

/// When a descriptor is worth an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Readable,
    Writable,
    ReadableOrWritable,
    /// Only its end.
    Nothing,
    /// Only its end, and that once: for descriptors on which the end lasts.
    Once,
    /// The same, and once when there is room again.
    NewlyWritable,
    /// Once for each thing that happens: for terminals, which stay "hung up" for as long as nobody has them open.
    NewlyReadable,
    /// Once for each change of a file of the kernel's.
    Changed,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Interest::Readable => epoll::EventFlags::IN,
            Interest::Writable => epoll::EventFlags::OUT,
            Interest::ReadableOrWritable => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Interest::Nothing => epoll::EventFlags::empty(),
            Interest::Once => epoll::EventFlags::ET,
            Interest::NewlyWritable => epoll::EventFlags::OUT | epoll::EventFlags::ET,
            Interest::NewlyReadable => epoll::EventFlags::IN | epoll::EventFlags::ET,
            Interest::Changed => epoll::EventFlags::PRI | epoll::EventFlags::ET,
        }
    }
}

const EVENTS_PER_WAIT: usize = 16;

pub struct Poller {
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Poller {
            epoll,
            ready: Vec::with_capacity(EVENTS_PER_WAIT),
        })
    }

    pub fn add(&self, fd: &impl AsFd, event: Event, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(event.token());
        Ok(epoll::add(&self.epoll, fd, data, interest.flags())?)
    }

    /// For a descriptor that was added before.
    pub fn change(&self, fd: &impl AsFd, event: Event, interest: Interest) {
        let data = epoll::EventData::new_u64(event.token());
        if let Err(error) = epoll::modify(&self.epoll, fd, data, interest.flags()) {
            crate::warning!("epoll: {error}");
        }
    }

    /// To be called before a descriptor is closed: a copy of it elsewhere would keep it in the set.
    pub fn remove(&self, fd: &impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd); // it may never have been added
    }

    /// Waits until something happens or the deadline has passed; then there may be nothing.
    pub fn wait(&mut self, deadline: Option<Instant>) -> impl Iterator<Item = Event> + use<> {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        self.ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => crate::error!("epoll: {error}"), // only a mistake of ours could cause it
        }
        let mut events = [None; EVENTS_PER_WAIT];
        for (slot, ready) in events.iter_mut().zip(&self.ready) {
            *slot = {
                let (token, flags) = (ready.data.u64(), ready.flags);
                Event::of(token, flags)
            };
        }
        events.into_iter().flatten()
    }
}
