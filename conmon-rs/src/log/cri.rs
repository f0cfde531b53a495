//! bytes → `<time> <stream> <P|F> <line>`; reopening after rotation.
//!
//! A record is built whole before it is written and a write that fails half-way is taken back, so readers never see part
//! of one. Whatever happens to the file, `append` returns: a full disk costs output, never supervision.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::{LogPlan, Rotation};
use crate::contract::Stream;
use crate::sys;

/// A longer line becomes several partial records and a last, full one.
pub const RECORD_CONTENT_BYTES: usize = 16 * 1024;

/// Records are gathered until the next one might not fit, and then written.
const GATHER_BYTES: usize = 144 * 1024;

/// The longest record, and what copying it may write beyond its end.
const RECORD_ROOM_BYTES: usize = HEAD_ROOM_BYTES + RECORD_CONTENT_BYTES + 2 * WORD_BYTES;

pub struct CriLog {
    path: PathBuf,
    file: File,
    /// Not a device or the like: may be replaced by a new file.
    regular: bool,
    size_max: u64,
    global_size_max: u64,
    /// Since the last reopening, or the file's size at open.
    size: u64,
    /// Since the beginning.
    total: u64,
    gathered: Gathered,
    clock: Clock,
    /// The file ends in the middle of a record, and that could not be taken back.
    torn: bool,
    /// Since writing last worked.
    lost_bytes: u64,
    /// Since the beginning: of records in the file, and of those that it could not take.
    kept: Kept,
    rotation: Option<Rotation>,
    sync_at_end: bool,
}

impl Rotation {
    /// Whether files may be moved about here. A log that is not there is only made anew where nobody else could have
    /// prepared something, and where the caller allows it.
    fn check(&self, path: &Path) -> io::Result<()> {
        let refuse = |reason: &str| Err(io::Error::other(format!("not rotated: {reason}")));
        if path.components().any(|component| component == Component::ParentDir) {
            return refuse("the path contains ..");
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => return Ok(()),
            Ok(_) => return refuse("it is no regular file"),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let path = std::path::absolute(path)?;
        let Some(directory) = path.parent() else {
            return refuse("it has no directory");
        };
        if fs::metadata(directory)?.mode() & 0o002 != 0 {
            return refuse("everybody may write to its directory");
        }
        let mut allowed = self.allowed_directories.iter();
        if !self.allowed_directories.is_empty() && !allowed.any(|allowed| path.starts_with(allowed)) {
            return refuse("its directory is not allowed");
        }
        Ok(())
    }
}

/// Bytes of records: those in the file, and those that it could not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub logged_bytes: u64,
    pub lost_bytes: u64,
}

impl CriLog {
    /// Opens or creates the file of the plan, if there is to be one.
    pub fn open(plan: LogPlan) -> io::Result<Option<CriLog>> {
        let Some(path) = plan.file else { return Ok(None) };
        let file = options().create(true).open(&path)?;
        let metadata = file.metadata()?;
        let size = if metadata.is_file() { metadata.len() } else { 0 };
        Ok(Some(CriLog {
            path,
            file,
            regular: metadata.is_file(),
            size_max: plan.size_max_bytes.unwrap_or(u64::MAX),
            global_size_max: plan.global_size_max_bytes.unwrap_or(u64::MAX),
            size,
            total: size,
            gathered: Gathered::default(),
            clock: Clock::default(),
            torn: false,
            lost_bytes: 0,
            kept: Kept::default(),
            rotation: plan.rotation,
            sync_at_end: plan.sync_at_end,
        }))
    }

    /// Writes one record for each line of `output`; an unfinished last line becomes a partial record.
    pub fn append(&mut self, stream: Stream, output: &[u8]) {
        let time = self.clock.now();
        let full = record_head(&time, stream, b'F');
        let partial = record_head(&time, stream, b'P');
        let mut rest = output;
        while !rest.is_empty() {
            if self.total >= self.global_size_max {
                break;
            }
            if !self.gathered.has_room() {
                self.write_gathered();
            }
            let begin = self.gathered.length;
            let (taken, ends) = self.gathered.push(&full, rest);
            if !ends {
                self.gathered.make_partial(begin, &partial);
            }
            rest = rest.get(taken..).unwrap_or_default();
            let length = (self.gathered.length - begin) as u64;
            if self.size.saturating_add(length) > self.size_max {
                let record = self.gathered.split_off(begin);
                self.write_gathered();
                self.begin_anew();
                self.gathered.append(&record);
            }
            self.size += length;
            self.total += length;
        }
        self.write_gathered();
    }

