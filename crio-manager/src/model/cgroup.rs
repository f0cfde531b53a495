//! Where processes are counted and limited.

use super::ContainerId;
use super::slice::Slice;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where pods go that name no parent.
pub const DEFAULT_PARENT: &str = "/crio";

/// How systemd's units are told apart.
const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";

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
    /// It is a path where a slice is asked for.
    #[error("cgroup parent {0:?} is a path, this node uses systemd: it takes a slice, such as \"kubepods-pod1.slice\"")]
    CgroupfsSyntax(String),
    /// It is no slice that systemd would take.
    #[error("slice {slice:?} {reason}")]
    BadSlice {
        /// The text.
        slice: String,
        /// What is wrong with it.
        reason: &'static str,
    },
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
        if parent.trim_end_matches('/').ends_with(SLICE) {
            return Err(BadCgroup::SystemdSyntax(parent.to_owned()));
        }
        Self::parse(parent)
    }

    fn parse(text: &str) -> Result<Self, BadCgroup> {
        let bad = |reason| {
            Err(BadCgroup::BadParent {
                parent: text.to_owned(),
                reason,
            })
        };
        let trimmed = text.trim_end_matches('/');
        if trimmed.is_empty() {
            return Ok(Self(DEFAULT_PARENT.to_owned()));
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

    /// The parent that a container has in the form that [`CgroupPath::container_for_runtime`] gives.
    pub fn parent_for_runtime(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some((slice, _)) => Slice::parse(slice).ok().map(|slice| Self::from(&slice)),
            None => Self::parse_parent(text.rsplit_once('/')?.0).ok(),
        }
    }

    /// `<parent>/crio-<id>`, in a slice `<slice>/crio-<id>.scope`: a container, or the process of a pod that has one of
    /// its own.
    pub fn container(&self, id: &ContainerId) -> Self {
        self.child("crio", id)
    }

    /// `<parent>/crio-conmon-<id>`, in a slice `<slice>/crio-conmon-<id>.scope`: the monitor of a container.
    pub fn monitor(&self, id: &ContainerId) -> Self {
        self.child("crio-conmon", id)
    }

    fn child(&self, prefix: &str, id: &ContainerId) -> Self {
        let suffix = if self.slice_name().is_some() { SCOPE } else { "" };
        Self(format!("{}/{prefix}-{id}{suffix}", self.0))
    }

    /// A container as an OCI runtime takes it: a path, or `slice:prefix:name` for a scope.
    pub fn container_for_runtime(&self, id: &ContainerId) -> String {
        match self.slice_name() {
            Some(slice) => format!("{slice}:crio:{id}"),
            None => self.container(id).0,
        }
    }

    /// The slice that it is.
    pub fn slice_name(&self) -> Option<&str> {
        self.0.rsplit('/').next().filter(|last| last.ends_with(SLICE))
    }

    /// The scope that it is, or is inside of, and its slice.
    pub fn scope(&self) -> Option<Scope> {
        let parts: Vec<&str> = self.0.split('/').collect();
        let at = parts.iter().rposition(|part| part.ends_with(SCOPE))?;
        let slice = parts.get(..at)?.last().filter(|part| part.ends_with(SLICE))?;
        Some(Scope {
            unit: (*parts.get(at)?).to_owned(),
            slice: (*slice).to_owned(),
            cgroup: Self(parts.get(..=at)?.join("/")),
        })
    }

    /// A cgroup of this name in it.
    pub fn leaf(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }

    /// As an OCI runtime takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A unit of systemd's around processes that systemd did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `crio-conmon-<id>.scope`.
    pub unit: String,
    /// The slice that it is in.
    pub slice: String,
    /// Where its processes are.
    pub cgroup: CgroupPath,
}

impl From<&Slice> for CgroupPath {
    fn from(slice: &Slice) -> Self {
        Self(slice.path())
    }
}

/// From a record, of either driver's.
impl TryFrom<String> for CgroupPath {
    type Error = BadCgroup;

    fn try_from(text: String) -> Result<Self, BadCgroup> {
        Self::parse(&text)
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

    #[test]
    fn in_a_slice_they_are_scopes() {
        let id = ContainerId::from_bytes([0x5b; 32]);
        let parent = CgroupPath::from(&Slice::parse("pods-p.slice").unwrap());
        let hex = "5b".repeat(32);
        assert_eq!(
            parent.container(&id).as_str(),
            format!("/pods.slice/pods-p.slice/crio-{hex}.scope")
        );
        let runtimes = parent.container_for_runtime(&id);
        assert_eq!(runtimes, format!("pods-p.slice:crio:{hex}"));
        assert_eq!(CgroupPath::parent_for_runtime(&runtimes), Some(parent.clone()));
        let scope = parent.monitor(&id).scope().unwrap();
        assert_eq!(
            (scope.unit.as_str(), scope.slice.as_str()),
            (format!("crio-conmon-{hex}.scope").as_str(), "pods-p.slice")
        );
        assert_eq!(parent.monitor(&id).leaf("a").scope(), Some(scope));
        assert_eq!(parent.scope(), None);

        let record = serde_json::to_string(&parent).unwrap();
        assert_eq!(serde_json::from_str::<CgroupPath>(&record).unwrap(), parent);
        let path = CgroupPath::parse_parent("/pods").unwrap();
        assert_eq!(path.monitor(&id).scope(), None);
        let runtimes = path.container_for_runtime(&id);
        assert_eq!(CgroupPath::parent_for_runtime(&runtimes), Some(path));
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
