//! Who a container's process is: what the request or the image's USER says, resolved against the image's account files.
//!
//! Digits are a number and nothing else is one. `-1`, `0x0` or `4294967296` are refused, never wrapped round and never
//! looked up as a name; a number is never looked up as a name either, so that what the kubelet has checked against
//! "run as non-root" is what runs.

use super::error::{SpecError, excerpt};
use super::passwd::{Accounts, decimal_id};

/// The largest user or group id: the kernel's are larger, but many programs keep them signed.
pub const ID_MAX: u32 = i32::MAX as u32;

/// How many groups a process can have: the kernel's NGROUPS_MAX.
pub const GROUPS_MAX: usize = 65536;

/// What a name of a user or group may be long.
const NAME_MAX_BYTES: usize = 256;

/// What the request says about the user.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UserRequest {
    pub identity: Identity,
    /// Refused where the image decides the user.
    pub gid: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub policy: GroupsPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Identity {
    /// The image's USER, or root where it has none.
    #[default]
    Image,
    Id(u32),
    Name(String),
}

/// Whether the image's `/etc/group` adds to the groups that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GroupsPolicy {
    #[default]
    Merge,
    Strict,
}

/// The ids that the process starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// The primary group first, each group once. It is among them because a process that dropped it could otherwise be
    /// let through where a file's mode denies its group.
    pub additional_gids: Vec<u32>,
    /// As the image's `/etc/passwd` has it.
    pub name: Option<String>,
}

impl ResolvedUser {
    /// User 0 and group 0, in no other group.
    pub fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            additional_gids: vec![0],
            name: None,
        }
    }
}

/// Finds out the ids. `image_user` is the image's USER: `user`, `user:group`, each a number or a name, or empty.
pub fn resolve(request: &UserRequest, image_user: &str, accounts: &Accounts<'_>) -> Result<ResolvedUser, SpecError> {
    let (user, group) = match &request.identity {
        Identity::Image if request.gid.is_some() => return Err(SpecError::GroupWithoutUser),
        Identity::Image => image_user_parts(image_user)?,
        Identity::Id(uid) => (Account::Id(*uid), None),
        Identity::Name(name) => (user_part(name)?, None),
    };
    let (uid, entry) = match user {
        Account::Id(uid) => (uid, accounts.user_by_id(uid)),
        Account::Name(name) => {
            let entry = accounts
                .user_by_name(name)
                .ok_or_else(|| SpecError::NoSuchUser { name: excerpt(name) })?;
            (entry.uid, Some(entry))
        }
    };
    let gid = match (request.gid, group) {
        (Some(gid), _) | (None, Some(Account::Id(gid))) => gid,
        (None, Some(Account::Name(name))) => accounts
            .group_by_name(name)
            .ok_or_else(|| SpecError::NoSuchGroup { name: excerpt(name) })?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    check_id("user", uid)?;
    check_id("group", gid)?;

    let mut groups = Groups::default();
    groups.add(gid);
    for group in &request.supplemental_groups {
        check_id("supplemental group", *group)?;
        groups.add(*group);
    }
    if let (GroupsPolicy::Merge, Some(entry)) = (request.policy, &entry) {
        accounts
            .groups_of(&entry.name)
            .into_iter()
            .for_each(|group| groups.add(group));
    }
    let additional_gids = groups.in_order;
    if additional_gids.len() > GROUPS_MAX {
        return Err(SpecError::TooManyGroups {
            count: additional_gids.len(),
            limit: GROUPS_MAX,
        });
    }
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids,
        name: entry.map(|entry| entry.name),
    })
}

/// Each group once, in the order in which they came.
#[derive(Default)]
struct Groups {
    in_order: Vec<u32>,
    seen: std::collections::HashSet<u32>,
}

impl Groups {
    fn add(&mut self, gid: u32) {
        if self.seen.insert(gid) {
            self.in_order.push(gid);
        }
    }
}

enum Account<'a> {
    Id(u32),
    Name(&'a str),
}

