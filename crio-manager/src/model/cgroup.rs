//! Where processes are counted and limited.

use super::ContainerId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where pods go that name no parent.
pub const DEFAULT_PARENT: &str = "/crio";

/// Longest part of a path that the kernel takes, in bytes.
const PART_BYTES: usize = 255;

/// A cgroup below the root, the same in every hierarchy: `/a/b`. Never the root itself, never with `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

/// A text that names no cgroup of this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCgroup {
    /// It names a slice.
    #[error("cgroup parent {0:?} is systemd's syntax, this node uses cgroupfs")]
    SystemdSyntax(String),
    /// It is no path below the root.
    #[error("cgroup parent {parent:?} {reason}")]
    BadParent {
        /// The text.
        parent: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl CgroupPath {
    /// Takes the `cgroup_parent` of a pod, in cgroupfs syntax. An empty one, or the root, is `DEFAULT_PARENT`.
    pub fn parse_parent(parent: &str) -> Result<Self, BadCgroup> {
        let bad = |reason| {
            Err(BadCgroup::BadParent {
                parent: parent.to_owned(),
                reason,
            })
        };
        let trimmed = parent.trim_end_matches('/');
        if trimmed.is_empty() {
            return Ok(Self(DEFAULT_PARENT.to_owned()));
        }
        if trimmed.ends_with(".slice") {
            return Err(BadCgroup::SystemdSyntax(parent.to_owned()));
        }
        let Some(relative) = trimmed.strip_prefix('/') else {
            return bad("is not absolute");
        };
        if relative.chars().any(char::is_control) {
            return bad("has a control character");
        }
        let unfit = |part: &str| matches!(part, "" | "." | "..") || part.len() > PART_BYTES;
        if relative.split('/').any(unfit) {
            return bad("has an empty, relative or too long part");
        }
        Ok(Self(trimmed.to_owned()))
    }

    /// `<parent>/crio-<id>`: a container, or the process of a pod that has one of its own.
    pub fn container(&self, id: &ContainerId) -> Self {
        Self(format!("{}/crio-{id}", self.0))
    }

    /// `<parent>/crio-conmon-<id>`: the monitor of a container.
    pub fn monitor(&self, id: &ContainerId) -> Self {
        Self(format!("{}/crio-conmon-{id}", self.0))
    }

    /// As an OCI runtime takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = BadCgroup;

    fn try_from(text: String) -> Result<Self, BadCgroup> {
        Self::parse_parent(&text)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parents_are_cgroupfs_paths() {
        for (text, parsed) in [
            ("", "/crio"),
            ("/", "/crio"),
            ("/kubepods/burstable/pod1", "/kubepods/burstable/pod1"),
            ("/a/", "/a"),
        ] {
            assert_eq!(CgroupPath::parse_parent(text).unwrap().as_str(), parsed);
        }
        for text in ["a", "a/b", "/../a", "/a/../b", "/a/./b", "//a", "/a//b", "/a\nb"] {
            assert!(
                matches!(CgroupPath::parse_parent(text), Err(BadCgroup::BadParent { .. })),
                "{text:?}"
            );
        }
        let error = CgroupPath::parse_parent("kubepods-pod1.slice").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cgroup parent \"kubepods-pod1.slice\" is systemd's syntax, this node uses cgroupfs"
        );
    }

    #[test]
    fn names_are_those_that_tools_know() {
        let (parent, id) = (
            CgroupPath::parse_parent("/pods/p").unwrap(),
            ContainerId::from_bytes([0x5b; 32]),
        );
        assert_eq!(
            parent.container(&id).as_str(),
            format!("/pods/p/crio-{}", "5b".repeat(32))
        );
        assert_eq!(
            parent.monitor(&id).as_str(),
            format!("/pods/p/crio-conmon-{}", "5b".repeat(32))
        );
    }

    proptest! {
        #[test]
        fn no_parent_leads_out_of_the_hierarchy_or_is_its_root(text in "[/.a-z\\n]{0,16}") {
            if let Ok(path) = CgroupPath::parse_parent(&text) {
                let parts: Vec<_> = path.as_str().split('/').skip(1).collect();
                prop_assert!(!parts.is_empty() && parts.iter().all(|part| !matches!(*part, "" | "." | "..")));
            }
        }
    }
}
