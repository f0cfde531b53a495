//! Output → whole lines. The end of what was written need not be the end of a line: it is held for a moment.

use std::time::{Duration, Instant};

use memchr::{memchr, memrchr};

use super::record::RECORD_CONTENT_BYTES;

/// How long the beginning of a line waits for the rest. Nobody who follows a log notices, and whoever writes a line in
/// several steps has come to its end.
const HOLD: Duration = Duration::from_millis(100);

/// What one stream has written of a line that has not ended.
#[derive(Default)]
pub struct Lines {
    /// No more than a record may have.
    held: Vec<u8>,
    until: Option<Instant>,
}

impl Lines {
    /// Hands on what is complete: whole lines, and of a line that is too long for a record as many whole records as there
    /// are. However the output is cut into calls, the records are the same.
    pub fn cut(&mut self, output: &[u8], mut ready: impl FnMut(&[u8])) {
        let mut rest = output;
        if !self.held.is_empty() {
            let room = RECORD_CONTENT_BYTES.saturating_sub(self.held.len());
            // One more byte than content: the line feed.
            let next = rest.get(..=room).unwrap_or(rest);
            let end = memchr(b'\n', next);
            let taken = end.map_or(room.min(rest.len()), |at| at + 1);
            let (taken, left) = rest.split_at_checked(taken).unwrap_or((rest, &[]));
            self.held.extend_from_slice(taken);
            rest = left;
            if end.is_none() && rest.is_empty() {
                return;
            }
            ready(&self.held);
            self.held.clear();
        }
        let whole = memrchr(b'\n', rest).map_or(0, |at| at + 1);
        let records = (rest.len() - whole).saturating_sub(1) / RECORD_CONTENT_BYTES;
        let complete = whole + records * RECORD_CONTENT_BYTES;
        let (complete, unfinished) = rest.split_at_checked(complete).unwrap_or((rest, &[]));
        ready(complete);
        self.held.extend_from_slice(unfinished);
        self.until = (!self.held.is_empty()).then(|| Instant::now() + HOLD);
    }

    /// When what is held has waited for long enough.
    pub fn held_until(&self) -> Option<Instant> {
        self.until
    }

    /// Gives back memory that is not in use.
    pub fn trim(&mut self) {
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Hands on what is held. Its memory is given back: there may be no more output for a long time.
    pub fn give_up(&mut self, ready: impl FnOnce(&[u8])) {
        let lines = std::mem::take(self);
        ready(&lines.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is handed on when the output comes in pieces of these lengths.
    fn pieces(output: &[u8], lengths: &[usize]) -> Vec<u8> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut rest = output;
        for length in lengths.iter().cycle() {
            let (piece, left) = rest.split_at(*length.min(&rest.len()));
            lines.cut(piece, |ready| seen.extend(ready));
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(lines.held_until().is_some(), seen.len() < output.len());
        lines.give_up(|held| seen.extend(held));
        seen
    }

    #[test]
    fn a_line_in_two_parts_is_one() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.cut(b"one\ntw", |ready| seen.push(ready.to_vec()));
        lines.cut(b"o\nthree", |ready| seen.push(ready.to_vec()));
        assert_eq!(seen, [&b"one\n"[..], b"two\n", b""]);
        lines.give_up(|held| assert_eq!(held, b"three"));
        assert_eq!(lines.held_until(), None);
    }

    #[test]
    fn no_more_is_held_than_a_record_may_have() {
        let mut lines = Lines::default();
        let mut ready = 0;
        for _ in 0..100 {
            lines.cut(&[b'x'; 1000], |bytes| ready += bytes.len());
            assert!(lines.held.len() <= RECORD_CONTENT_BYTES);
        }
        assert_eq!(ready + lines.held.len(), 100_000);
        assert_eq!(ready % RECORD_CONTENT_BYTES, 0);
    }

    #[test]
    fn a_line_that_just_fits_waits_for_its_line_feed() {
        let mut lines = Lines::default();
        lines.cut(&[b'x'; RECORD_CONTENT_BYTES], |ready| assert_eq!(ready, b""));
        lines.cut(b"\n", |ready| {
            assert!(ready.is_empty() || ready.len() == RECORD_CONTENT_BYTES + 1)
        });
        assert_eq!(lines.held_until(), None);
    }

    /// Output of a few stretches, short ones and some that fill records, each with a line feed at its end or none. A value
    /// for each byte would take longer than what is tested.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let stretch = (
            any::<u8>(),
            prop_oneof![3 => 0_usize..40, 1 => 0_usize..20_000],
            any::<bool>(),
        );
        proptest::collection::vec(stretch, 0..12).prop_map(|stretches| {
            let mut output = Vec::new();
            for (first, length, ends) in stretches {
                let bytes = (first..=u8::MAX).chain(0..first).filter(|byte| *byte != b'\n').cycle();
                output.extend(bytes.take(length).chain(ends.then_some(b'\n')));
            }
            output
        })
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_whole_lines_and_none_is_lost(
            output in output(),
            lengths in proptest::collection::vec(1usize..20_000, 1..10),
        ) {
            prop_assert_eq!(pieces(&output, &lengths), output);
        }
    }
}
