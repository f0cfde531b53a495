//! Names of devices in CDI, the Container Device Interface: `vendor/class=device`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name that is read, in bytes.
const NAME_BYTES: usize = 512;

/// A device's full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CdiName {
    kind: String,
    device: String,
}

/// Why a text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not the name of a CDI device, vendor/class=device")]
pub struct NotACdiName {
    /// The beginning of the text.
    name: String,
}

impl CdiName {
    /// Reads `vendor/class=device`.
    pub fn parse(text: &str) -> Result<Self, NotACdiName> {
        let refused = || NotACdiName {
            name: text.chars().take(80).collect(),
        };
        let (kind, device) = text.split_once('=').ok_or_else(refused)?;
        match text.len() <= NAME_BYTES && is_kind(kind) && is_device(device) {
            true => Ok(Self {
                kind: kind.to_owned(),
                device: device.to_owned(),
            }),
            false => Err(refused()),
        }
    }

    /// `vendor/class`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The last part.
    pub fn device(&self) -> &str {
        &self.device
    }
}

/// Whether a text is `vendor/class`.
pub fn is_kind(text: &str) -> bool {
    let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic());
    text.split_once('/')
        .is_some_and(|(vendor, class)| [vendor, class].iter().all(|part| begins(part) && is_part(part, "_-.")))
}

/// Whether a text can be the last part of a name.
pub fn is_device(text: &str) -> bool {
    is_part(text, "_-.:")
}

/// Letters and digits, and inside these others.
fn is_part(text: &str, others: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || others.contains(c))
}

impl fmt::Display for CdiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl TryFrom<String> for CdiName {
    type Error = NotACdiName;

    fn try_from(text: String) -> Result<Self, NotACdiName> {
        Self::parse(&text)
    }
}

impl From<CdiName> for String {
    fn from(name: CdiName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_vendor_a_class_and_a_device() {
        for good in ["vendor.com/gpu=0", "v/c=GPU-1:2.3", "intel.com/a_b-c=all"] {
            assert_eq!(CdiName::parse(good).unwrap().to_string(), good);
        }
        let long = format!("v/c={}", "x".repeat(NAME_BYTES));
        for bad in [
            "", "gpu", "v/c", "v/c=", "=d", "/c=d", "v/=d", "v=d", "1v/c=d", "v/c=-d", "v/c=d.", "v/c/x=d", "v/c=a=b",
            "v/c=../x", "v/c= d", "v\n/c=d", &long,
        ] {
            assert!(CdiName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
