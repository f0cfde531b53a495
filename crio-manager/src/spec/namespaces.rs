//! What the container shares with its pod or the node, and what it has for itself.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
};

use super::error::{SpecError, excerpt};
use super::user::ResolvedUser;

/// One choice per namespace. The mount namespace is always new: a root filesystem of its own needs one.
#[derive(Clone, Debug)]
pub struct Namespaces {
    pub pid: Namespace,
    pub network: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    pub cgroup: Namespace,
    pub user: UserNamespace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    Host,
    New,
    /// A pinned namespace or one of a process: the pod's, or that of a container to debug.
    Path(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserNamespace {
    Host,
    New(IdMappings),
    /// The mappings are those the namespace was made with.
    Path(PathBuf, IdMappings),
}

/// How ids inside are ids of the node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IdMappings {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

/// `length` ids from `inside` on are those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub length: u32,
}

impl Namespace {
    pub fn is_host(&self) -> bool {
        *self == Namespace::Host
    }
}

impl UserNamespace {
    pub fn mappings(&self) -> Option<&IdMappings> {
        match self {
            UserNamespace::Host => None,
            UserNamespace::New(mappings) | UserNamespace::Path(_, mappings) => Some(mappings),
        }
    }
}

impl IdMappings {
    pub(super) fn maps_gid(&self, gid: u32) -> bool {
        covers(&self.gids, gid)
    }

    pub(super) fn to_oci(&self) -> Result<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>), SpecError> {
        Ok((oci_ranges(&self.uids)?, oci_ranges(&self.gids)?))
    }
}

pub(super) fn oci_namespaces(asked: &Namespaces) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Type;
    let mut namespaces = vec![oci_namespace(Type::Mount, None)];
    for (kind, namespace) in [
        (Type::Pid, &asked.pid),
        (Type::Network, &asked.network),
        (Type::Ipc, &asked.ipc),
        (Type::Uts, &asked.uts),
        (Type::Cgroup, &asked.cgroup),
    ] {
        match namespace {
            Namespace::Host => {}
            Namespace::New => namespaces.push(oci_namespace(kind, None)),
            Namespace::Path(path) => namespaces.push(oci_namespace(kind, Some(path))),
        }
    }
    match &asked.user {
        UserNamespace::Host => {}
        UserNamespace::New(_) => namespaces.push(oci_namespace(Type::User, None)),
        UserNamespace::Path(path, _) => namespaces.push(oci_namespace(Type::User, Some(path))),
    }
    namespaces
}

fn oci_namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let namespace = LinuxNamespaceBuilder::default().typ(kind);
    let namespace = match path {
        Some(path) => namespace.path(path),
        None => namespace,
    };
    namespace.build().expect("every field has a default")
}

