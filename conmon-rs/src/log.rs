//! Where output is kept: in a file, in the journal, in both or nowhere.

pub mod cri;
pub mod journald;

use crate::contract::Stream;
use cri::CriLog;
use journald::Journal;

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

    pub fn reopen(&mut self) {
        if let Some(file) = &mut self.file {
            file.reopen();
        }
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
        if let Some(file) = &self.file {
            file.sync();
        }
    }
}
