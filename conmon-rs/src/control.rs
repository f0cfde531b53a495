//! Resize and reopen-log requests, from the FIFOs in the bundle.
//!
//! Anybody who may write to a FIFO may write junk. A line that is too long or not understood is dropped, up to and with
//! its line feed, and the next one counts again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open, unlink};
use rustix::io::{Errno, read, retry_on_intr};

use crate::console::WindowSize;

/// What somebody asks of the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    Resize(WindowSize),
    ReopenLog,
}

/// Understands one line of the control FIFO: three decimal numbers, further words are ignored.
pub fn control_message(line: &[u8]) -> Option<ControlMessage> {
    let mut numbers = numbers(line);
    let (kind, first, second) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let size = WindowSize::new(first, second)?;
    match kind {
        1 => Some(ControlMessage::Resize(size)),
        2 => Some(ControlMessage::ReopenLog),
        _ => None,
    }
}

/// Understands one line of the window size FIFO: height and width.
pub fn window_size(line: &[u8]) -> Option<WindowSize> {
    let mut numbers = numbers(line);
    WindowSize::new(numbers.next()??, numbers.next()??)
}

fn numbers(line: &[u8]) -> impl Iterator<Item = Option<u64>> {
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.map(|word| {
        let digits = word.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(word).ok().filter(|_| digits)?.parse().ok()
    })
}

/// No request is longer.
const LINE_BYTES: usize = 199;

/// Puts lines together from whatever pieces a FIFO delivers.
#[derive(Default)]
pub struct RequestLines {
    line: Vec<u8>,
    /// The line was too long: drop everything up to its end.
    discarding: bool,
}

impl RequestLines {
    pub fn push(&mut self, bytes: &[u8], mut request: impl FnMut(&[u8])) {
        for byte in bytes {
            if *byte == b'\n' {
                if !self.discarding {
                    request(&self.line);
                }
                self.line.clear();
                self.discarding = false;
            } else if self.line.len() < LINE_BYTES {
                self.line.push(*byte);
            } else {
                self.discarding = true;
            }
        }
    }
}

/// A FIFO of ours that others write to.
pub struct RequestFifo {
    fifo: OwnedFd,
    lines: RequestLines,
}

impl RequestFifo {
    /// Makes it anew. We hold both ends, so that a writer never finds it without a reader and we never see its end.
    pub fn create(path: &Path) -> io::Result<RequestFifo> {
        match unlink(path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o660), 0)?;
        let fifo = open(
            path,
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        Ok(RequestFifo {
            fifo,
            lines: RequestLines::default(),
        })
    }

    /// Reads once; a writer that never stops must not keep us from anything else.
    pub fn read(&mut self, request: impl FnMut(&[u8])) {
        let mut buffer = [0; 512];
        if let Ok(length) = retry_on_intr(|| read(&self.fifo, &mut buffer)) {
            self.lines.push(buffer.get(..length).unwrap_or_default(), request);
        }
    }
}

impl AsFd for RequestFifo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{REOPEN_LOG, resize};
    use proptest::prelude::*;

    fn size(line: &[u8]) -> Option<(u16, u16)> {
        match control_message(line)? {
            ControlMessage::Resize(size) => Some(size.sides()),
            ControlMessage::ReopenLog => None,
        }
    }

    #[test]
    fn a_resize_is_two_numbers_up_to_a_thousand() {
        for (line, expected) in [
            ("1 24 80", Some((24, 80))),
            ("1 0 0", Some((0, 0))),
            ("1 1000 1000", Some((1000, 1000))),
            ("1 007 08", Some((7, 8))),
            ("1 2 2 3", Some((2, 2))),
            ("1 1001 80", None),
            ("1 100000 80", None),
            ("1 99999999999999999999 80", None),
            ("1 10.5 20.3", None),
            ("1 0x10 0x20", None),
            ("1 -1 -1", None),
            ("1 2", None),
            ("3 1 1", None),
            ("", None),
        ] {
            assert_eq!(size(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn reopening_needs_all_three_numbers() {
        assert_eq!(control_message(b"2 0 0"), Some(ControlMessage::ReopenLog));
        assert_eq!(control_message(b"2"), None);
        assert_eq!(control_message(b"2 5000 0"), None);
    }

    #[test]
    fn a_line_that_is_too_long_does_not_eat_the_next_one() {
        let mut lines = RequestLines::default();
        let mut seen = Vec::new();
        lines.push(&[b'1'; 1000], |line| seen.push(line.to_vec()));
        lines.push(b"1 2 3\n", |line| seen.push(line.to_vec()));
        lines.push(REOPEN_LOG, |line| seen.push(line.to_vec()));
        assert_eq!(seen, [b"2 0 0"]);
    }

    proptest! {
        #[test]
        fn what_the_contract_writes_is_understood(height in 0u16..2000, width in 0u16..2000) {
            let message = resize(height, width);
            prop_assert_eq!(size(&message), Some((height.min(1000), width.min(1000))));
        }

        #[test]
        fn any_bytes_never_resize_wrongly(pieces in proptest::collection::vec("[12 0-9x.\n-]{0,40}", 0..20)) {
            let whole = pieces.concat();
            let mut expected = Vec::new();
            for line in whole.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                if let ["1", height, width, ..] = words[..] {
                    let side = |word: &str| word.parse::<u16>().ok().filter(|side| *side <= 1000 && !word.starts_with('+'));
                    expected.extend(side(height).zip(side(width)));
                }
            }
            let mut lines = RequestLines::default();
            let mut seen = Vec::new();
            for piece in &pieces {
                lines.push(piece.as_bytes(), |line| seen.extend(size(line)));
            }
            // Leading zeros of the kind are allowed too; the strategy may make some.
            prop_assert!(expected.iter().all(|size| seen.contains(size)));
            prop_assert!(seen.iter().all(|(height, width)| *height <= 1000 && *width <= 1000));
        }
    }
}
