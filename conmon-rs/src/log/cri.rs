//! bytes → `<time> <stream> <P|F> <line>`; reopening after rotation.
//!
//! A record is built whole before it is written and a write that fails half-way is taken back, so readers never see part
//! of one. Whatever happens to the file, `append` returns: a full disk costs output, never supervision.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::clock::Clock;
use super::lines::Lines;
use super::record::{Gathered, record_head};
use super::rotation;
use crate::args::{LogPlan, Rotation};
use crate::contract::Stream;

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
    stdout: Lines,
    stderr: Lines,
    /// The file ends in the middle of a record, and that could not be taken back.
    torn: bool,
    /// Since writing last worked.
    lost_bytes: u64,
    /// Since the beginning: of records in the file, and of those that it could not take.
    kept: Kept,
    rotation: Option<Rotation>,
    sync_at_end: bool,
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
            stdout: Lines::default(),
            stderr: Lines::default(),
            torn: false,
            lost_bytes: 0,
            kept: Kept::default(),
            rotation: plan.rotation,
            sync_at_end: plan.sync_at_end,
        }))
    }

    /// Writes one record for each line that ends in `output`; what has not ended is held for `HOLD`.
    pub fn append(&mut self, stream: Stream, output: &[u8]) {
        let mut lines = std::mem::take(self.lines(stream));
        lines.cut(output, |ready| self.record(stream, ready));
        *self.lines(stream) = lines;
        self.write_gathered();
    }

    /// When a line has been held for long enough, whatever stream it is of.
    pub fn held_until(&self) -> Option<Instant> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .filter_map(Lines::held_until)
            .min()
    }

    /// Writes lines that have not ended as partial records: those that have been held for long enough, or all.
    pub fn give_up_held(&mut self, by: Option<Instant>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut lines = std::mem::take(self.lines(stream));
            if by.is_none_or(|by| lines.held_until().is_some_and(|until| until <= by)) {
                lines.give_up(|held| self.record(stream, held));
            }
            *self.lines(stream) = lines;
        }
        self.write_gathered();
    }

    fn lines(&mut self, stream: Stream) -> &mut Lines {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Gathers one record for each line; an unfinished last line becomes a partial record.
    fn record(&mut self, stream: Stream, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let time = self.clock.now();
        let full = record_head(&time, stream, b'F');
        let partial = record_head(&time, stream, b'P');
        let mut rest = lines;
        while !rest.is_empty() && self.total < self.global_size_max {
            if !self.gathered.has_room() {
                self.write_gathered();
            }
            let begin = self.gathered.length();
            let (taken, ends) = self.gathered.push(&full, rest);
            if !ends {
                self.gathered.make_partial(begin, &partial);
            }
            rest = rest.get(taken..).unwrap_or_default();
            let length = (self.gathered.length() - begin) as u64;
            if self.size.saturating_add(length) > self.size_max {
                let record = self.gathered.split_off(begin);
                self.write_gathered();
                self.begin_anew();
                self.gathered.append(&record);
            }
            self.size += length;
            self.total += length;
        }
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
        self.file = rotation::replace(&self.path, self.rotation.as_ref())?;
        self.size = 0;
        self.torn = false;
        Ok(())
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

    /// If other files may be there too.
    pub fn directory(&self) -> Option<&Path> {
        self.path.parent().filter(|_| self.regular)
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
        self.stdout.trim();
        self.stderr.trim();
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
        self.gathered.clear();
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
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::parse_log_line;
    use crate::log::clock::TimeText;
    use crate::log::record::RECORD_CONTENT_BYTES;
    use proptest::prelude::*;
    use std::fs;

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
        log.gathered.clear();
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
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_cut_of_the_output_into_reads_gives_the_same_log(
            output in proptest::collection::vec(prop_oneof![1 => Just(b'\n'), 9 => any::<u8>()], 0..30_000),
            long_line in 0usize..50_000,
            cuts in proptest::collection::vec(1usize..9000, 1..20),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let output = [output, vec![b'x'; long_line], b"\nend".to_vec()].concat();
            let log = |name: &str, cuts: &[usize]| {
                let path = directory.path().join(name);
                let mut log = CriLog::open(plan(&path)).unwrap().unwrap();
                let mut rest = &output[..];
                for length in cuts.iter().cycle() {
                    let (piece, left) = rest.split_at(*length.min(&rest.len()));
                    log.append(Stream::Stdout, piece);
                    rest = left;
                    if rest.is_empty() {
                        break;
                    }
                }
                log.give_up_held(None);
                path
            };
            let whole = log("whole", &[output.len()]);
            prop_assert_eq!(contents(&log("cut", &cuts)), contents(&whole));
            prop_assert!(joined(&whole) == output);
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
