//! The account files of an image, `/etc/passwd` and `/etc/group`: read as untrusted bytes, and one line more for a user
//! or group that they don't know.
//!
//! A line that is not well formed is not there: nothing in these files can fail a container, or name an id above
//! [`ID_MAX`].

use super::error::{SpecError, excerpt};
use super::path::ContainerPath;
use super::user::{ID_MAX, ResolvedUser};

/// Larger account files are refused. Whoever reads them stops there, too.
pub const PASSWD_MAX_BYTES: usize = 1 << 20;

/// The two files as the image has them; `None` where it has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts<'a> {
    passwd: Option<&'a [u8]>,
    group: Option<&'a [u8]>,
}

/// One line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl<'a> Accounts<'a> {
    /// Fails if a file is larger than [`PASSWD_MAX_BYTES`].
    pub fn new(passwd: Option<&'a [u8]>, group: Option<&'a [u8]>) -> Result<Self, SpecError> {
        for (file, content) in [("/etc/passwd", passwd), ("/etc/group", group)] {
            if content.is_some_and(|bytes| bytes.len() > PASSWD_MAX_BYTES) {
                return Err(SpecError::AccountsTooLarge { file });
            }
        }
        Ok(Self { passwd, group })
    }

    /// The first line with this name counts, as it does for the C library.
    pub fn user_by_name(&self, name: &str) -> Option<UserEntry> {
        self.users().find(|user| user.name == name)
    }

    pub fn user_by_id(&self, uid: u32) -> Option<UserEntry> {
        self.users().find(|user| user.uid == uid)
    }

    pub fn group_by_name(&self, name: &str) -> Option<u32> {
        self.groups().find(|group| group.name == name).map(|group| group.gid)
    }

    /// The groups that list `user` as a member, in the order of the file.
    pub fn groups_of(&self, user: &str) -> Vec<u32> {
        self.groups()
            .filter(|group| group.members.split(',').any(|member| member == user))
            .map(|g| g.gid)
            .collect()
    }

    fn knows_group(&self, gid: u32) -> bool {
        self.groups().any(|group| group.gid == gid)
    }

    fn users(&self) -> impl Iterator<Item = UserEntry> + use<'a> {
        lines(self.passwd).filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (!name.is_empty()).then_some(())?;
            Some(UserEntry {
                name: name.to_owned(),
                uid: decimal_id(uid)?,
                gid: decimal_id(gid)?,
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = GroupEntry<'a>> + use<'a> {
        lines(self.group).filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
            (!name.is_empty()).then_some(())?;
            Some(GroupEntry {
                name,
                gid: decimal_id(gid)?,
                members: fields.next().unwrap_or(""),
            })
        })
    }
}

/// One line of `/etc/group`.
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The lines that are text; comments and the `+` and `-` of NIS are not.
fn lines(file: Option<&[u8]>) -> impl Iterator<Item = &str> {
    file.unwrap_or_default()
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.starts_with(['#', '+', '-']) && !line.contains('\0'))
}

/// Digits only, up to [`ID_MAX`]: no sign, no blank, no other base, no wrapping round.
pub(super) fn decimal_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok().filter(|id| *id <= ID_MAX))?
}

/// The `/etc/passwd` line for a user whom the image doesn't know; `None` if it does or has no such file.
///
/// `home` is what HOME says in the container. Fails if it could make another line or field of it.
pub fn extra_passwd_line(
    accounts: &Accounts<'_>,
    user: &ResolvedUser,
    home: &str,
) -> Result<Option<String>, SpecError> {
    let unusable = || SpecError::Home { home: excerpt(home) };
    if accounts.passwd.is_none() || accounts.user_by_id(user.uid).is_some() {
        return Ok(None);
    }
    ContainerPath::parse(home).map_err(|_| unusable())?;
    if home.chars().any(|c| c == ':' || c.is_control()) {
        return Err(unusable());
    }
    let ResolvedUser { uid, gid, .. } = user;
    Ok(Some(format!("{uid}:x:{uid}:{gid}:{uid} user:{home}:/sbin/nologin\n")))
}

/// The `/etc/group` line for a primary group that the image doesn't know; `None` if it does or has no such file.
pub fn extra_group_line(accounts: &Accounts<'_>, user: &ResolvedUser) -> Option<String> {
    let ResolvedUser { gid, .. } = user;
    (accounts.group.is_some() && !accounts.knows_group(*gid)).then(|| format!("{gid}:x:{gid}:\n"))
}

