//! What crio-manager may rely on: names, messages and file contents that pass between the monitor and whoever started it.
//!
//! Both ends of each format stand here side by side, so that a test can show they agree. Everything is pure: bytes in,
//! values out. Nothing else of this crate is shared.

use std::fmt;
use std::num::NonZeroU32;

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

/// The message of an exec that outlived its time-out. Readers compare it byte for byte.
pub const TIMED_OUT: &str = "command timed out";

/// A sync message is shorter than this, line feed included: some parents read a packet into 4096 bytes.
pub const SYNC_MESSAGE_LIMIT_BYTES: usize = 4096;

/// The largest height or width a resize may ask for.
pub const WINDOW_SIZE_MAX: u16 = 1000;

// ---------------------------------------------------------------------------------------------------------------------
// Sync pipe

/// The number's name in a sync message: it depends on what the monitor was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKey {
    /// `pid`: create and restore.
    Pid,
    /// `exit_code`: exec.
    ExitCode,
    /// `data`: everything, with `--api-version`.
    Data,
}

impl SyncKey {
    fn name(self) -> &'static str {
        match self {
            SyncKey::Pid => "pid",
            SyncKey::ExitCode => "exit_code",
            SyncKey::Data => "data",
        }
    }
}

/// What the monitor says on the sync pipe without `--api-version`: one message for a create, one for an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncMessage {
    /// The container was created and this is its first process.
    Pid(NonZeroU32),
    /// The command of an exec ended with this status (128 + signal if a signal ended it).
    ExitCode(u8),
    /// An exec took longer than `--timeout`, its runtime's part included, and was killed.
    TimedOut,
    /// There is no container or no command; `message` may be empty.
    Failed { message: String },
}

/// Bytes that are no sync message; most likely the monitor died before it could say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASyncMessage;

impl fmt::Display for NotASyncMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message of the monitor")
    }
}

impl std::error::Error for NotASyncMessage {}

impl SyncMessage {
    /// Reads one message; white space around it is allowed, a second message after it is not.
    pub fn parse(line: &[u8]) -> Result<SyncMessage, NotASyncMessage> {
        let mut json = JsonReader::new(line);
        let mut pid = None;
        let mut exit_code = None;
        let mut message = String::new();
        json.object(|json, key| {
            match key {
                "pid" => pid = Some(json.integer()?),
                "exit_code" => exit_code = Some(json.integer()?),
                "message" => message = json.string()?,
                _ => json.skip_scalar()?,
            }
            Ok(())
        })?;
        match (pid, exit_code) {
            (Some(pid), None) => match u32::try_from(pid).ok().and_then(NonZeroU32::new) {
                Some(pid) => Ok(SyncMessage::Pid(pid)),
                None => Ok(SyncMessage::Failed { message }),
            },
            (None, Some(code)) => match u8::try_from(code) {
                Ok(code) => Ok(SyncMessage::ExitCode(code)),
                Err(_) if message == TIMED_OUT => Ok(SyncMessage::TimedOut),
                Err(_) => Ok(SyncMessage::Failed { message }),
            },
            (Some(_), Some(_)) | (None, None) => Err(NotASyncMessage),
        }
    }
}

/// Writes one sync message, line feed included, always shorter than [`SYNC_MESSAGE_LIMIT_BYTES`] and valid UTF-8.
///
/// Of a message that is too long the end is kept: the last lines hold the error.
pub fn sync_message(key: SyncKey, number: i32, message: &[u8]) -> Vec<u8> {
    let head = format!("{{\"{}\": {number}", key.name());
    let mut line = head.into_bytes();
    if !message.is_empty() {
        line.extend_from_slice(b", \"message\": \"");
        let room = SYNC_MESSAGE_LIMIT_BYTES - 1 - line.len() - "\"}\n".len();
        push_escaped_tail(&mut line, &String::from_utf8_lossy(message), room);
        line.push(b'"');
    }
    line.extend_from_slice(b"}\n");
    line
}

