//! bytes → entries of the systemd journal, by its native protocol: one datagram an entry.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::contract::Stream;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A longer line becomes several entries, all but the last marked as partial.
const MESSAGE_BYTES: usize = 16 * 1024;

/// How long a busy journal is waited for before an entry is given up; after that it is not waited for until it takes one.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Between two attempts when the kernel has no memory for an entry.
const NO_MEMORY_PAUSE: Duration = Duration::from_millis(5);

/// How long the short form of a container id is.
pub const SHORT_ID_BYTES: usize = 12;

/// What every entry says about its container.
#[derive(Debug)]
pub struct JournalPlan {
    pub container_id: OsString,
    pub name: Option<OsString>,
    pub tag: Option<OsString>,
    /// Each `NAME=VALUE`.
    pub labels: Vec<OsString>,
    pub marks_partial: bool,
}

pub struct Journal {
    socket: UnixDatagram,
    /// The fields that are always the same, ready to be sent.
    fields: Vec<u8>,
    marks_partial: bool,
    stdout: Unfinished,
    stderr: Unfinished,
    lost_entries: u64,
}

/// The beginning of a line whose end has not come yet.
#[derive(Default)]
struct Unfinished {
    line: Vec<u8>,
    /// A part of this line has been sent already.
    continues: bool,
}

impl Journal {
    pub fn open(plan: &JournalPlan) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(BUSY_WAIT))?;
        Ok(Journal {
            socket,
            fields: constant_fields(plan),
            marks_partial: plan.marks_partial,
            stdout: Unfinished::default(),
            stderr: Unfinished::default(),
            lost_entries: 0,
        })
    }

    pub fn append(&mut self, stream: Stream, output: &[u8]) {
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MESSAGE_BYTES) {
                let room = MESSAGE_BYTES.saturating_sub(self.unfinished(stream).line.len());
                if part.len() > room {
                    self.send_line(stream);
                }
                self.unfinished(stream).line.extend_from_slice(part);
                if part.ends_with(b"\n") {
                    self.send_line(stream);
                }
            }
        }
    }

    /// Sends what has not ended and will not.
    pub fn flush(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.unfinished(stream).line.is_empty() {
                self.send_line(stream);
            }
        }
    }

    fn unfinished(&mut self, stream: Stream) -> &mut Unfinished {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn send_line(&mut self, stream: Stream) {
        let unfinished = self.unfinished(stream);
        let line = std::mem::take(&mut unfinished.line);
        let continues = unfinished.continues;
        let partial = !line.ends_with(b"\n");
        unfinished.continues = partial;
        let (priority, message) = match priority_prefix(&line) {
            Some(prefixed) if !continues => prefixed,
            _ => (default_priority(stream), line.as_slice()),
        };
        let mut entry = self.fields.clone();
        push_field(&mut entry, b"PRIORITY", &[priority]);
        if partial && self.marks_partial {
            push_field(&mut entry, b"CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        push_field(&mut entry, b"MESSAGE", message);
        match self.send(&entry) {
            Ok(()) if self.lost_entries > 0 => {
                crate::warning!("journal: works again, {} entries were lost", self.lost_entries);
                self.lost_entries = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost_entries == 0 {
                    crate::warning!("journal: {error}, output is being lost");
                }
                self.lost_entries += 1;
            }
        }
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        let may_wait = self.lost_entries == 0;
        self.socket.set_nonblocking(!may_wait)?;
        let end = Instant::now() + BUSY_WAIT;
        loop {
            // By name each time: the journal may have been restarted.
            match self.socket.send_to(entry, SOCKET) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The kernel has no memory for it now; unlike for a journal that is busy, it does not wait by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && may_wait && Instant::now() < end => {
                    std::thread::sleep(NO_MEMORY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn constant_fields(plan: &JournalPlan) -> Vec<u8> {
    let mut fields = Vec::new();
    let id = plan.container_id.as_bytes();
    let short_id = id.get(..SHORT_ID_BYTES).unwrap_or(id);
    push_field(&mut fields, b"CONTAINER_ID_FULL", id);
    push_field(&mut fields, b"CONTAINER_ID", short_id);
    if let Some(name) = &plan.name {
        push_field(&mut fields, b"CONTAINER_NAME", name.as_bytes());
    }
    if let Some(tag) = &plan.tag {
        push_field(&mut fields, b"CONTAINER_TAG", tag.as_bytes());
    }
    let identifier = plan
        .tag
        .as_ref()
        .or(plan.name.as_ref())
        .map_or(short_id, |name| name.as_bytes());
    push_field(&mut fields, b"SYSLOG_IDENTIFIER", identifier);
    for label in &plan.labels {
        let (name, value) = split_label(label.as_bytes()).unwrap_or_default();
        push_field(&mut fields, name, value);
    }
    fields
}

/// Name and value of a label, if there is exactly one `=` and a name before it.
pub fn split_label(label: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = label.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    let (name, value) = (label.get(..at)?, label.get(at + 1..)?);
    (!value.contains(&b'=')).then_some((name, value))
}

/// The form with a counted length: the value may contain anything.
fn push_field(entry: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    entry.extend_from_slice(name);
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

fn default_priority(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => b'6',
        Stream::Stderr => b'3',
    }
}

/// A line may begin with its priority, as `<3>`.
fn priority_prefix(line: &[u8]) -> Option<(u8, &[u8])> {
    match line {
        [b'<', priority @ b'0'..=b'7', b'>', message @ ..] => Some((*priority, message)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_label_is_a_name_and_a_value() {
        assert_eq!(split_label(b"A=b"), Some((&b"A"[..], &b"b"[..])));
        for label in ["A", "=b", "A=b=c"] {
            assert_eq!(split_label(label.as_bytes()), None, "{label}");
        }
    }

    #[test]
    fn a_field_may_contain_anything() {
        let mut entry = Vec::new();
        push_field(&mut entry, b"MESSAGE", b"a\n\0b");
        assert_eq!(entry, b"MESSAGE\n\x04\0\0\0\0\0\0\0a\n\0b\n");
    }

    #[test]
    fn only_a_digit_up_to_seven_is_a_priority() {
        assert_eq!(priority_prefix(b"<4>x\n"), Some((b'4', &b"x\n"[..])));
        for line in ["<8>x", "<44>x", "< 4>x", "4>x", "<4"] {
            assert_eq!(priority_prefix(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_and_label_make_fields_that_can_be_told_apart(name in "[A-Z_]{1,9}", value: Vec<u8>, next: Vec<u8>) {
            let mut entry = Vec::new();
            push_field(&mut entry, name.as_bytes(), &value);
            push_field(&mut entry, b"NEXT", &next);
            let rest = entry.strip_prefix(name.as_bytes()).unwrap().strip_prefix(b"\n").unwrap();
            let (length, rest) = rest.split_first_chunk().unwrap();
            let (read, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
            prop_assert_eq!(read, &value[..]);
            prop_assert!(rest.starts_with(b"\nNEXT\n"));
            let _ = (split_label(&value), priority_prefix(&value));
        }
    }
}