/// A file with a line more, also where its last line had no end.
pub fn appended(file: &[u8], line: &str) -> Vec<u8> {
    let mut whole = file.to_vec();
    if whole.last().is_some_and(|byte| *byte != b'\n') {
        whole.push(b'\n');
    }
    whole.extend_from_slice(line.as_bytes());
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\nweb:x:0:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:34:\nlogs:x:50:web,root\ndisk:x:51:webster\ntty:x:5:root,web";

    fn accounts() -> Accounts<'static> {
        Accounts::new(Some(PASSWD), Some(GROUP)).expect("small")
    }

    fn user(uid: u32, gid: u32) -> ResolvedUser {
        ResolvedUser {
            uid,
            gid,
            additional_gids: vec![gid],
            name: None,
        }
    }

    #[test]
    fn the_first_line_of_a_name_counts() {
        let web = accounts().user_by_name("web").expect("is there");
        assert_eq!((web.uid, web.gid), (33, 34));
        assert_eq!(accounts().user_by_id(33).map(|u| u.name), Some("web".into()));
        assert_eq!(accounts().user_by_name("we"), None);
    }

    #[test]
    fn membership_is_by_whole_names() {
        assert_eq!(accounts().groups_of("web"), [50, 5]);
        assert_eq!(accounts().groups_of("nobody"), [0_u32; 0]);
        assert_eq!(accounts().group_by_name("logs"), Some(50));
    }

    #[test]
    fn a_broken_line_is_not_there() {
        for line in [
            "evil:x:4294967296:0::/:",
            "evil:x:-1:0::/:",
            "evil:x:0x0:0::/:",
            "evil:x: 0:0::/:",
            "evil:x:+0:0::/:",
            "evil:x::0::/:",
            "evil:x:2147483648:0::/:",
            "evil:x:1",
            "#evil:x:0:0::/:",
            "+evil:x:0:0::/:",
            "evil",
            "",
            "evil\0:x:0:0::/:",
        ] {
            let accounts = Accounts::new(Some(line.as_bytes()), None).expect("small");
            for name in ["evil", "", "#evil", "+evil", "evil\0"] {
                assert_eq!(accounts.user_by_name(name), None, "{line:?}");
            }
        }
        let binary = Accounts::new(Some(b"a\xff:x:0:0::/:\nb:x:7:8::/:"), None).expect("small");
        assert_eq!(binary.user_by_name("b").map(|u| u.uid), Some(7));
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let large = vec![b'\n'; PASSWD_MAX_BYTES + 1];
        assert_eq!(
            Accounts::new(None, Some(&large)).map(|_| ()),
            Err(SpecError::AccountsTooLarge { file: "/etc/group" })
        );
        assert!(Accounts::new(large.get(1..), None).is_ok());
    }

    #[test]
    fn an_unknown_user_gets_a_line() {
        let line = extra_passwd_line(&accounts(), &user(1001, 1002), "/home/app").expect("good home");
        assert_eq!(
            line.as_deref(),
            Some("1001:x:1001:1002:1001 user:/home/app:/sbin/nologin\n")
        );
        assert_eq!(
            extra_group_line(&accounts(), &user(1001, 1002)).as_deref(),
            Some("1002:x:1002:\n")
        );
    }

    #[test]
    fn a_known_user_or_an_image_without_the_file_gets_none() {
        assert_eq!(extra_passwd_line(&accounts(), &user(33, 34), "/a\nb"), Ok(None));
        assert_eq!(extra_group_line(&accounts(), &user(33, 34)), None);
        let none = Accounts::default();
        assert_eq!(extra_passwd_line(&none, &user(1001, 1001), "/"), Ok(None));
        assert_eq!(extra_group_line(&none, &user(1001, 1001)), None);
    }

    #[test]
    fn a_home_cannot_write_a_line_of_its_own() {
        let endless = format!("/{}", "x".repeat(1 << 20));
        for home in [
            "/\nroot2::0:0::/:/bin/sh",
            "/a:b",
            "/a\rb",
            "/a\0b",
            "relative",
            "",
            "/\u{85}",
            &endless,
        ] {
            let refused = extra_passwd_line(&accounts(), &user(1001, 1001), home);
            assert_eq!(refused, Err(SpecError::Home { home: excerpt(home) }), "{home:?}");
        }
    }

    #[test]
    fn a_line_is_appended_to_a_file_without_an_end() {
        assert_eq!(appended(b"a:x:1:", "b:x:2:\n"), b"a:x:1:\nb:x:2:\n");
        assert_eq!(appended(b"a:x:1:\n", "b:x:2:\n"), b"a:x:1:\nb:x:2:\n");
        assert_eq!(appended(b"", "b:x:2:\n"), b"b:x:2:\n");
    }

    proptest! {
        #[test]
        fn whatever_the_home_the_file_has_one_well_formed_line_more(home in "/?[a-z:\\n\\r\\x00/ü]{0,12}") {
            if let Ok(Some(line)) = extra_passwd_line(&accounts(), &user(1001, 1002), &home) {
                let whole = appended(PASSWD, &line);
                let file = Accounts::new(Some(&whole), None).expect("small");
                prop_assert_eq!(file.users().count(), accounts().users().count() + 1);
                prop_assert_eq!(line.split(':').count(), 7);
                prop_assert_eq!(line.matches('\n').count(), 1);
            }
        }

        #[test]
        fn no_bytes_can_make_the_reader_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let accounts = Accounts::new(Some(&bytes), Some(&bytes)).expect("small");
            for user in accounts.users() {
                prop_assert!(user.uid <= ID_MAX && user.gid <= ID_MAX);
            }
            accounts.groups_of("a");
        }
    }
}