    /// Leaves a new, empty file at the path, whoever has renamed the old one. If that is impossible, the old one is
    /// written to as before.
    pub fn reopen(&mut self) {
        if let Err(error) = self.try_reopen() {
            crate::warning!("reopen {}: {error}, going on with the old file", self.path.display());
        }
    }

    fn try_reopen(&mut self) -> io::Result<()> {
        if !self.regular {
            return Ok(()); // there is only one /dev/null
        }
        let aside = match &self.rotation {
            None => self.beside(".tmp"),
            Some(rotation) => {
                rotation.check(&self.path)?;
                self.beside(".new")
            }
        };
        if let Err(error) = fs::remove_file(&aside)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let file = options().create_new(true).open(&aside)?;
        let moved = self.keep_old_files().and_then(|()| fs::rename(&aside, &self.path));
        if let Err(error) = moved {
            let _ = fs::remove_file(&aside); // the first error is the one to tell
            return Err(error);
        }
        self.file = file;
        self.size = 0;
        self.torn = false;
        Ok(())
    }

    /// `.1` becomes `.2` and so on, the log itself `.1`. A log that somebody else has renamed is not kept twice.
    fn keep_old_files(&self) -> io::Result<()> {
        let Some(rotation) = &self.rotation else { return Ok(()) };
        let rename = |from: &Path, to: &Path| match fs::rename(from, to) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        if !self.path.try_exists()? {
            return Ok(());
        }
        for number in (1..rotation.max_files).rev() {
            rename(
                &self.beside(&format!(".{number}")),
                &self.beside(&format!(".{}", number + 1)),
            )?;
        }
        rename(&self.path, &self.beside(".1"))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        PathBuf::from(path)
    }

    /// The size limit: a new file. If that is impossible the old one is emptied, so that the limit holds; but not where
    /// old logs are to be kept.
    fn begin_anew(&mut self) {
        if let Err(error) = self.try_reopen() {
            crate::warning!("reopen {}: {error}, going on with the old file", self.path.display());
            if self.regular && self.rotation.is_none() && self.file.set_len(0).is_ok() {
                self.torn = false;
            }
        }
        self.size = 0;
    }

    /// What became of all that was to be kept.
    pub fn kept(&self) -> Kept {
        self.kept
    }

    /// Waits until the disk has it all, unless the plan says otherwise.
    pub fn sync(&self) {
        if self.regular
            && self.sync_at_end
            && let Err(error) = self.file.sync_all()
        {
            crate::warning!("sync {}: {error}", self.path.display());
        }
    }

    /// Gives back memory that only heavy output needs.
    pub fn trim(&mut self) {
        self.gathered = Gathered::default();
    }

