//! One attached client: what it is still to be sent, what it has typed.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::{Errno, retry_on_intr, write};

use super::Stdin;
use super::backlog::Backlog;
use super::socket::{receive_packet, send_packet};
use crate::contract::Stream;
use crate::poller::{ClientId, Event, Interest, Poller};

/// Packets of one client before others have their turn.
const PACKETS_PER_TURN: usize = 16;

/// One that is connected, or was and has still something to say.
pub struct Client {
    pub id: ClientId,
    pub connection: OwnedFd,
    /// Packets that could not be sent yet.
    pub backlog: Backlog,
    /// A part of one packet that stdin had no room for yet.
    pub input: Vec<u8>,
    pub sends_more: bool,
    pub reads_more: bool,
    /// Both directions are closed on its side.
    pub gone: bool,
    pub watched: Interest,
}

/// What a client's input has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Nothing more for now.
    Nothing,
    /// Stdin takes no more for now.
    Blocked,
    /// This client has nothing more to say.
    Finished,
}

impl Client {
    pub fn new(id: ClientId, connection: OwnedFd) -> Client {
        Client {
            id,
            connection,
            backlog: Backlog::default(),
            input: Vec::new(),
            sends_more: true,
            reads_more: true,
            gone: false,
            watched: Interest::Readable,
        }
    }

    /// As far as it takes it now; the rest waits in its backlog.
    pub fn send(&mut self, stream: Stream, output: &[u8], overflow: Option<&Path>) -> io::Result<()> {
        if !self.reads_more {
            return Ok(());
        }
        let head = [stream.packet_byte()];
        if self.backlog.is_empty() {
            let parts = [IoSlice::new(&head), IoSlice::new(output)];
            match send_packet(&self.connection, &parts) {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN | Errno::NOBUFS) => {}
                Err(_) => {
                    self.stop_sending();
                    return Ok(());
                }
            }
        }
        self.backlog.push([&head, output].concat(), overflow)
    }

    pub fn flush(&mut self) {
        while let Some(packet) = self.backlog.first() {
            match send_packet(&self.connection, &[IoSlice::new(packet)]) {
                Ok(()) => self.backlog.pop(),
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Err(_) => return self.stop_sending(),
            }
        }
    }

    /// It has closed its reading side; it may still type.
    pub fn stop_sending(&mut self) {
        self.reads_more = false;
        self.backlog = Backlog::default();
    }

    pub fn type_into(&mut self, stdin: &mut Stdin) -> Typed {
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

    pub fn watch(&mut self, poller: &Poller) {
        let interest = self.interest();
        if !self.gone && interest != self.watched {
            poller.change(self, Event::AttachClient(self.id), interest);
            self.watched = interest;
        }
    }

    /// What it has sent before is still read; then it is forgotten.
    pub fn leave(&mut self, poller: &Poller) {
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
