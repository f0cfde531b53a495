//! A pod's user namespace: which ids of the node its users are.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `length` ids of the node from `first` on; inside they are those from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What 0 inside is on the node.
    pub first: u32,
    /// How many, at least 1; the last one is an id too.
    pub length: u32,
}

impl IdRange {
    /// What this id inside is on the node; `None` for one that has no place there.
    pub fn on_node(&self, inside: u32) -> Option<u32> {
        (inside < self.length).then(|| self.first + inside)
    }

    /// As `/proc/<pid>/uid_map` takes it.
    pub fn as_map(&self) -> String {
        format!("0 {} {}\n", self.first, self.length)
    }
}

/// The one range of users and the one of groups that a pod has. More of them no kubelet asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMappings {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// Who a file of ours belongs to, on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// The root of a pod: the node's own where it has no user namespace.
    pub fn root_of(mappings: Option<&UserMappings>) -> Self {
        mappings.map_or_else(Self::default, |mappings| Self {
            uid: mappings.uids.first,
            gid: mappings.gids.first,
        })
    }
}

/// A pod's user namespace as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsers {
    /// The file that it is pinned on.
    pub namespace: PathBuf,
    /// What it was made with.
    pub mappings: UserMappings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_inside_has_one_on_the_node_or_none() {
        let range = IdRange {
            first: 100_000,
            length: 65_536,
        };
        assert_eq!(range.on_node(0), Some(100_000));
        assert_eq!(range.on_node(65_535), Some(165_535));
        assert_eq!(range.on_node(65_536), None);
        assert_eq!(range.as_map(), "0 100000 65536\n");
    }
}
