//! The container's pipes: made here, read here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memchr::memrchr;
use rustix::fs::{Mode, OFlags, fchmod, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::args::StdioPlan;
use crate::attach::Stdin;
use crate::contract::Stream;
use crate::poller::Interest;

/// Reads of one stream before the others have their turn.
const READS_PER_TURN: usize = 4;

/// What a pipe holds, and so what a read may bring.
const PIPE_BYTES: usize = 64 * 1024;

/// The same for one that was found full: fewer reads, of more, are cheaper. Not for all of them from the start, because a
/// user's pipes may hold only so much together before new ones get next to nothing.
const LARGE_PIPE_BYTES: usize = 256 * 1024;

/// Where it goes. From 128 KiB on a buffer is a mapping of its own, of which only the pages that are used cost memory, and
/// which is given back whole.
const BUFFER_BYTES: usize = LARGE_PIPE_BYTES;

/// A buffer that never held more is not worth giving back.
const SMALL_OUTPUT_BYTES: usize = 8 * 1024;

/// What the runtime, and through it the container, gets as descriptors 0 to 2.
pub enum ContainerEnds {
    Made {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: OwnedFd,
    },
    /// What the monitor itself was given.
    Inherited,
}

impl ContainerEnds {
    /// Makes them the stdio of this process, a child that is about to become the runtime.
    pub fn install(&self) -> io::Result<()> {
        let ContainerEnds::Made { stdin, stdout, stderr } = self else {
            return Ok(());
        };
        let null = File::options().read(true).write(true).open("/dev/null")?;
        match stdin {
            Some(pipe) => dup2_stdin(pipe)?,
            None => dup2_stdin(&null)?,
        }
        match stdout {
            Some(pipe) => dup2_stdout(pipe)?,
            None => dup2_stdout(&null)?,
        }
        dup2_stderr(stderr)?;
        // Whoever the container's user is, it may open /dev/stdout again.
        for pipe in [stdin, stdout].into_iter().flatten().chain([stderr]) {
            let _ = fchmod(pipe, Mode::from_raw_mode(0o777)); // some kernels refuse it for pipes
        }
        Ok(())
    }
}

/// Our ends.
pub struct Stdio {
    pub stdin: Stdin,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    buffer: ReadBuffer,
}

impl Stdio {
    /// Makes the pipes. With a terminal, stderr carries only what the runtime itself has to say; stdout comes later.
    ///
    /// With `no_dev_null`, an input that is not there has ended, and an output that is not there is stderr.
    pub fn new(plan: StdioPlan, no_dev_null: bool) -> io::Result<(Stdio, ContainerEnds)> {
        let mut stdio = Stdio {
            stdin: Stdin::Closed,
            stdout: None,
            stderr: None,
            buffer: ReadBuffer::default(),
        };
        if plan == StdioPlan::Inherited {
            return Ok((stdio, ContainerEnds::Inherited));
        }
        let (ours, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        stdio.stderr = Some(Output::new(ours)?);
        let (mut stdin, mut stdout) = (None, None);
        match plan {
            StdioPlan::Inherited => {}
            StdioPlan::Terminal => stdio.stdin = Stdin::Expected,
            StdioPlan::Pipes { stdin: wanted } => {
                let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
                stdio.stdout = Some(Output::new(ours)?);
                stdout = Some(theirs);
                if wanted {
                    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
                    set_nonblocking(&ours)?;
                    stdio.stdin = Stdin::Open(ours);
                    stdin = Some(theirs);
                }
            }
        }
        if no_dev_null {
            if stdin.is_none() {
                let (ended, _ours) = pipe_with(PipeFlags::CLOEXEC)?;
                stdin = Some(ended);
            }
            if stdout.is_none() {
                stdout = Some(stderr.try_clone()?);
            }
        }
        Ok((stdio, ContainerEnds::Made { stdin, stdout, stderr }))
    }

    pub fn output(&mut self, stream: Stream) -> &mut Option<Output> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Something may still be written to us.
    pub fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Reads what a stream has now and hands it on; `None` if the stream is not open.
    pub fn pump(&mut self, stream: Stream, keep: impl FnMut(&[u8])) -> Option<After> {
        let output = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        Some(output.as_mut()?.pump(&mut self.buffer, keep))
    }

    /// Heavy output has made the buffer large.
    pub fn is_swollen(&self) -> bool {
        self.buffer.used > SMALL_OUTPUT_BYTES
    }

    pub fn trim(&mut self) {
        self.buffer = ReadBuffer::default();
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.hold(PIPE_BYTES);
        }
    }
}

/// One for all reads: what is read is handed on before the next.
#[derive(Default)]
struct ReadBuffer {
    bytes: Vec<u8>,
    /// The most that was ever used.
    used: usize,
}

impl ReadBuffer {
    fn room(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; BUFFER_BYTES];
        }
        self.bytes.get_mut(..length).unwrap_or_default()
    }

    fn filled(&mut self, length: usize) -> &[u8] {
        self.used = self.used.max(length);
        self.bytes.get(..length).unwrap_or_default()
    }
}

fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// One source of output.
pub struct Output {
    fd: OwnedFd,
    /// A terminal that nobody had open when it was read last.
    hung_up: bool,
    /// What it holds, if it is a pipe.
    held_bytes: usize,
}

/// What is to be done about a source after it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Wait until there is more.
    Wait,
    /// A terminal that no process has open from now on; one may open it again.
    HungUp,
    /// The same as before.
    StillHungUp,
    /// That terminal is in use again.
    Revived,
    /// The end.
    Close,
}

impl Output {
    /// From the reading end of a pipe, or the monitor's side of a terminal.
    pub fn new(fd: OwnedFd) -> io::Result<Output> {
        set_nonblocking(&fd)?;
        Ok(Output {
            fd,
            hung_up: false,
            held_bytes: PIPE_BYTES,
        })
    }

    pub fn interest(&self) -> Interest {
        if self.hung_up {
            Interest::NewlyReadable
        } else {
            Interest::Readable
        }
    }

    fn pump(&mut self, buffer: &mut ReadBuffer, keep: impl FnMut(&[u8])) -> After {
        let was_hung_up = self.hung_up;
        let after = self.read_all(buffer, keep);
        self.hung_up = match after {
            After::HungUp => true,
            After::Revived => false,
            After::Wait | After::StillHungUp | After::Close => was_hung_up,
        };
        match (was_hung_up, after) {
            (true, After::HungUp) => After::StillHungUp,
            _ => after,
        }
    }

    /// Lets it hold so much; what is no pipe, or may not hold more, stays as it is.
    fn hold(&mut self, bytes: usize) {
        if self.held_bytes != bytes {
            let _ = fcntl_setpipe_size(&self.fd, bytes);
            self.held_bytes = bytes;
        }
    }

    /// If it does not come to the end of what is there, we are woken again.
    fn read_all(&mut self, buffer: &mut ReadBuffer, mut keep: impl FnMut(&[u8])) -> After {
        let more = if self.hung_up { After::Revived } else { After::Wait };
        for _ in 0..READS_PER_TURN {
            let room = buffer.room(self.held_bytes);
            let wanted = room.len();
            match read(&self.fd, room) {
                Ok(0) => return After::Close,
                Ok(length) => {
                    keep(buffer.filled(length));
                    if length < wanted {
                        break;
                    }
                    self.hold(LARGE_PIPE_BYTES);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return After::Wait,
                Err(Errno::IO) => return After::HungUp,
                Err(error) => {
                    crate::warning!("read output: {error}");
                    return After::Close;
                }
            }
        }
        more
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is written before there is a container: held back, because if the runtime fails it is the reason and no output.
#[derive(Default)]
pub struct EarlyOutput {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The last of stderr, for the message to the parent.
    tail: Vec<u8>,
}

const EARLY_BYTES: usize = 64 * 1024;
const TAIL_BYTES: usize = 4096;

impl EarlyOutput {
    /// Holds `output`; returns what is too much to be held any longer and belongs to the log after all: whole lines, because
    /// nobody knows how long the rest stays here.
    pub fn hold(&mut self, stream: Stream, output: &[u8]) -> Option<Vec<u8>> {
        let held = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => {
                self.tail.extend_from_slice(output);
                let excess = self.tail.len().saturating_sub(TAIL_BYTES);
                self.tail.drain(..excess);
                &mut self.stderr
            }
        };
        held.extend_from_slice(output);
        if held.len() <= EARLY_BYTES {
            return None;
        }
        let whole = memrchr(b'\n', held).map_or(held.len(), |at| at + 1);
        let rest = held.split_off(whole);
        Some(std::mem::replace(held, rest))
    }

    pub fn into_streams(self) -> [(Stream, Vec<u8>); 2] {
        [(Stream::Stdout, self.stdout), (Stream::Stderr, self.stderr)]
    }

    /// What the runtime said last.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_given_up_line_by_line() {
        let mut early = EarlyOutput::default();
        let lines = [vec![b'x'; EARLY_BYTES], b"\nthe".to_vec()].concat();
        let excess = early.hold(Stream::Stdout, &lines).unwrap();
        assert_eq!(excess.len(), EARLY_BYTES + 1);
        let [(_, held), _] = early.into_streams();
        assert_eq!(held, b"the");
    }

    #[test]
    fn the_message_keeps_the_end_of_a_flood() {
        let mut early = EarlyOutput::default();
        assert_eq!(early.hold(Stream::Stderr, &[b'x'; EARLY_BYTES]), None);
        assert_eq!(
            early.hold(Stream::Stderr, b"the end").map(|output| output.len()),
            Some(EARLY_BYTES + 7)
        );
        assert_eq!(early.tail().len(), TAIL_BYTES);
        assert!(early.tail().ends_with(b"xthe end"));
    }
}
