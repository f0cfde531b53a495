//! The monitor's own words: to stderr while somebody may still read it, and to syslog where asked.

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

/// How much the monitor says; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Reads a `--log-level`, in any case.
    pub fn parse(name: &[u8]) -> Option<Level> {
        Some(match name.to_ascii_lowercase().as_slice() {
            b"error" | b"fatal" | b"panic" => Level::Error,
            b"warn" | b"warning" => Level::Warning,
            b"info" => Level::Info,
            b"debug" => Level::Debug,
            b"trace" => Level::Trace,
            _ => return None,
        })
    }

    fn letter(self) -> char {
        match self {
            Level::Error => 'e',
            Level::Warning => 'w',
            Level::Info => 'i',
            Level::Debug | Level::Trace => 'd',
        }
    }

    fn syslog_word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "pwarn",
            Level::Info => "ninfo",
            Level::Debug => "ndebug",
            Level::Trace => "ntrace",
        }
    }
}

struct Voice {
    level: Level,
    /// What every syslog line begins with: the start of the container id, and the tag. `None`: no syslog.
    syslog_subject: Option<String>,
}

static VOICE: OnceLock<Voice> = OnceLock::new();

/// Says what to say and where; before it is called, warnings and errors go to stderr.
pub fn configure(level: Level, syslog_subject: Option<String>) {
    let _ = VOICE.set(Voice { level, syslog_subject }); // a second call changes nothing
}

/// Says one line. It never blocks and never fails.
pub fn say(level: Level, text: fmt::Arguments<'_>) {
    let voice = VOICE.get();
    if level > voice.map_or(Level::Warning, |voice| voice.level) {
        return;
    }
    let line = format!("[conmon:{}]: {text}\n", level.letter());
    let _ = std::io::stderr().write_all(line.as_bytes()); // nobody may be listening
    if let Some(subject) = voice.and_then(|voice| voice.syslog_subject.as_deref()) {
        to_syslog(level, subject, text);
    }
}

fn to_syslog(level: Level, subject: &str, text: fmt::Arguments<'_>) {
    const USER_ERROR: u8 = (1 << 3) | 3;
    const USER_INFO: u8 = (1 << 3) | 6;
    let priority = if level == Level::Error { USER_ERROR } else { USER_INFO };
    let line = format!("<{priority}>conmon: conmon {subject} <{}>: {text}", level.syslog_word());
    let Ok(socket) = UnixDatagram::unbound() else { return };
    // A logger that is stuck must not stop us.
    if socket.set_nonblocking(true).is_ok() {
        let _ = socket.send_to(line.as_bytes(), "/dev/log");
    }
}

/// The operator must look.
#[macro_export]
macro_rules! error {
    ($($text:tt)*) => { $crate::messages::say($crate::messages::Level::Error, format_args!($($text)*)) };
}

/// Something went wrong and the monitor went on.
#[macro_export]
macro_rules! warning {
    ($($text:tt)*) => { $crate::messages::say($crate::messages::Level::Warning, format_args!($($text)*)) };
}

/// A step that may explain what follows.
#[macro_export]
macro_rules! debug {
    ($($text:tt)*) => { $crate::messages::say($crate::messages::Level::Debug, format_args!($($text)*)) };
}

/// What only whoever looks for a mistake wants to know.
#[macro_export]
macro_rules! trace {
    ($($text:tt)*) => { $crate::messages::say($crate::messages::Level::Trace, format_args!($($text)*)) };
}

/// The text of a system error as C programs print it, without Rust's "(os error 2)".
pub fn errno_text(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(" (os error") {
        text.truncate(end);
    }
    text
}
