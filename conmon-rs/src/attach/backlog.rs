//! What a client has not taken yet: the first of it in memory, the rest in a file that only we know.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{FallocateFlags, fallocate};

/// What is kept in memory.
pub const MEMORY_BYTES: usize = 256 * 1024;

/// What is kept in a file. Who is further behind has to look at the log.
const FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// What is read is given back to the file system in steps of this.
const STEP_BYTES: u64 = 1024 * 1024;

/// Packets, in order.
#[derive(Default)]
pub struct Backlog {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    overflow: Option<Overflow>,
    /// When the client took a packet last, or had everything.
    progress: Option<Instant>,
}

impl Backlog {
    /// `directory` is where there may be a file for what does not fit into memory; without one everything is kept there.
    pub fn push(&mut self, packet: Vec<u8>, directory: Option<&Path>) -> io::Result<()> {
        self.progress.get_or_insert_with(Instant::now);
        if let Some(overflow) = &mut self.overflow {
            return overflow.push(&packet);
        }
        if let Some(directory) = directory
            && self.bytes + packet.len() > MEMORY_BYTES
        {
            return self.overflow.insert(Overflow::create(directory)?).push(&packet);
        }
        self.keep(packet);
        Ok(())
    }

    fn keep(&mut self, packet: Vec<u8>) {
        self.bytes += packet.len();
        self.packets.push_back(packet);
    }

    pub fn first(&self) -> Option<&[u8]> {
        self.packets.front().map(Vec::as_slice)
    }

    /// The first has been sent.
    pub fn pop(&mut self) {
        self.progress = Some(Instant::now());
        if let Some(packet) = self.packets.pop_front() {
            self.bytes -= packet.len();
        }
        while self.bytes < MEMORY_BYTES / 2
            && let Some(overflow) = &mut self.overflow
        {
            match overflow.take() {
                Ok(Some(packet)) => self.keep(packet),
                Ok(None) => self.overflow = None,
                Err(error) => {
                    crate::warning!("backlog of an attached client: {error}");
                    self.overflow = None;
                }
            }
        }
        if self.packets.is_empty() {
            *self = Backlog::default();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Of what is in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when the client has not taken anything, if there is something to be taken.
    pub fn idle_since(&self) -> Option<Instant> {
        self.progress
    }
}

/// Packets in a file without a name: each with its length before it.
struct Overflow {
    file: File,
    begin: u64,
    end: u64,
    /// Up to here the file system has its space back.
    released: u64,
}

const LENGTH_BYTES: usize = 4;

impl Overflow {
    fn create(directory: &Path) -> io::Result<Overflow> {
        let path = directory.join(format!(".attach-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Overflow {
            file,
            begin: 0,
            end: 0,
            released: 0,
        })
    }

    fn push(&mut self, packet: &[u8]) -> io::Result<()> {
        if self.end - self.begin > FILE_BYTES {
            return Err(io::Error::other("it does not read"));
        }
        let length = u32::try_from(packet.len()).map_err(io::Error::other)?;
        let record = [&length.to_ne_bytes(), packet].concat();
        self.file.write_all_at(&record, self.end)?;
        self.end += record.len() as u64;
        Ok(())
    }

    fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.begin == self.end {
            return Ok(None);
        }
        let mut length = [0; LENGTH_BYTES];
        self.file.read_exact_at(&mut length, self.begin)?;
        let mut packet = vec![0; u32::from_ne_bytes(length) as usize];
        self.file.read_exact_at(&mut packet, self.begin + LENGTH_BYTES as u64)?;
        self.begin += (LENGTH_BYTES + packet.len()) as u64;
        if self.begin - self.released >= STEP_BYTES {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&self.file, flags, self.released, self.begin - self.released); // not all can
            self.released = self.begin;
        }
        Ok(Some(packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn packets_come_out_as_they_went_in_however_many_wait(
            steps in proptest::collection::vec((1usize..60_000, 0usize..4), 1..60),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut backlog = Backlog::default();
            let mut waiting = VecDeque::new();
            for (number, (length, taken)) in steps.into_iter().enumerate() {
                let packet = vec![number as u8; length];
                backlog.push(packet.clone(), Some(directory.path())).unwrap();
                waiting.push_back(packet);
                for _ in 0..taken {
                    prop_assert_eq!(backlog.first(), waiting.front().map(Vec::as_slice));
                    if waiting.pop_front().is_some() {
                        backlog.pop();
                    }
                }
                prop_assert!(backlog.bytes() <= MEMORY_BYTES + 60_000);
                prop_assert_eq!(backlog.idle_since().is_some(), !waiting.is_empty());
            }
            while let Some(packet) = waiting.pop_front() {
                prop_assert_eq!(backlog.first(), Some(packet.as_slice()));
                backlog.pop();
            }
            prop_assert!(backlog.is_empty());
            prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error() {
        let mut backlog = Backlog::default();
        let nowhere = Path::new("/nonexistent");
        backlog.push(vec![0; MEMORY_BYTES], Some(nowhere)).unwrap();
        assert!(backlog.push(vec![0], Some(nowhere)).is_err());
    }
}