    fn write_gathered(&mut self) {
        let mut rest = self.gathered.records();
        if rest.is_empty() {
            return;
        }
        if self.torn && self.file.write_all(b"\n").is_ok() {
            self.torn = false;
        }
        let mut failure = None;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(written) => rest = rest.get(written.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let unwritten = rest.len();
        self.kept.logged_bytes += (self.gathered.records().len() - unwritten) as u64;
        match failure {
            Some(error) => self.give_up(unwritten, &error),
            None if self.lost_bytes > 0 => {
                crate::warning!(
                    "write {}: works again, {} bytes were lost",
                    self.path.display(),
                    self.lost_bytes
                );
                self.lost_bytes = 0;
            }
            None => {}
        }
        self.gathered.length = 0;
    }

    /// Takes back the part of a record that was still written, and counts what is lost.
    fn give_up(&mut self, unwritten: usize, error: &io::Error) {
        let records = self.gathered.records();
        let written = records.get(..records.len() - unwritten).unwrap_or_default();
        let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let torn = (written.len() - whole) as u64;
        let lost = (records.len() - whole) as u64;
        if self.lost_bytes == 0 {
            crate::warning!("write {}: {error}, output is being lost", self.path.display());
        }
        self.lost_bytes += lost;
        self.kept.lost_bytes += lost;
        self.kept.logged_bytes -= torn;
        self.size = self.size.saturating_sub(lost);
        if torn > 0 && self.take_back(torn).is_err() {
            self.torn = true;
        }
    }

    fn take_back(&self, bytes: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let length = length.checked_sub(bytes).ok_or(ErrorKind::InvalidData)?;
        self.file.set_len(length)
    }
}

/// How every log file is opened. A symbolic link is not followed: the directory may be writable for others than its
/// owner. `O_NONBLOCK` is for a FIFO without a reader.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

/// Time, stream and tag; what is behind its 45 bytes is overwritten by the content.
type RecordHead = [u8; HEAD_ROOM_BYTES];
const HEAD_ROOM_BYTES: usize = 48;
const HEAD_BYTES: usize = 45;
const WORD_BYTES: usize = 8;

fn record_head(time: &TimeText, stream: Stream, tag: u8) -> RecordHead {
    let mut head = [b' '; HEAD_ROOM_BYTES];
    let text = [&time.0[..], b" ", stream.name().as_bytes(), b" ", &[tag]];
    for (place, byte) in head.iter_mut().zip(text.into_iter().flatten()) {
        *place = *byte;
    }
    head
}

/// Records that wait to be written.
#[derive(Default)]
struct Gathered {
    buffer: Vec<u8>,
    length: usize,
}

impl Gathered {
    fn records(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    fn has_room(&self) -> bool {
        self.length + RECORD_ROOM_BYTES <= GATHER_BYTES
    }

    /// Adds a record with the first line of `output`, or the first part of it. Returns how much was taken, and whether
    /// a line ended there. There must be room.
    fn push(&mut self, head: &RecordHead, output: &[u8]) -> (usize, bool) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; GATHER_BYTES];
        }
        let Some(place) = self.buffer.get_mut(self.length..) else {
            return (output.len(), true);
        };
        let Some(head_place) = place.first_chunk_mut() else {
            return (output.len(), true);
        };
        *head_place = *head;
        let (taken, ends) = copy_line(place.get_mut(HEAD_BYTES..).unwrap_or_default(), output);
        self.length += HEAD_BYTES + taken;
        (taken, ends)
    }

    /// Turns the last record, which begins there, into one of a line that has not ended.
    fn make_partial(&mut self, begin: usize, head: &RecordHead) {
        if let Some((place, head)) = self
            .buffer
            .get_mut(begin..begin + HEAD_BYTES)
            .zip(head.get(..HEAD_BYTES))
        {
            place.copy_from_slice(head);
        }
        if let Some(end) = self.buffer.get_mut(self.length) {
            *end = b'\n';
        }
        self.length += 1;
    }

    fn split_off(&mut self, begin: usize) -> Vec<u8> {
        let last = self.buffer.get(begin..self.length).unwrap_or_default().to_vec();
        self.length = begin;
        last
    }

    fn append(&mut self, record: &[u8]) {
        if let Some(place) = self.buffer.get_mut(self.length..self.length + record.len()) {
            place.copy_from_slice(record);
            self.length += record.len();
        }
    }
}

/// Copies up to and with the first line feed, but no more than a record may hold; looks for it on the way, a word at a
/// time. Returns how much was copied, and whether it ends in a line feed. May write a word too much.
fn copy_line(to: &mut [u8], from: &[u8]) -> (usize, bool) {
    const LINE_FEEDS: u64 = u64::from_ne_bytes([b'\n'; WORD_BYTES]);
    const LOW_BITS: u64 = u64::from_ne_bytes([0x01; WORD_BYTES]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; WORD_BYTES]);
    // One more byte than content: the line feed.
    let from = from.get(..=RECORD_CONTENT_BYTES).unwrap_or(from);
    let mut copied = 0;
    let (words, _) = from.as_chunks::<WORD_BYTES>();
    let (places, _) = to.as_chunks_mut::<WORD_BYTES>();
    for (place, word) in places.iter_mut().zip(words) {
        *place = *word;
        let difference = u64::from_le_bytes(*word) ^ LINE_FEEDS;
        let found = difference.wrapping_sub(LOW_BITS) & !difference & HIGH_BITS;
        if found != 0 {
            return (copied + found.trailing_zeros() as usize / 8 + 1, true);
        }
        copied += WORD_BYTES;
    }
    for (place, byte) in to.iter_mut().zip(from).skip(copied) {
        *place = *byte;
        copied += 1;
        if *byte == b'\n' {
            return (copied, true);
        }
    }
    (copied.min(RECORD_CONTENT_BYTES), false)
}

