//! What crio-manager may rely on: names, messages and file contents that pass between the monitor and whoever started it.
//!
//! Both ends of each format stand here side by side, so that a test can show they agree. Everything is pure: bytes in,
//! values out. Nothing else of this crate is shared.

mod json;
mod sync_message;

pub(crate) use json::{JsonReader, NotJson};
pub use sync_message::{NotASyncMessage, SYNC_MESSAGE_LIMIT_BYTES, SyncKey, SyncMessage, TIMED_OUT, sync_message};

/// Decimal number of the descriptor on which the monitor reports the pid, the exit code or why there is neither.
pub const SYNC_PIPE_ENV: &str = "_OCI_SYNCPIPE";
/// Decimal number of a descriptor; the monitor does nothing until it could read from it (or it was closed).
pub const START_PIPE_ENV: &str = "_OCI_STARTPIPE";
/// Decimal number of the descriptor that tells when the attach socket of an exec is ready.
pub const ATTACH_PIPE_ENV: &str = "_OCI_ATTACHPIPE";

/// In the bundle: the seqpacket socket of clients that watch and type.
pub const ATTACH_SOCKET: &str = "attach";
/// In the bundle: the FIFO for [`resize`] and [`REOPEN_LOG`].
pub const CONTROL_FIFO: &str = "ctl";
/// In the bundle: the FIFO for `HEIGHT WIDTH` lines.
pub const WINDOW_SIZE_FIFO: &str = "winsz";
/// In the bundle and in the persist directory: an empty file, there once the kernel killed something for lack of memory.
pub const OOM_FILE: &str = "oom";
/// In the persist directory: the same content as the exit file.
pub const PERSISTED_EXIT_FILE: &str = "exit";

/// The largest height or width a resize may ask for.
pub const WINDOW_SIZE_MAX: u16 = 1000;

// ---------------------------------------------------------------------------------------------------------------------
// Exit file

/// What an exit file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// The exit status; read from an exit file, perhaps 128 + the signal that ended it.
    Status(u8),
    /// The signal that ended it, 1–127.
    Signal(u8),
    /// `-1`: killed by the time-out, or gone without anybody learning how.
    Unknown,
}

impl ExitCode {
    /// Reads the content of an exit file; `None` if it is something else.
    pub fn parse(content: &[u8]) -> Option<ExitCode> {
        let number: i32 = std::str::from_utf8(content.trim_ascii()).ok()?.parse().ok()?;
        match u8::try_from(number) {
            Ok(status) => Some(ExitCode::Status(status)),
            Err(_) if number == -1 => Some(ExitCode::Unknown),
            Err(_) => None,
        }
    }

    /// The number in files and messages: 0–255, or -1.
    pub fn number(self) -> i32 {
        match self {
            ExitCode::Status(status) => i32::from(status),
            ExitCode::Signal(signal) => 128 + i32::from(signal),
            ExitCode::Unknown => -1,
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Control FIFO

/// A control message: open the log file anew. Whatever has been at its path meanwhile, a new file is there afterwards.
pub const REOPEN_LOG: &[u8] = b"2 0 0\n";

/// A control message: the size of the terminal, in character cells, at most [`WINDOW_SIZE_MAX`] each.
pub fn resize(height: u16, width: u16) -> Vec<u8> {
    format!("1 {} {}\n", height.min(WINDOW_SIZE_MAX), width.min(WINDOW_SIZE_MAX)).into_bytes()
}

// ---------------------------------------------------------------------------------------------------------------------
// Log and attach

/// Where output came from. With a terminal everything is `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The word in a log record.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }

    /// The first byte of a packet to an attached client.
    pub fn packet_byte(self) -> u8 {
        match self {
            Stream::Stdout => 2,
            Stream::Stderr => 3,
        }
    }
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Local time with numeric offset, nine digits of a second.
    pub time: &'a [u8],
    pub stream: Stream,
    /// More of the same line follows in the same stream: there was no line feed after `content`.
    pub partial: bool,
    /// Without the line feed; any bytes but that one.
    pub content: &'a [u8],
}

/// Reads one line of a log file, with or without its line feed; `None` if it is no record of a stream we know.
pub fn parse_log_line(line: &[u8]) -> Option<LogRecord<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = fields.next().filter(|time| !time.is_empty())?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = match fields.next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(LogRecord {
        time,
        stream,
        partial,
        content: fields.next()?,
    })
}

/// The largest packet an attached client gets: the stream's byte and up to 8192 bytes of output.
pub const ATTACH_PACKET_BYTES: usize = 8193;

/// Splits a packet from the attach socket into the stream and its bytes.
pub fn parse_attach_packet(packet: &[u8]) -> Option<(Stream, &[u8])> {
    match packet.split_first()? {
        (2, output) => Some((Stream::Stdout, output)),
        (3, output) => Some((Stream::Stderr, output)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_exit_file_is_a_number() {
        assert_eq!(ExitCode::parse(b"0"), Some(ExitCode::Status(0)));
        assert_eq!(ExitCode::parse(b"137\n"), Some(ExitCode::Status(137)));
        assert_eq!(ExitCode::parse(b"-1"), Some(ExitCode::Unknown));
        for content in ["", "x", "256", "-2", "1 2"] {
            assert_eq!(ExitCode::parse(content.as_bytes()), None, "{content}");
        }
    }

    #[test]
    fn a_log_line_has_four_fields() {
        let record = parse_log_line(b"2026-11-21T22:34:57.970319516+00:00 stderr P a b \n").unwrap();
        assert_eq!(
            (record.stream, record.partial, record.content),
            (Stream::Stderr, true, &b"a b "[..])
        );
        assert_eq!(parse_log_line(b"t stdout F \n").unwrap().content, b"");
        for line in ["", "t stdout F", "t stdin F x", "t stdout X x", " stdout F x"] {
            assert_eq!(parse_log_line(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_packet_names_its_stream() {
        assert_eq!(parse_attach_packet(b"\x02hi"), Some((Stream::Stdout, &b"hi"[..])));
        assert_eq!(parse_attach_packet(b"\x03"), Some((Stream::Stderr, &b""[..])));
        assert_eq!(parse_attach_packet(b""), None);
        assert_eq!(parse_attach_packet(b"\x01x"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed_without_harm(bytes: Vec<u8>) {
            let _ = ExitCode::parse(&bytes);
            let _ = parse_log_line(&bytes);
            let _ = parse_attach_packet(&bytes);
        }

        #[test]
        fn a_damaged_record_is_none_or_reads_as_it_stands(
            content in proptest::collection::vec(any::<u8>(), 0..40),
            harms in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_usize..3), 1..4),
        ) {
            let head = b"2026-11-21T22:34:57.970319516+00:00 stderr P ".to_vec();
            let mut line = [head, content].concat();
            for (at, byte, harm) in harms {
                let at = at.index(line.len().max(1)).min(line.len());
                match harm {
                    0 => line.truncate(at),
                    1 => line.insert(at, byte),
                    _ => line.iter_mut().skip(at).take(1).for_each(|place| *place = byte),
                }
            }
            if let Some(record) = parse_log_line(&line) {
                let tag = if record.partial { b"P" } else { b"F" };
                let fields = [record.time, record.stream.name().as_bytes(), tag, record.content];
                prop_assert!(fields.join(&b' ') == line.strip_suffix(b"\n").unwrap_or(&line));
            }
        }
    }
}