fn image_user_parts(text: &str) -> Result<(Account<'_>, Option<Account<'_>>), SpecError> {
    if text.is_empty() {
        return Ok((Account::Id(0), None));
    }
    match text.split_once(':') {
        None | Some((_, "")) => Ok((user_part(text.strip_suffix(':').unwrap_or(text))?, None)),
        Some((user, group)) => {
            let group = account(group).ok_or_else(|| SpecError::GroupSyntax { group: excerpt(group) })?;
            Ok((user_part(user)?, Some(group)))
        }
    }
}

fn user_part(text: &str) -> Result<Account<'_>, SpecError> {
    account(text).ok_or_else(|| SpecError::UserSyntax { user: excerpt(text) })
}

/// A number, or a name that cannot be mistaken for one.
fn account(text: &str) -> Option<Account<'_>> {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return decimal_id(text).map(Account::Id);
    }
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@' | b'$'));
    (first && rest && text.len() <= NAME_MAX_BYTES).then_some(Account::Name(text))
}

fn check_id(what: &'static str, id: u32) -> Result<(), SpecError> {
    match id <= ID_MAX {
        true => Ok(()),
        false => Err(SpecError::IdTooLarge { what, id }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] =
        b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:\napp:x:1000:1000::/:\n1001:x:0:0::/:\n0x0:x:0:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:\nextra:x:50000:app\nlogs:x:60:web,app\napp:x:1000:app\n";

    fn accounts() -> Accounts<'static> {
        Accounts::new(Some(PASSWD), Some(GROUP)).expect("small")
    }

    fn of_image(user: &str) -> Result<ResolvedUser, SpecError> {
        resolve(&UserRequest::default(), user, &accounts())
    }

    #[test]
    fn every_form_of_an_image_user_means_what_it_says() {
        for (user, uid, gid) in [
            ("", 0, 0),
            ("0", 0, 0),
            ("1", 1, 0),
            ("1:", 1, 0),
            ("01", 1, 0),
            ("33", 33, 34),
            ("web", 33, 34),
            ("web:", 33, 34),
            ("web:50", 33, 50),
            ("web:staff", 33, 50),
            ("33:staff", 33, 50),
            ("5000:5001", 5000, 5001),
            ("root", 0, 0),
            ("2147483647", 2147483647, 0),
            // A number stays a number, although this image has a user of that name with uid 0.
            ("1001", 1001, 0),
        ] {
            let resolved = of_image(user).expect(user);
            assert_eq!((resolved.uid, resolved.gid), (uid, gid), "{user:?}");
            assert_eq!(resolved.additional_gids.first(), Some(&gid), "{user:?}");
        }
    }

    #[test]
    fn what_is_neither_number_nor_name_is_refused() {
        for user in [
            "-1",
            "0x0",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "4294967296",
            "4294967295",
            "2147483648",
            "99999999999",
            "18446744073709551616",
            ":1",
            ":",
            "::",
            "1:2:3",
            "web:0x0",
            "web:-1",
            "web:4294967296",
            "a b",
            "ro\0ot",
            "r\noot",
            "１",
            "ünï",
            "web:a b",
            "-web",
            "%s",
            "../root",
        ] {
            assert!(
                matches!(
                    of_image(user),
                    Err(SpecError::UserSyntax { .. } | SpecError::GroupSyntax { .. })
                ),
                "{user:?}"
            );
        }
    }

    #[test]
    fn an_unknown_name_is_refused_and_an_unknown_number_is_not() {
        assert_eq!(
            of_image("nobody"),
            Err(SpecError::NoSuchUser {
                name: "\"nobody\"".into()
            })
        );
        assert_eq!(
            of_image("web:nogroup"),
            Err(SpecError::NoSuchGroup {
                name: "\"nogroup\"".into()
            })
        );
        assert_eq!(of_image("4000:4001").map(|u| (u.uid, u.gid)), Ok((4000, 4001)));
    }

    #[test]
    fn the_request_is_stronger_than_the_image() {
        for (identity, gid, expected) in [
            (Identity::Id(7), None, (7, 0)),
            (Identity::Id(7), Some(8), (7, 8)),
            (Identity::Id(33), None, (33, 34)),
            (Identity::Name("web".into()), None, (33, 34)),
            (Identity::Name("web".into()), Some(9), (33, 9)),
            (Identity::Name("7".into()), None, (7, 0)),
        ] {
            let request = UserRequest {
                identity,
                gid,
                ..UserRequest::default()
            };
            let resolved = resolve(&request, "app:50", &accounts()).expect("known");
            assert_eq!((resolved.uid, resolved.gid), expected, "{request:?}");
        }
    }

    #[test]
    fn a_group_without_a_user_is_refused() {
        let request = UserRequest {
            gid: Some(1002),
            ..UserRequest::default()
        };
        assert_eq!(resolve(&request, "app", &accounts()), Err(SpecError::GroupWithoutUser));
    }

    #[test]
    fn ids_of_the_request_have_the_same_limit() {
        for request in [
            UserRequest {
                identity: Identity::Id(ID_MAX + 1),
                ..UserRequest::default()
            },
            UserRequest {
                identity: Identity::Id(1),
                gid: Some(u32::MAX),
                ..UserRequest::default()
            },
            UserRequest {
                supplemental_groups: vec![5, ID_MAX + 1],
                ..UserRequest::default()
            },
        ] {
            assert!(
                matches!(resolve(&request, "", &accounts()), Err(SpecError::IdTooLarge { .. })),
                "{request:?}"
            );
        }
    }

    #[test]
    fn merge_adds_the_groups_of_the_image_and_strict_does_not() {
        let mut request = UserRequest {
            identity: Identity::Id(1000),
            supplemental_groups: vec![1234, 1234, 1000],
            ..UserRequest::default()
        };
        let merged = resolve(&request, "", &accounts()).expect("known");
        assert_eq!(merged.additional_gids, [1000, 1234, 50000, 60]);
        assert_eq!(merged.name.as_deref(), Some("app"));

        request.policy = GroupsPolicy::Strict;
        let strict = resolve(&request, "", &accounts()).expect("known");
        assert_eq!(strict.additional_gids, [1000, 1234]);
    }

    #[test]
    fn the_groups_of_another_user_are_not_kept() {
        let request = UserRequest {
            identity: Identity::Id(5),
            gid: Some(6),
            ..UserRequest::default()
        };
        let resolved = resolve(&request, "app", &accounts()).expect("a number");
        assert_eq!(resolved.additional_gids, [6]);
    }

    #[test]
    fn an_image_without_account_files_takes_numbers_only() {
        let none = Accounts::default();
        let image = |user| resolve(&UserRequest::default(), user, &none).map(|u| (u.uid, u.gid));
        assert_eq!(image("12:13"), Ok((12, 13)));
        assert_eq!(image(""), Ok((0, 0)));
        assert_eq!(
            image("root"),
            Err(SpecError::NoSuchUser {
                name: "\"root\"".into()
            })
        );
    }

    #[test]
    fn more_groups_than_a_process_can_have_are_refused() {
        let request = UserRequest {
            supplemental_groups: (1..=65536).collect(),
            ..UserRequest::default()
        };
        assert_eq!(
            resolve(&request, "", &accounts()),
            Err(SpecError::TooManyGroups {
                count: 65537,
                limit: GROUPS_MAX
            })
        );
    }

    proptest! {
        #[test]
        fn no_text_but_a_zero_or_a_name_of_root_yields_uid_zero(user in "[-+0-9a-fx:._ \\n]{0,14}|[0-9]{1,24}|root:?[0-9]{0,4}") {
            if let Ok(resolved) = of_image(&user) {
                let before = user.split(':').next().unwrap_or_default();
                let zero = !before.is_empty() && before.bytes().all(|b| b == b'0');
                prop_assert_eq!(resolved.uid == 0, user.is_empty() || zero || before == "root", "{:?}", user);
            }
        }

        #[test]
        fn a_number_resolves_to_itself_or_not_at_all(number in any::<u64>()) {
            match of_image(&number.to_string()) {
                Ok(resolved) => prop_assert_eq!(u64::from(resolved.uid), number),
                Err(_) => prop_assert!(number > u64::from(ID_MAX)),
            }
        }

        #[test]
        fn no_text_makes_it_panic(user in "\\PC{0,40}") {
            let _ = of_image(&user);
        }
    }
}