/// `2026-11-21T22:34:57.970319516+00:00`
#[derive(Clone, Copy)]
struct TimeText([u8; 35]);

/// Tells the time, looking up the zone at most once a second.
#[derive(Default)]
struct Clock {
    second: Option<(i64, TimeText)>,
}

impl Clock {
    fn now(&mut self) -> TimeText {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = i64::try_from(now.as_secs()).unwrap_or_default();
        let mut text = match self.second {
            Some((known, text)) if known == second => text,
            _ => {
                let text = whole_second(&sys::local_time(second));
                self.second = Some((second, text));
                text
            }
        };
        if let Some(digits) = text.0.get_mut(20..29) {
            put_digits(digits, now.subsec_nanos());
        }
        text
    }
}

fn whole_second(time: &sys::LocalTime) -> TimeText {
    let mut text = TimeText(*b"0000-00-00T00:00:00.000000000+00:00");
    let offset_minutes = time.offset_seconds.unsigned_abs() / 60;
    let fields = [
        (0..4, time.year.unsigned_abs()),
        (5..7, time.month.unsigned_abs()),
        (8..10, time.day.unsigned_abs()),
        (11..13, time.hour.unsigned_abs()),
        (14..16, time.minute.unsigned_abs()),
        (17..19, time.second.unsigned_abs()),
        (30..32, (offset_minutes / 60) as u32),
        (33..35, (offset_minutes % 60) as u32),
    ];
    for (place, value) in fields {
        if let Some(digits) = text.0.get_mut(place) {
            put_digits(digits, value);
        }
    }
    if time.offset_seconds < 0
        && let Some(sign) = text.0.get_mut(29)
    {
        *sign = b'-';
    }
    text
}

