//! Where output is kept: in a file, in the journal, in both or nowhere.

mod clock;
pub mod cri;
pub mod journald;
mod lines;
mod record;
mod rotation;

use std::path::Path;
use std::time::Instant;

use crate::contract::Stream;
use cri::CriLog;
use journald::Journal;

#[derive(Default)]
pub struct Logs {
    pub file: Option<CriLog>,
    pub journal: Option<Journal>,
}

impl Logs {
    pub fn append(&mut self, stream: Stream, output: &[u8]) {
        if let Some(file) = &mut self.file {
            file.append(stream, output);
        }
        if let Some(journal) = &mut self.journal {
            journal.append(stream, output);
        }
    }

    /// When a line that has not ended is to be written all the same.
    pub fn held_until(&self) -> Option<Instant> {
        self.file.as_ref().and_then(CriLog::held_until)
    }

    /// Writes lines that have been held for long enough.
    pub fn give_up_held(&mut self) {
        if let Some(file) = &mut self.file {
            file.give_up_held(Some(Instant::now()));
        }
    }

    pub fn reopen(&mut self) {
        if let Some(file) = &mut self.file {
            file.reopen();
        }
    }

    /// Of the log file.
    pub fn directory(&self) -> Option<&Path> {
        self.file.as_ref().and_then(CriLog::directory)
    }

    /// What became of the output in the log file.
    pub fn kept(&self) -> cri::Kept {
        self.file.as_ref().map(CriLog::kept).unwrap_or_default()
    }

    /// Gives back memory that only heavy output needs.
    pub fn trim(&mut self) {
        if let Some(file) = &mut self.file {
            file.trim();
        }
    }

    /// There is no more: lines that never ended are kept as they are.
    pub fn finish(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.flush();
        }
        if let Some(file) = &mut self.file {
            file.give_up_held(None);
        }
    }

    /// Waits until the disk has it all, unless the plan says otherwise.
    pub fn sync(&self) {
        if let Some(file) = &self.file {
            file.sync();
        }
    }
}