fn oci_ranges(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>, SpecError> {
    if ranges.is_empty() {
        return Err(SpecError::IdMapping { reason: "empty" });
    }
    let mut mappings = Vec::with_capacity(ranges.len());
    for IdRange {
        inside,
        outside,
        length,
    } in ranges.iter().copied()
    {
        if length == 0 || inside.checked_add(length).is_none() || outside.checked_add(length).is_none() {
            return Err(SpecError::IdMapping {
                reason: "a range has no length or ends beyond the last id",
            });
        }
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(inside)
            .host_id(outside)
            .size(length);
        mappings.push(mapping.build().expect("every field has a default"));
    }
    Ok(mappings)
}

fn covers(ranges: &[IdRange], id: u32) -> bool {
    ranges
        .iter()
        .any(|range| id.checked_sub(range.inside).is_some_and(|offset| offset < range.length))
}

/// The runtime would fail on an id without a place, in words that name neither.
pub(super) fn check_user_is_mapped(user: &ResolvedUser, namespace: &UserNamespace) -> Result<(), SpecError> {
    let Some(mappings) = namespace.mappings() else {
        return Ok(());
    };
    if !covers(&mappings.uids, user.uid) {
        return Err(SpecError::IdNotMapped {
            what: "user",
            id: user.uid,
        });
    }
    match user
        .additional_gids
        .iter()
        .chain([&user.gid])
        .find(|gid| !mappings.maps_gid(**gid))
    {
        Some(gid) => Err(SpecError::IdNotMapped {
            what: "group",
            id: *gid,
        }),
        None => Ok(()),
    }
}

/// The longest name the kernel takes.
const HOSTNAME_MAX_BYTES: usize = 64;

/// The name to set, where there is a namespace to set it in.
pub(super) fn hostname(hostname: &str, uts: &Namespace) -> Result<Option<String>, SpecError> {
    let refused = |reason| {
        Err(SpecError::Hostname {
            hostname: excerpt(hostname),
            reason,
        })
    };
    if hostname.len() > HOSTNAME_MAX_BYTES {
        return refused("longer than 64 bytes");
    }
    if !hostname
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    {
        return refused("may have letters, digits, hyphens, dots and underscores");
    }
    Ok((!uts.is_host() && !hostname.is_empty()).then(|| hostname.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(inside: u32, outside: u32, length: u32) -> IdMappings {
        let range = vec![IdRange {
            inside,
            outside,
            length,
        }];
        IdMappings {
            uids: range.clone(),
            gids: range,
        }
    }

    #[test]
    fn a_shared_namespace_is_left_out_and_a_pinned_one_is_joined() {
        let asked = Namespaces {
            pid: Namespace::Host,
            network: Namespace::Path("/run/netns/a".into()),
            ipc: Namespace::New,
            uts: Namespace::Host,
            cgroup: Namespace::New,
            user: UserNamespace::Path("/run/userns/a".into(), mappings(0, 1000, 10)),
        };
        let got: Vec<_> = oci_namespaces(&asked)
            .iter()
            .map(|n| (n.typ(), n.path().clone()))
            .collect();
        assert_eq!(
            got,
            [
                (LinuxNamespaceType::Mount, None),
                (LinuxNamespaceType::Network, Some("/run/netns/a".into())),
                (LinuxNamespaceType::Ipc, None),
                (LinuxNamespaceType::Cgroup, None),
                (LinuxNamespaceType::User, Some("/run/userns/a".into())),
            ]
        );
    }

    #[test]
    fn a_range_must_have_a_length_and_an_end() {
        for (inside, outside, length) in [(0, 0, 0), (u32::MAX, 0, 1), (0, u32::MAX, 2)] {
            assert!(
                mappings(inside, outside, length).to_oci().is_err(),
                "{inside} {outside} {length}"
            );
        }
        assert!(IdMappings::default().to_oci().is_err());
        let (uids, gids) = mappings(0, 1000, 65536).to_oci().expect("good");
        assert_eq!(uids, gids);
        assert_eq!(
            uids.first().map(|m| (m.container_id(), m.host_id(), m.size())),
            Some((0, 1000, 65536))
        );
    }

    #[test]
    fn a_user_without_a_place_in_the_namespace_is_refused() {
        let namespace = UserNamespace::New(mappings(0, 100_000, 1000));
        let user = |uid, gid, groups: &[u32]| ResolvedUser {
            uid,
            gid,
            additional_gids: groups.to_vec(),
            name: None,
        };
        assert_eq!(check_user_is_mapped(&user(999, 999, &[1]), &namespace), Ok(()));
        for (user, what, id) in [
            (user(1000, 0, &[]), "user", 1000),
            (user(0, 1000, &[]), "group", 1000),
            (user(0, 0, &[0, 5000]), "group", 5000),
        ] {
            assert_eq!(
                check_user_is_mapped(&user, &namespace),
                Err(SpecError::IdNotMapped { what, id })
            );
            assert_eq!(check_user_is_mapped(&user, &UserNamespace::Host), Ok(()));
        }
    }

    #[test]
    fn a_hostname_is_set_only_where_it_is_the_pods_own() {
        assert_eq!(hostname("web-1", &Namespace::New), Ok(Some("web-1".into())));
        assert_eq!(
            hostname("web-1", &Namespace::Path("/x".into())),
            Ok(Some("web-1".into()))
        );
        assert_eq!(hostname("web-1", &Namespace::Host), Ok(None));
        assert_eq!(hostname("", &Namespace::New), Ok(None));
        for bad in ["a b", "a\nb", "a\0", "ü", &"x".repeat(65)] {
            assert!(hostname(bad, &Namespace::New).is_err(), "{bad:?}");
        }
    }
}