fn push_escaped_tail(line: &mut Vec<u8>, text: &str, room: usize) {
    let mut used = 0;
    let mut start = text.len();
    for (at, character) in text.char_indices().rev() {
        used += escaped(character).len();
        if used > room {
            break;
        }
        start = at;
    }
    for character in text.get(start..).unwrap_or_default().chars() {
        line.extend_from_slice(escaped(character).as_bytes());
    }
}

fn escaped(character: char) -> Escaped {
    let short = |letter| Escaped::new(&[b'\\', letter]);
    match character {
        '"' => short(b'"'),
        '\\' => short(b'\\'),
        '/' => short(b'/'),
        '\n' => short(b'n'),
        '\r' => short(b'r'),
        '\t' => short(b't'),
        '\u{8}' => short(b'b'),
        '\u{c}' => short(b'f'),
        control if control.is_ascii_control() => {
            let hex = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            let byte = control as u8;
            Escaped::new(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 0xf)])
        }
        plain => Escaped::new(plain.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// At most six bytes: the longest escape is `\u007f`.
struct Escaped {
    bytes: [u8; 6],
    length: usize,
}

impl Escaped {
    fn new(text: &[u8]) -> Escaped {
        let mut bytes = [0; 6];
        for (to, from) in bytes.iter_mut().zip(text) {
            *to = *from;
        }
        Escaped {
            bytes,
            length: text.len(),
        }
    }

    fn len(&self) -> usize {
        self.length
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Reads the one shape of JSON that travels here: an object of strings, numbers and words.
pub(crate) struct JsonReader<'a> {
    rest: &'a [u8],
}

pub(crate) type JsonResult<T> = Result<T, NotASyncMessage>;

impl<'a> JsonReader<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> JsonReader<'a> {
        JsonReader { rest }
    }

    pub(crate) fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> JsonResult<()>) -> JsonResult<()> {
        self.expect(b'{')?;
        if !self.accept(b'}') {
            loop {
                let key = self.string()?;
                self.expect(b':')?;
                member(self, &key)?;
                if self.accept(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.skip_space();
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(NotASyncMessage)
        }
    }

    pub(crate) fn integer(&mut self) -> JsonResult<i64> {
        self.optional_integer()?.ok_or(NotASyncMessage)
    }

    /// A number, or `null`.
    pub(crate) fn optional_integer(&mut self) -> JsonResult<Option<i64>> {
        match self.word()? {
            b"null" => Ok(None),
            word => {
                let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
                number.map(Some).ok_or(NotASyncMessage)
            }
        }
    }

    pub(crate) fn boolean(&mut self) -> JsonResult<bool> {
        match self.word()? {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(NotASyncMessage),
        }
    }

    pub(crate) fn skip_scalar(&mut self) -> JsonResult<()> {
        self.skip_space();
        if self.rest.first() == Some(&b'"') {
            self.string().map(drop)
        } else {
            self.word().map(drop)
        }
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> JsonResult<&[u8]> {
        self.skip_space();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        let end = self
            .rest
            .iter()
            .position(|byte| !is_word(byte))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).ok_or(NotASyncMessage)?;
        self.rest = rest;
        if word.is_empty() {
            Err(NotASyncMessage)
        } else {
            Ok(word)
        }
    }

    pub(crate) fn string(&mut self) -> JsonResult<String> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Ok(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => {
                    let character = self.escape()?;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                byte => text.push(byte),
            }
        }
    }

    fn escape(&mut self) -> JsonResult<char> {
        Ok(match self.next()? {
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let unit = self.four_hex_digits()?;
                let low = if (0xd800..0xdc00).contains(&unit) && self.rest.starts_with(b"\\u") {
                    self.next()?;
                    self.next()?;
                    Some(self.four_hex_digits()?)
                } else {
                    None
                };
                let units = [Some(unit), low];
                let mut decoded = char::decode_utf16(units.into_iter().flatten());
                decoded
                    .next()
                    .and_then(Result::ok)
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            literal @ (b'"' | b'\\' | b'/') => char::from(literal),
            _ => return Err(NotASyncMessage),
        })
    }

    fn four_hex_digits(&mut self) -> JsonResult<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = char::from(self.next()?).to_digit(16).ok_or(NotASyncMessage)?;
            unit = unit << 4 | digit as u16;
        }
        Ok(unit)
    }

    fn next(&mut self) -> JsonResult<u8> {
        let (byte, rest) = self.rest.split_first().ok_or(NotASyncMessage)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn accept(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
        found
    }

    fn expect(&mut self, byte: u8) -> JsonResult<()> {
        if self.accept(byte) {
            Ok(())
        } else {
            Err(NotASyncMessage)
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }
}

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

    fn parsed(line: &str) -> Result<SyncMessage, NotASyncMessage> {
        SyncMessage::parse(line.as_bytes())
    }

    fn failed(message: &str) -> Result<SyncMessage, NotASyncMessage> {
        Ok(SyncMessage::Failed {
            message: message.to_owned(),
        })
    }

    #[test]
    fn a_pid_is_read() {
        assert_eq!(
            parsed("{\"pid\": 42}\n"),
            Ok(SyncMessage::Pid(NonZeroU32::new(42).unwrap()))
        );
    }

    #[test]
    fn a_failed_create_carries_its_message() {
        assert_eq!(
            parsed(r#"{"pid": -1, "message": "a \"b\" \/c\n\u00e4\ud83d\ude00"}"#),
            failed("a \"b\" /c\nä😀")
        );
        assert_eq!(parsed(r#"{"pid": -1}"#), failed(""));
    }

    #[test]
    fn only_the_exact_words_mean_a_time_out() {
        assert_eq!(
            parsed(r#"{"exit_code": -1, "message": "command timed out"}"#),
            Ok(SyncMessage::TimedOut)
        );
        assert_eq!(
            parsed(r#"{"exit_code": -1, "message": "Command timed out"}"#),
            failed("Command timed out")
        );
        assert_eq!(parsed(r#"{"exit_code": 137}"#), Ok(SyncMessage::ExitCode(137)));
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        for line in [
            "",
            "{",
            "{}",
            "[]",
            "{\"pid\": }",
            "{\"pid\": 1} x",
            "{\"pid\": 1, \"exit_code\": 1}",
            "{\"data\": 1}",
        ] {
            assert_eq!(parsed(line), Err(NotASyncMessage), "{line}");
        }
    }

    #[test]
    fn a_message_has_the_spacing_that_readers_know() {
        assert_eq!(sync_message(SyncKey::Pid, 7, b""), b"{\"pid\": 7}\n");
        assert_eq!(
            sync_message(SyncKey::Data, -1, b"a/b\x7f"),
            b"{\"data\": -1, \"message\": \"a\\/b\\u007f\"}\n"
        );
    }

    #[test]
    fn of_a_long_message_the_end_is_kept() {
        let mut text = vec![b'x'; 10_000];
        text.extend_from_slice(b"the error\n");
        let line = sync_message(SyncKey::ExitCode, -1, &text);
        assert_eq!(line.len(), SYNC_MESSAGE_LIMIT_BYTES - 1);
        assert!(line.ends_with(b"xthe error\\n\"}\n"));
    }

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
        fn any_failure_comes_back_as_it_was_sent(message: String, key in prop_oneof![Just(SyncKey::Pid), Just(SyncKey::ExitCode)]) {
            prop_assume!(message != TIMED_OUT);
            let line = sync_message(key, -1, message.as_bytes());
            prop_assert_eq!(SyncMessage::parse(&line), Ok(SyncMessage::Failed { message }));
        }

        #[test]
        fn any_bytes_make_a_short_valid_message(message in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let line = sync_message(SyncKey::Pid, -1, &message);
            prop_assert!(line.len() < SYNC_MESSAGE_LIMIT_BYTES);
            prop_assert!(std::str::from_utf8(&line).is_ok());
            let failed = matches!(SyncMessage::parse(&line), Ok(SyncMessage::Failed { .. }));
            prop_assert!(failed);
        }

        #[test]
        fn any_bytes_can_be_parsed_without_harm(bytes: Vec<u8>) {
            let _ = SyncMessage::parse(&bytes);
            let _ = ExitCode::parse(&bytes);
            let _ = parse_log_line(&bytes);
        }
    }
}
