//! What the monitor says on the sync pipe, written and read.

use std::fmt;
use std::num::NonZeroU32;

use super::json::{JsonReader, NotJson};

/// The message of an exec that outlived its time-out. Readers compare it byte for byte.
pub const TIMED_OUT: &str = "command timed out";

/// A sync message is shorter than this, line feed included: some parents read a packet into 4096 bytes.
pub const SYNC_MESSAGE_LIMIT_BYTES: usize = 4096;

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
        let read = json.object(|json, key| {
            match key {
                "pid" => pid = Some(json.integer()?),
                "exit_code" => exit_code = Some(json.integer()?),
                "message" => message = json.string()?,
                _ => json.skip_scalar()?,
            }
            Ok(())
        });
        read.map_err(|NotJson| NotASyncMessage)?;
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
        fn any_bytes_are_a_message_or_none(bytes: Vec<u8>) {
            let _ = SyncMessage::parse(&bytes);
        }
    }
}
