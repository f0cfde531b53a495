//! Entries of systemd's journal, in its own protocol: the line as text has it, and every field by itself.
//!
//! Source: systemd.io/JOURNAL_NATIVE_PROTOCOL, systemd.journal-fields(7), systemd.exec(5) `$JOURNAL_STREAM`.

use std::fmt;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Before the names of our fields: `CRIO_SANDBOX_ID`.
const PREFIX: &str = "CRIO_";

/// The longest value; a datagram holds every field of an entry at this length.
const VALUE_BYTES: usize = 8 << 10;

/// The longest name that the journal takes.
const NAME_BYTES: usize = 64;

/// How long one entry waits for a journal that does not read. Those after it wait for nothing until it reads again.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// Whether this file is the one that `JOURNAL_STREAM` (`device:inode`) says is connected to the journal.
pub fn is_stream(file: impl AsFd, journal_stream: Option<&str>) -> bool {
    let said = journal_stream.and_then(|text| text.split_once(':'));
    let said = said.and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
    let found = rustix::fs::fstat(file).ok().map(|file| (file.st_dev, file.st_ino));
    said.is_some() && said == found
}

/// Sends every event as an entry.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Whether the last entry found no place in time.
    stuck: Mutex<bool>,
    /// Entries that found none since the last one that did.
    lost: AtomicU64,
}

impl Journal {
    /// Sends to the journal on this socket, which may come and go.
    pub fn new(path: &Path) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            stuck: Mutex::new(false),
            lost: AtomicU64::new(0),
        })
    }

    fn send(&self, mut entry: Entry) {
        let lost = self.lost.swap(0, Ordering::SeqCst);
        if lost > 0 {
            entry.put("CRIO_LOST_ENTRIES", &lost.to_string());
        }
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        match self.socket.send_to(&entry.0, &self.path) {
            Ok(_) => {
                if std::mem::replace(&mut *stuck, false) {
                    let _ = self.socket.set_nonblocking(false);
                }
            }
            Err(error) => {
                self.lost.fetch_add(lost + 1, Ordering::SeqCst);
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && !*stuck {
                    *stuck = self.socket.set_nonblocking(true).is_ok();
                }
            }
        }
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut of_event = Fields::default();
        event.record(&mut of_event);
        let mut of_spans = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            // The innermost first: it knows best.
            if let Some(fields) = span.extensions().get::<Fields>() {
                fields
                    .0
                    .iter()
                    .for_each(|(name, value)| of_spans.add(name, value.clone()));
            }
        }
        self.send(entry(event.metadata(), &of_event, &of_spans));
    }
}

/// Fields and their values, each once.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    /// Unless there is one of this name.
    fn add(&mut self, name: &'static str, value: String) {
        if !self.0.iter().any(|(known, _)| *known == name) {
            self.0.push((name, value));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.retain(|(known, _)| *known != field.name());
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// What people read is the message with all that belongs to it; what programs select by are the fields.
fn entry(metadata: &Metadata<'_>, of_event: &Fields, of_spans: &Fields) -> Entry {
    let mut message = String::new();
    let mut entry = Entry::default();
    // Fields by which `log` tells where its event is from are not of the event.
    let own = of_event.0.iter().filter(|(name, _)| !name.starts_with("log."));
    let of_spans = of_spans
        .0
        .iter()
        .filter(|(name, _)| of_event.0.iter().all(|(own, _)| own != name));
    for (name, value) in own.chain(of_spans) {
        if *name == "message" {
            message.insert_str(0, value);
        } else {
            message += &format!(" {name}={value}");
            entry.put(&field_name(name), value);
        }
    }
    entry.put("MESSAGE", message.trim_start());
    entry.put("PRIORITY", priority(*metadata.level()));
    entry.put("SYSLOG_IDENTIFIER", "crio-manager");
    entry.put("CRIO_TARGET", metadata.target());
    entry
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

fn field_name(name: &str) -> String {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    PREFIX.chars().chain(name.chars().map(fit)).take(NAME_BYTES).collect()
}

#[derive(Debug, Default)]
struct Entry(Vec<u8>);

impl Entry {
    fn put(&mut self, name: &str, value: &str) {
        let value = value.get(..value.floor_char_boundary(VALUE_BYTES)).unwrap_or(value);
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn heard(journal: &UnixDatagram) -> String {
        let mut entry = [0; 64 << 10];
        let length = journal.recv(&mut entry).unwrap();
        String::from_utf8_lossy(&entry[..length]).into_owned()
    }

    #[test]
    fn an_entry_has_the_line_and_every_field_of_event_and_spans() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        let log = tracing_subscriber::registry().with(Journal::new(&path).unwrap());
        tracing::subscriber::with_default(log, || {
            let call = tracing::info_span!("call", rpc = "StopContainer", container_id = tracing::field::Empty);
            call.record("container_id", "4f2a");
            let _inside = call.enter();
            tracing::warn!(error = "a\nb", elapsed_ms = 5, "refused");
        });
        let entry = heard(&journal);
        let multiline = String::from_utf8_lossy(b"CRIO_ERROR\n\x03\0\0\0\0\0\0\0a\nb\n").into_owned();
        for part in [
            "CRIO_RPC=StopContainer\n",
            "CRIO_CONTAINER_ID=4f2a\n",
            "CRIO_ELAPSED_MS=5\n",
            "PRIORITY=4\n",
            "SYSLOG_IDENTIFIER=crio-manager\n",
            &multiline,
            "refused error=a\nb elapsed_ms=5 rpc=StopContainer container_id=4f2a\n",
        ] {
            assert!(entry.contains(part), "{part:?} in {entry:?}");
        }
        assert!(!entry.contains("CRIO_MESSAGE"), "{entry:?}");
    }

    #[test]
    fn a_journal_that_is_away_costs_entries_and_says_how_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let log = tracing_subscriber::registry().with(Journal::new(&path).unwrap());
        tracing::subscriber::with_default(log, || {
            tracing::info!("nobody hears");
            tracing::info!("nor this");
            let journal = UnixDatagram::bind(&path).unwrap();
            tracing::info!("there");
            assert!(heard(&journal).contains("CRIO_LOST_ENTRIES=2\n"));
            tracing::info!("still there");
            assert!(!heard(&journal).contains("CRIO_LOST_ENTRIES"));
        });
    }

    #[test]
    fn long_values_and_strange_names_are_cut_to_what_the_journal_takes() {
        let mut entry = Entry::default();
        entry.put("LONG", &"ä".repeat(VALUE_BYTES));
        assert_eq!(entry.0.len(), "LONG=".len() + VALUE_BYTES + 1);
        assert_eq!(field_name("otel.kind-2"), "CRIO_OTEL_KIND_2");
        assert_eq!(field_name(&"x".repeat(100)).len(), NAME_BYTES);
    }

    #[test]
    fn the_stream_is_known_by_device_and_inode() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::tempfile().unwrap();
        let of = file.metadata().unwrap();
        assert!(is_stream(&file, Some(&format!("{}:{}", of.dev(), of.ino()))));
        for not in [None, Some(""), Some("1:x"), Some("0:0")] {
            assert!(!is_stream(&file, not), "{not:?}");
        }
    }
}
