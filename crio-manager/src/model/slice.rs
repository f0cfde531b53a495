//! The slices of systemd: cgroups by a name that says where they are.

use super::cgroup::BadCgroup;
use std::fmt;

/// Where pods go that name no parent, on a node whose cgroups are systemd's.
pub const DEFAULT_SLICE: &str = "system.slice";

/// Longest name of a unit, in bytes.
const NAME_BYTES: usize = 255;

/// A slice by its name: `a-b.slice` is in `a.slice`. Never the root slice.
///
/// Source: systemd.slice(5), systemd.unit(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice(String);

impl Slice {
    /// Takes the `cgroup_parent` of a pod, in systemd's syntax: a slice, or the whole path to one. An empty one, or the
    /// root, is [`DEFAULT_SLICE`].
    pub fn parse(text: &str) -> Result<Self, BadCgroup> {
        let trimmed = text.trim_end_matches('/');
        if trimmed.is_empty() {
            return Ok(Self(DEFAULT_SLICE.to_owned()));
        }
        let name = trimmed.rsplit('/').next().unwrap_or_default();
        let Some(stem) = name.strip_suffix(".slice") else {
            return Err(BadCgroup::CgroupfsSyntax(text.to_owned()));
        };
        let bad = |reason| {
            Err(BadCgroup::BadSlice {
                slice: text.to_owned(),
                reason,
            })
        };
        if stem == "-" {
            return bad("is the root slice");
        }
        if stem.split('-').any(str::is_empty) {
            return bad("is not named as one: a dash stands between two names");
        }
        if !stem
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\'))
        {
            return bad("is not named as one: a name is made of letters, digits, : - _ . and \\");
        }
        if name.len() > NAME_BYTES {
            return bad("has too long a name");
        }
        let slice = Self(name.to_owned());
        if trimmed.contains('/') && trimmed != slice.path() {
            return bad("is not where systemd has it");
        }
        Ok(slice)
    }

    /// Where its cgroup is, below the root: `/a.slice/a-b.slice`.
    pub fn path(&self) -> String {
        let stem = self.0.strip_suffix(".slice").unwrap_or(&self.0);
        let mut path = String::new();
        for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
            path.push('/');
            path.push_str(stem.get(..end).unwrap_or(stem));
            path.push_str(".slice");
        }
        path
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_lead_to_a_slice() {
        for (text, path) in [
            ("", "/system.slice"),
            ("/", "/system.slice"),
            ("a.slice", "/a.slice"),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
            ("/a.slice/a-b.slice", "/a.slice/a-b.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
        ] {
            assert_eq!(Slice::parse(text).unwrap().path(), path, "{text}");
        }
    }

    #[test]
    fn what_is_no_slice_is_refused_with_the_reason() {
        for (text, reason) in [
            ("/kubepods/pod1", "it takes a slice"),
            ("pod1", "it takes a slice"),
            ("a.scope", "it takes a slice"),
            ("-.slice", "root slice"),
            (".slice", "a dash stands"),
            ("-a.slice", "a dash stands"),
            ("a-.slice", "a dash stands"),
            ("a--b.slice", "a dash stands"),
            ("a b.slice", "made of letters"),
            ("a@b.slice", "made of letters"),
            ("a\nb.slice", "made of letters"),
            ("../a.slice", "not where systemd has it"),
            ("/a.slice/b.slice", "not where systemd has it"),
        ] {
            let error = Slice::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        let long = format!("{}.slice", "a".repeat(250));
        assert!(Slice::parse(&long).unwrap_err().to_string().contains("too long"));
    }
}
