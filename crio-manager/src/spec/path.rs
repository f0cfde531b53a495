//! A path inside a container, checked once.

use std::fmt;

/// The kernel's limit of a path, with the NUL at its end.
pub const PATH_MAX_BYTES: usize = 4096;

/// An absolute path inside a container without `.`, `..`, double slashes, a slash at its end or NUL.
///
/// Cleaned by the text alone: symlinks of the image are not known here. Whoever opens such a path does it beneath the
/// root filesystem's descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPath(String);

/// Why a text is not a path inside a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("not absolute")]
    NotAbsolute,
    #[error("contains a NUL byte")]
    NulByte,
    #[error("longer than {} bytes", PATH_MAX_BYTES - 1)]
    TooLong,
}

impl ContainerPath {
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// `/a//b/../c/` → `/a/c`; the root's parent is the root.
    pub fn parse(text: &str) -> Result<Self, PathFault> {
        if text.contains('\0') {
            return Err(PathFault::NulByte);
        }
        if text.len() >= PATH_MAX_BYTES {
            return Err(PathFault::TooLong);
        }
        let Some(relative) = text.strip_prefix('/') else {
            return Err(PathFault::NotAbsolute);
        };
        let mut kept: Vec<&str> = Vec::new();
        for part in relative.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    kept.pop();
                }
                name => kept.push(name),
            }
        }
        Ok(Self(format!("/{}", kept.join("/"))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// How many steps below the root.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// Whether this is `ancestor` or lies anywhere beneath it.
    pub fn is_at_or_beneath(&self, ancestor: &str) -> bool {
        match self.0.strip_prefix(ancestor.trim_end_matches('/')) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// Whether the path leads through a process's own doors: its open files, its root or working directory.
    ///
    /// There a path means whatever the process has open, which can be a directory of the node.
    pub fn is_process_door(&self) -> bool {
        let mut parts = self.components();
        match (parts.next(), parts.next(), parts.next()) {
            (Some("proc"), Some(process), Some(_)) => {
                matches!(process, "self" | "thread-self") || process.bytes().all(|b| b.is_ascii_digit())
            }
            // Links to /proc/self/fd and its first three entries.
            (Some("dev"), Some("fd" | "stdin" | "stdout" | "stderr"), _) => true,
            _ => false,
        }
    }
}

impl fmt::Display for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> ContainerPath {
        ContainerPath::parse(text).expect(text)
    }

    #[test]
    fn a_path_is_cleaned_by_its_text() {
        for (text, cleaned) in [
            ("/", "/"),
            ("//", "/"),
            ("/..", "/"),
            ("/../../etc", "/etc"),
            ("/a/./b//c/", "/a/b/c"),
            ("/a/b/../../..//c", "/c"),
            ("/a b/ü", "/a b/ü"),
            ("/...", "/..."),
        ] {
            assert_eq!(path(text).as_str(), cleaned, "{text}");
        }
    }

    #[test]
    fn what_is_no_absolute_path_is_refused() {
        let long = format!("/{}", "x".repeat(PATH_MAX_BYTES));
        for (text, fault) in [
            ("", PathFault::NotAbsolute),
            ("etc", PathFault::NotAbsolute),
            ("./etc", PathFault::NotAbsolute),
            ("/a\0b", PathFault::NulByte),
            (&long, PathFault::TooLong),
        ] {
            assert_eq!(ContainerPath::parse(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn beneath_counts_whole_components() {
        for (text, ancestor, expected) in [
            ("/dev", "/dev", true),
            ("/dev/shm", "/dev", true),
            ("/devices", "/dev", false),
            ("/", "/dev", false),
            ("/dev", "/", true),
            ("/", "/", true),
        ] {
            assert_eq!(
                path(text).is_at_or_beneath(ancestor),
                expected,
                "{text} beneath {ancestor}"
            );
        }
    }

    #[test]
    fn the_doors_of_a_process_are_recognised_however_they_are_written() {
        for text in [
            "/proc/self/fd/7",
            "/proc/self/fd",
            "//proc//self/./fd/7",
            "/usr/../proc/self/fd/3",
            "/proc/1/fd/9/..",
            "/proc/42/root",
            "/proc/self/cwd",
            "/proc/thread-self/fd/8",
            "/proc/self/task/1/fd/8",
            "/dev/fd/5",
            "/dev/fd",
            "/dev/stdin",
        ] {
            assert!(path(text).is_process_door(), "{text}");
        }
        for text in [
            "/",
            "/proc",
            "/proc/sys/kernel",
            "/proc/self",
            "/dev",
            "/dev/shm",
            "/srv/proc/self/fd/7",
        ] {
            assert!(!path(text).is_process_door(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_path_stays_what_it_is(text in "/[a./\\x00ü-]{0,24}") {
            if let Ok(path) = ContainerPath::parse(&text) {
                prop_assert!(path.components().all(|part| part != ".." && part != "."));
                prop_assert_eq!(ContainerPath::parse(path.as_str()), Ok(path.clone()));
                prop_assert!(path.is_at_or_beneath("/"));
            }
        }
    }
}
