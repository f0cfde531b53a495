//! Lines → records, gathered in one buffer until they are written together.

use memchr::memchr;

use super::clock::TimeText;
use crate::contract::Stream;

/// A longer line becomes several partial records and a last, full one.
pub const RECORD_CONTENT_BYTES: usize = 16 * 1024;

/// Records are gathered until the next one might not fit, and then written.
const GATHER_BYTES: usize = 400 * 1024;

/// The longest record.
const RECORD_ROOM_BYTES: usize = HEAD_BYTES + RECORD_CONTENT_BYTES + 1;

/// Time, stream and tag.
pub type RecordHead = [u8; HEAD_BYTES];
const HEAD_BYTES: usize = 45;

pub fn record_head(time: &TimeText, stream: Stream, tag: u8) -> RecordHead {
    let mut head = [b' '; HEAD_BYTES];
    let text = [&time.0[..], b" ", stream.name().as_bytes(), b" ", &[tag]];
    for (place, byte) in head.iter_mut().zip(text.into_iter().flatten()) {
        *place = *byte;
    }
    head
}

/// Records that wait to be written.
#[derive(Default)]
pub struct Gathered {
    buffer: Vec<u8>,
    length: usize,
}

impl Gathered {
    pub fn records(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    pub fn length(&self) -> usize {
        self.length
    }

    pub fn clear(&mut self) {
        self.length = 0;
    }

    pub fn has_room(&self) -> bool {
        self.length + RECORD_ROOM_BYTES <= GATHER_BYTES
    }

    /// Adds a record with the first line of `output`, or the first part of it. Returns how much was taken, and whether
    /// a line ended there. There must be room.
    pub fn push(&mut self, head: &RecordHead, output: &[u8]) -> (usize, bool) {
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
    pub fn make_partial(&mut self, begin: usize, head: &RecordHead) {
        if let Some(place) = self.buffer.get_mut(begin..begin + HEAD_BYTES) {
            place.copy_from_slice(head);
        }
        if let Some(end) = self.buffer.get_mut(self.length) {
            *end = b'\n';
        }
        self.length += 1;
    }

    pub fn split_off(&mut self, begin: usize) -> Vec<u8> {
        let last = self.buffer.get(begin..self.length).unwrap_or_default().to_vec();
        self.length = begin;
        last
    }

    pub fn append(&mut self, record: &[u8]) {
        if let Some(place) = self.buffer.get_mut(self.length..self.length + record.len()) {
            place.copy_from_slice(record);
            self.length += record.len();
        }
    }
}

/// Copies up to and with the first line feed, but no more than a record may hold. Returns how much was copied, and
/// whether it ends in a line feed.
fn copy_line(to: &mut [u8], from: &[u8]) -> (usize, bool) {
    // One more byte than content: the line feed.
    let end = memchr(b'\n', from.get(..=RECORD_CONTENT_BYTES).unwrap_or(from));
    let length = end.map_or(from.len().min(RECORD_CONTENT_BYTES), |at| at + 1);
    if let Some((to, from)) = to.get_mut(..length).zip(from.get(..length)) {
        to.copy_from_slice(from);
    }
    (length, end.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_copied_line_ends_where_it_ended(
            before in proptest::collection::vec(any::<u8>().prop_filter("no line feed", |byte| *byte != b'\n'), 0..100),
            after: Vec<u8>,
        ) {
            let mut from = before.clone();
            from.push(b'\n');
            from.extend(after);
            let mut to = vec![0; from.len()];
            prop_assert_eq!(copy_line(&mut to, &from), (before.len() + 1, true));
            prop_assert_eq!(&to[..=before.len()], &from[..=before.len()]);
            prop_assert_eq!(copy_line(&mut to, &before), (before.len(), false));
            prop_assert_eq!(&to[..before.len()], &before[..]);
        }
    }
}
