//! Sizes of a client's terminal: JSON objects one after the other, cut anywhere.

use crate::drivers::seams::Input;
use serde::Deserialize;

/// An object is far shorter. More without one is not a size.
const OBJECT_BYTES: usize = 1024;

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Takes sizes out of bytes as they come.
#[derive(Default)]
pub(super) struct Sizes {
    rest: Vec<u8>,
}

impl Sizes {
    /// The last size that is whole with these bytes; a zero in it is no size. What is no JSON is dropped.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<Input> {
        self.rest.extend_from_slice(bytes);
        let mut objects = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Size>();
        let mut last = None;
        let keep = loop {
            match objects.next() {
                Some(Ok(size)) if size.width > 0 && size.height > 0 => last = Some(size),
                Some(Ok(_)) => {}
                Some(Err(error)) if error.is_eof() => break self.rest.len() - objects.byte_offset() <= OBJECT_BYTES,
                Some(Err(_)) => break false,
                None => break false,
            }
        };
        let taken = objects.byte_offset();
        if keep {
            self.rest.drain(..taken);
        } else {
            self.rest.clear();
        }
        last.map(|Size { width, height }| Input::Resize { width, height })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_whole_size_wins_wherever_it_is_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":30}\n";
        for cut in 0..text.len() {
            let mut sizes = Sizes::default();
            let first = sizes.take(&text[..cut]);
            let second = sizes.take(&text[cut..]);
            let last = second.or(first);
            assert_eq!(last, Some(Input::Resize { width: 100, height: 30 }), "cut at {cut}");
        }
    }

    #[test]
    fn zero_and_nonsense_are_no_size() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.take(b"{\"Width\":0,\"Height\":24}"), None);
        assert_eq!(sizes.take(b"{\"Width\":70000,\"Height\":24}"), None);
        assert_eq!(sizes.take(b"nonsense"), None);
        assert!(sizes.take(b"{\"Width\":1,\"Height\":2}").is_some());
    }

    proptest! {
        #[test]
        fn memory_stays_flat_whatever_comes(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut sizes = Sizes::default();
            for piece in &pieces {
                sizes.take(piece);
                prop_assert!(sizes.rest.len() <= OBJECT_BYTES + 300);
            }
        }
    }
}
