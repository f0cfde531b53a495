//! Good bytes, damaged: what the properties of parsers are fed with, which random bytes would never bring far.

use proptest::prelude::*;
use proptest::sample::Index;

/// One thing that goes wrong on the way.
#[derive(Debug, Clone)]
enum Harm {
    /// A byte is another one.
    Byte(Index, u8),
    /// The rest is missing.
    Cut(Index),
    /// A part is missing.
    Gap(Index, Index),
    /// A part comes twice.
    Again(Index, Index),
    /// Something is in between.
    Junk(Index, Vec<u8>),
    /// A number, as text, that fits no type or is negative.
    Number(Index, &'static str),
}

/// The bytes with up to five harms done to them.
pub fn damaged(good: impl Into<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let good = good.into();
    let numbers = prop::sample::select(vec!["-1", "18446744073709551616", "1e999", "0.5", "null", "[[["]);
    let harm = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Byte(at, byte)),
        any::<Index>().prop_map(Harm::Cut),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Harm::Gap(from, to)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Harm::Again(from, to)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, junk)| Harm::Junk(at, junk)),
        (any::<Index>(), numbers).prop_map(|(at, text)| Harm::Number(at, text)),
    ];
    prop::collection::vec(harm, 1..6).prop_map(move |harms| harms.iter().fold(good.clone(), do_harm))
}

fn do_harm(mut bytes: Vec<u8>, harm: &Harm) -> Vec<u8> {
    let span = |bytes: &[u8], from: &Index, to: &Index| {
        let (one, other) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
        one.min(other)..one.max(other)
    };
    match harm {
        Harm::Byte(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Harm::Byte(..) => {}
        Harm::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
        Harm::Gap(from, to) => {
            bytes.drain(span(&bytes, from, to));
        }
        Harm::Again(from, to) => {
            let part = bytes[span(&bytes, from, to)].to_vec();
            bytes.extend(part);
        }
        Harm::Junk(at, junk) => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, junk.iter().copied());
        }
        Harm::Number(at, text) => {
            // In place of the number that is there, where there is one.
            let from = at.index(bytes.len() + 1);
            let digits = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(from..from + digits, text.bytes());
        }
    }
    bytes
}
