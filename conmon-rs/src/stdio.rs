//! The container's pipes: made here, read here, cut into what the log may have.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fchmod, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ioctl_fionread, read};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::args::StdioPlan;
use crate::attach::Stdin;
use crate::contract::Stream;
use crate::log::cri::RECORD_CONTENT_BYTES;
use crate::poller::Interest;

/// Reads of one stream before the others have their turn.
const READS_PER_TURN: usize = 16;

/// What a read may bring: all that a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// A held line and a read. Larger than needed: from 128 KiB on a buffer is a mapping of its own, of which only the pages
/// that are used cost memory, and which is given back whole.
const BUFFER_BYTES: usize = 132 * 1024;

/// Buffers that never held more are not worth giving back.
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
}

impl Stdio {
    /// Makes the pipes. With a terminal, stderr carries only what the runtime itself has to say; stdout comes later.
    pub fn new(plan: StdioPlan) -> io::Result<(Stdio, ContainerEnds)> {
        let mut stdio = Stdio {
            stdin: Stdin::Closed,
            stdout: None,
            stderr: None,
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
        Ok((stdio, ContainerEnds::Made { stdin, stdout, stderr }))
    }

    pub fn output(&mut self, stream: Stream) -> &mut Option<Output> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    pub fn outputs(&self) -> impl Iterator<Item = &Output> {
        [&self.stdout, &self.stderr].into_iter().flatten()
    }

    /// Something may still be written to us.
    pub fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Heavy output has made the buffers large.
    pub fn is_swollen(&self) -> bool {
        [&self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .any(|output| output.lines.is_swollen())
    }

    pub fn trim(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.lines.trim();
        }
    }
}

fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// One source of output.
pub struct Output {
    fd: OwnedFd,
    lines: Lines,
    /// A terminal that nobody had open when it was read last.
    hung_up: bool,
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
            lines: Lines::default(),
            hung_up: false,
        })
    }

    pub fn interest(&self) -> Interest {
        if self.hung_up {
            Interest::NewlyReadable
        } else {
            Interest::Readable
        }
    }

    /// Reads what is there and hands it on: whole lines as they come, an unfinished one when there is nothing more.
    pub fn pump(&mut self, log: impl FnMut(&[u8])) -> After {
        let was_hung_up = self.hung_up;
        let after = self.read_all(log);
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

    fn read_all(&mut self, mut log: impl FnMut(&[u8])) -> After {
        let more = if self.hung_up { After::Revived } else { After::Wait };
        for _ in 0..READS_PER_TURN {
            let room = self.lines.room();
            let wanted = room.len();
            let after = match read(&self.fd, room) {
                Ok(0) => After::Close,
                Ok(length) => {
                    log(self.lines.filled(length));
                    if length == wanted || self.lines.has_unfinished() {
                        continue;
                    }
                    return more;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => After::Wait,
                Err(Errno::IO) => After::HungUp,
                Err(error) => {
                    crate::warning!("read output: {error}");
                    After::Close
                }
            };
            log(self.lines.unfinished());
            return after;
        }
        // Others have waited long enough. If there is more, we are woken again; if not, nothing may be held back.
        if ioctl_fionread(&self.fd).unwrap_or(0) == 0 {
            log(self.lines.unfinished());
        }
        more
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Cuts what is read into what can be logged: up to the last line feed. The rest is held until more comes, nothing more
/// is there, or it is as long as a record may be.
#[derive(Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// The held part.
    start: usize,
    end: usize,
    /// The most that was ever used.
    used: usize,
}

impl Lines {
    /// Where the next read goes.
    pub fn room(&mut self) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER_BYTES];
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.buffer.get_mut(self.end..self.end + READ_BYTES).unwrap_or_default()
    }

    /// Says how much was read into `room`; returns what can be logged.
    pub fn filled(&mut self, length: usize) -> &[u8] {
        let new = self.end;
        self.end += length;
        self.used = self.used.max(self.end);
        let last = self
            .buffer
            .get(new..self.end)
            .and_then(|new| new.iter().rposition(|byte| *byte == b'\n'));
        let mut cut = last.map_or(self.start, |at| new + at + 1);
        if self.end - cut >= RECORD_CONTENT_BYTES {
            cut = self.end;
        }
        let ready = self.start..cut;
        self.start = cut;
        self.buffer.get(ready).unwrap_or_default()
    }

    pub fn has_unfinished(&self) -> bool {
        self.start < self.end
    }

    /// Gives up what is held.
    pub fn unfinished(&mut self) -> &[u8] {
        let held = self.start..self.end;
        self.start = self.end;
        self.buffer.get(held).unwrap_or_default()
    }

    fn is_swollen(&self) -> bool {
        self.used > SMALL_OUTPUT_BYTES
    }

    /// Gives back what heavy output has taken, unless something is held.
    fn trim(&mut self) {
        if !self.has_unfinished() {
            *self = Lines::default();
        }
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
    /// Holds `output`; returns what is too much to be held any longer and belongs to the log after all.
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
        (held.len() > EARLY_BYTES).then(|| std::mem::take(held))
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

    fn read_into(lines: &mut Lines, bytes: &[u8]) -> Vec<u8> {
        lines.room()[..bytes.len()].copy_from_slice(bytes);
        lines.filled(bytes.len()).to_vec()
    }

    #[test]
    fn a_line_that_is_whole_within_the_next_read_is_not_split() {
        let mut lines = Lines::default();
        assert_eq!(read_into(&mut lines, b"one\ntw"), b"one\n");
        assert_eq!(read_into(&mut lines, b"o\nthree"), b"two\n");
        assert_eq!(lines.unfinished(), b"three");
        assert!(!lines.has_unfinished());
    }

    #[test]
    fn a_line_longer_than_a_record_is_not_held() {
        let mut lines = Lines::default();
        assert_eq!(read_into(&mut lines, &[b'x'; 8192]), b"");
        assert_eq!(read_into(&mut lines, &[b'x'; 8192]).len(), 16384);
        assert!(!lines.has_unfinished());
    }

    #[test]
    fn trimming_forgets_nothing() {
        let mut lines = Lines::default();
        read_into(&mut lines, &[b'x'; 8192]);
        read_into(&mut lines, b"y");
        lines.trim();
        assert_eq!(lines.unfinished().len(), 8193);
        lines.trim();
        assert!(!lines.is_swollen());
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