fn put_digits(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::parse_log_line;
    use crate::stdio::Lines;
    use proptest::prelude::*;

    fn plan(file: &Path) -> LogPlan {
        LogPlan {
            file: Some(file.to_owned()),
            ..LogPlan::default()
        }
    }

    fn contents(path: &Path) -> Vec<(bool, Vec<u8>)> {
        let log = fs::read(path).unwrap();
        assert!(log.is_empty() || log.ends_with(b"\n"), "no torn record");
        let lines = log.split_inclusive(|byte| *byte == b'\n');
        let records = lines.map(|line| parse_log_line(line).unwrap());
        records
            .map(|record| (record.partial, record.content.to_vec()))
            .collect()
    }

    fn joined(path: &Path) -> Vec<u8> {
        let mut whole = Vec::new();
        for (partial, content) in contents(path) {
            whole.extend(content);
            if !partial {
                whole.push(b'\n');
            }
        }
        whole
    }

    #[test]
    fn the_time_is_local_with_nine_digits_and_a_numeric_offset() {
        let time = sys::LocalTime {
            year: 2026,
            month: 1,
            day: 2,
            hour: 3,
            minute: 4,
            second: 5,
            offset_seconds: -(3 * 3600 + 30 * 60),
        };
        assert_eq!(&whole_second(&time).0, b"2026-01-02T03:04:05.000000000-03:30");
    }

    #[test]
    fn an_empty_line_keeps_the_space_after_its_tag() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        CriLog::open(plan(&path))
            .unwrap()
            .unwrap()
            .append(Stream::Stderr, b"\n");
        assert!(fs::read(&path).unwrap().ends_with(b" stderr F \n"));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::os::unix::fs::symlink(directory.path().join("target"), &path).unwrap();
        assert!(CriLog::open(plan(&path)).is_err());
        assert!(!directory.path().join("target").exists());
    }

    #[test]
    fn a_device_is_never_replaced() {
        let mut log = CriLog::open(LogPlan {
            size_max_bytes: Some(10),
            ..plan(Path::new("/dev/null"))
        })
        .unwrap()
        .unwrap();
        log.append(Stream::Stdout, b"one\ntwo\n");
        log.reopen();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_full_disk_tears_no_record_and_the_log_goes_on_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = CriLog::open(plan(&path)).unwrap().unwrap();
        log.append(Stream::Stdout, b"first\n");
        // A disk that takes ten more bytes: the same steps, without needing one.
        log.gathered.push(
            &record_head(&TimeText(*b"2026-11-21T22:34:57.970319516+00:00"), Stream::Stdout, b'F'),
            b"second\n",
        );
        let records = log.gathered.records().to_vec();
        log.file.write_all(&records[..10]).unwrap();
        log.give_up(records.len() - 10, &io::Error::from(ErrorKind::StorageFull));
        log.gathered.length = 0;
        log.append(Stream::Stdout, b"third\n");
        assert_eq!(
            contents(&path),
            [(false, b"first".to_vec()), (false, b"third".to_vec())]
        );
    }

    #[test]
    fn a_directory_that_is_gone_keeps_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = CriLog::open(plan(&path)).unwrap().unwrap();
        directory.close().unwrap();
        log.reopen();
        log.append(Stream::Stdout, b"still here\n");
        assert_eq!(log.lost_bytes, 0);
    }

    #[test]
    fn a_line_is_cut_where_a_record_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = CriLog::open(plan(&path)).unwrap().unwrap();
        for (length, expected) in [
            (RECORD_CONTENT_BYTES - 1, vec![(false, RECORD_CONTENT_BYTES - 1)]),
            (RECORD_CONTENT_BYTES, vec![(false, RECORD_CONTENT_BYTES)]),
            (RECORD_CONTENT_BYTES + 1, vec![(true, RECORD_CONTENT_BYTES), (false, 1)]),
        ] {
            log.reopen();
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            log.append(Stream::Stdout, &line);
            let lengths: Vec<_> = contents(&path)
                .into_iter()
                .map(|(partial, content)| (partial, content.len()))
                .collect();
            assert_eq!(lengths, expected);
        }
    }

    proptest! {
        #[test]
        fn a_copied_line_ends_where_it_ended(
            before in proptest::collection::vec(any::<u8>().prop_filter("no line feed", |byte| *byte != b'\n'), 0..100),
            after: Vec<u8>,
        ) {
            let mut from = before.clone();
            from.push(b'\n');
            from.extend(after);
            let mut to = vec![0; from.len() + WORD_BYTES];
            prop_assert_eq!(copy_line(&mut to, &from), (before.len() + 1, true));
            prop_assert_eq!(&to[..=before.len()], &from[..=before.len()]);
            prop_assert_eq!(copy_line(&mut to, &before), (before.len(), false));
            prop_assert_eq!(&to[..before.len()], &before[..]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_cut_of_the_output_into_reads_gives_the_same_content(
            output in proptest::collection::vec(prop_oneof![1 => Just(b'\n'), 8 => any::<u8>()], 0..30_000),
            cuts in proptest::collection::vec((1usize..9000, any::<bool>()), 1..20),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            let mut log = CriLog::open(plan(&path)).unwrap().unwrap();
            let mut lines = Lines::default();
            let mut rest = &output[..];
            for (length, pipe_is_empty) in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let room = lines.room();
                let length = length.min(rest.len()).min(room.len());
                room[..length].copy_from_slice(&rest[..length]);
                rest = &rest[length..];
                log.append(Stream::Stdout, lines.filled(length));
                if pipe_is_empty {
                    log.append(Stream::Stdout, lines.unfinished());
                }
            }
            log.append(Stream::Stdout, lines.unfinished());
            prop_assert_eq!(joined(&path), output);
        }

        #[test]
        fn a_file_exceeds_its_limit_by_at_most_one_record(
            limit in 1u64..2000,
            writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..40),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            let mut log = CriLog::open(LogPlan { size_max_bytes: Some(limit), ..plan(&path) }).unwrap().unwrap();
            for output in &writes {
                log.append(Stream::Stdout, output);
                let records = contents(&path);
                let size = fs::metadata(&path).unwrap().len();
                prop_assert!(size <= limit || records.len() == 1, "{} bytes, {} records", size, records.len());
            }
        }
    }
}
