//! Names of objects that nobody can mix up.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

/// Marks ids of pod sandboxes.
#[derive(Debug)]
pub enum Sandbox {}
/// Marks ids of containers.
#[derive(Debug)]
pub enum Container {}

/// A pod sandbox on this node.
pub type SandboxId = Id<Sandbox>;
/// A container on this node.
pub type ContainerId = Id<Container>;

/// Hexadecimal digits in an id.
pub const ID_LENGTH: usize = 64;

/// One object on this node: 64 lowercase hex digits. A `SandboxId` where a `ContainerId` belongs does not compile.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id<T> {
    hex: Arc<str>,
    kind: PhantomData<fn() -> T>,
}

/// A string that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is {ID_LENGTH} lowercase hexadecimal digits, got {length} bytes")]
pub struct NotAnId {
    length: usize,
}

impl<T> Id<T> {
    /// A new id from 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            hex: hex.into(),
            kind: PhantomData,
        }
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.hex
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        self.hex.get(..12).unwrap_or(&self.hex)
    }

    /// The same digits as the id of another kind of object: a pod's own process is a container to the OCI runtime.
    pub fn cast<U>(&self) -> Id<U> {
        Id {
            hex: self.hex.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> std::str::FromStr for Id<T> {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digits = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() == ID_LENGTH && digits {
            Ok(Self {
                hex: text.into(),
                kind: PhantomData,
            })
        } else {
            Err(NotAnId { length: text.len() })
        }
    }
}

impl<T> TryFrom<String> for Id<T> {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

impl<T> From<Id<T>> for String {
    fn from(id: Id<T>) -> Self {
        id.hex.as_ref().to_owned()
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        Self {
            hex: self.hex.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hex == other.hex
    }
}

impl<T> Eq for Id<T> {}

impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hex.hash(state);
    }
}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.hex.cmp(&other.hex)
    }
}

// Equality, order and hash are those of the digits, as this needs.
impl<T> std::borrow::Borrow<str> for Id<T> {
    fn borrow(&self) -> &str {
        &self.hex
    }
}

impl<T> fmt::Display for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex)
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_64_lowercase_hex_digits_and_nothing_else() {
        let id = SandboxId::from_bytes([0xab; 32]);
        assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id);
        for bad in [
            "",
            "..",
            "/",
            "abc",
            &"A".repeat(64),
            &"g".repeat(64),
            &"a".repeat(65),
            &"a".repeat(10_000),
        ] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_the_same(text in "[0-9a-f]{60,68}|.*") {
            if let Ok(id) = text.parse::<ContainerId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
