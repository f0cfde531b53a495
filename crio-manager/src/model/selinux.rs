//! SELinux labels: what they are made of, and those of a pod.

use super::security::SelinuxOptions;
use super::users::PodUsers;
use std::fmt;

/// How many categories SELinux has: `c0` to `c1023`.
const CATEGORIES: u16 = 1024;

/// How many sensitivities it has.
const SENSITIVITIES: u16 = 16;

/// The longest user, role or type.
const NAME_BYTES_MAX: usize = 128;

/// The longest level: not even every second category fits.
const LEVEL_BYTES_MAX: usize = 2048;

/// The type of processes that nothing is kept from.
const UNCONFINED: &str = "spc_t";

/// `user:role:type:level`, each part checked: no part reaches into the next one, or out of a mount option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    user: String,
    role: String,
    type_: String,
    level: String,
}

/// What is no label, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SELinux {part} {text:?} is {why}")]
pub struct BadLabel {
    part: &'static str,
    /// Its beginning.
    text: String,
    why: &'static str,
}

impl Label {
    /// Four parts with colons between them; the level has colons too.
    pub fn parse(text: &str) -> Result<Self, BadLabel> {
        let mut parts = text.splitn(4, ':');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        Self {
            user: next(),
            role: next(),
            type_: next(),
            level: next(),
        }
        .checked()
    }

    /// With the parts that are asked for in the place of its own.
    fn with(&self, user: &str, role: &str, type_: &str, level: &str) -> Result<Self, BadLabel> {
        let or = |asked: &str, own: &String| {
            if asked.is_empty() {
                own.clone()
            } else {
                asked.to_owned()
            }
        };
        Self {
            user: or(user, &self.user),
            role: or(role, &self.role),
            type_: or(type_, &self.type_),
            level: or(level, &self.level),
        }
        .checked()
    }

    fn checked(self) -> Result<Self, BadLabel> {
        for (part, text) in [("user", &self.user), ("role", &self.role), ("type", &self.type_)] {
            let of_a_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(of_a_name) {
                return Err(bad(part, text, "no name"));
            }
        }
        match is_level(&self.level) {
            true => Ok(self),
            false => Err(bad("level", &self.level, "not like s0, s0:c1,c2 or s0-s0:c0.c1023")),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.user, self.role, self.type_, self.level)
    }
}

fn bad(part: &'static str, text: &str, why: &'static str) -> BadLabel {
    const SHOWN: usize = 64;
    let text = text.chars().take(SHOWN).collect();
    BadLabel { part, text, why }
}

/// One level, or two with a dash between them.
fn is_level(text: &str) -> bool {
    let mut ends = text.split('-');
    text.len() <= LEVEL_BYTES_MAX && ends.clone().count() <= 2 && ends.all(is_single_level)
}

/// `s0`, or `s0:` and categories: single ones, or ranges with a dot.
fn is_single_level(text: &str) -> bool {
    let (sensitivity, categories) = match text.split_once(':') {
        Some((sensitivity, categories)) => (sensitivity, Some(categories)),
        None => (text, None),
    };
    let is_range = |range: &str| match range.split_once('.') {
        Some((first, last)) => matches!(
            (number(first, 'c', CATEGORIES), number(last, 'c', CATEGORIES)),
            (Some(first), Some(last)) if first < last
        ),
        None => number(range, 'c', CATEGORIES).is_some(),
    };
    number(sensitivity, 's', SENSITIVITIES).is_some()
        && categories.is_none_or(|categories| categories.split(',').all(is_range))
}

fn number(text: &str, letter: char, below: u16) -> Option<u16> {
    let digits = text.strip_prefix(letter)?;
    let plain = digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| plain && *number < below)
}

/// What the host's policy gives containers, before a pod has a level of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLabels {
    /// Of processes.
    process: Label,
    /// Of the files that they may change.
    file: Label,
    /// A pod on the node's network keeps the daemon's own process label.
    pub host_network_is_unconfined: bool,
}

impl HostLabels {
    /// From `lxc_contexts`, the policy's file about containers: lines of `process = "label"`. What it does not say is
    /// as container-selinux has it.
    pub fn parse(contexts: &str) -> Result<Self, BadLabel> {
        let named = |name: &str, default: &str| {
            let lines = contexts.lines().filter_map(|line| line.split_once('='));
            let mut values = lines.filter(|(key, _)| key.trim() == name);
            let value = values.next().map(|(_, value)| value.trim().trim_matches('"'));
            Label::parse(value.unwrap_or(default))
        };
        Ok(Self {
            process: named("process", "system_u:system_r:container_t:s0")?,
            file: named("file", "system_u:object_r:container_file_t:s0")?,
            host_network_is_unconfined: true,
        })
    }

    /// The labels of a process and its files that ask for this.
    pub fn labels(&self, asked: &SelinuxOptions) -> Result<Labels, BadLabel> {
        let SelinuxOptions {
            user,
            role,
            type_,
            level,
        } = asked;
        Ok(Labels {
            process: Some(self.process.with(user, role, type_, level)?),
            // Whatever the process is, its files are those of containers.
            file: Some(self.file.with(user, "", "", level)?),
        })
    }
}

/// The labels of a container or of a pod's own process. `None` leaves it to the host's policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Of the process.
    pub process: Option<Label>,
    /// Of the files that are made for it.
    pub file: Option<Label>,
}

impl Labels {
    /// The label that volumes get which are to be labelled for it. Who may do everything needs none.
    pub fn of_volumes(&self) -> Option<&Label> {
        let unconfined = self.process.as_ref().is_some_and(|label| label.type_ == UNCONFINED);
        self.file.as_ref().filter(|_| !unconfined)
    }
}

/// How a container sees the files of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Whose they are; as on the node without.
    pub users: Option<PodUsers>,
    /// The label of all of them.
    pub label: Option<Label>,
}

/// Two categories that belong to one pod: they keep others out of its processes and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair(u16, u16);

impl Pair {
    /// All there are, from the one of this number on.
    pub fn all_from(number: u32) -> impl Iterator<Item = Self> {
        let (many, others) = (u32::from(CATEGORIES), u32::from(CATEGORIES) - 1);
        let start = number % (many * others);
        (start..many * others).chain(0..start).map(move |number| {
            // Each pair has two numbers, which does not matter to who takes the first that is free.
            let (one, other) = ((number / others) as u16, (number % others) as u16);
            let other = other + u16::from(other >= one);
            Self(one.min(other), one.max(other))
        })
    }

    /// The pair of a level like those that pods get; `None` of any other.
    pub fn of_level(level: &str) -> Option<Self> {
        let (one, other) = level.strip_prefix("s0:")?.split_once(',')?;
        let pair = Self(number(one, 'c', CATEGORIES)?, number(other, 'c', CATEGORIES)?);
        (pair.0 < pair.1).then_some(pair)
    }

    /// The level of processes and files with this pair.
    pub fn level(self) -> String {
        format!("s0:c{},c{}", self.0, self.1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn host() -> HostLabels {
        HostLabels::parse("").unwrap()
    }

    fn shown(labels: &Labels) -> (String, String) {
        let (process, file) = (labels.process.as_ref().unwrap(), labels.file.as_ref().unwrap());
        (process.to_string(), file.to_string())
    }

    #[test]
    fn the_hosts_file_says_what_containers_are() {
        let text = "# words\nprocess = \"a_u:b_r:c_t:s0\"\ncontent = \"x\"\nfile=\"d_u:e_r:f_t:s0\"\nbroken\n";
        let host = HostLabels::parse(text).unwrap();
        let labels = host.labels(&SelinuxOptions::default()).unwrap();
        assert_eq!(shown(&labels), ("a_u:b_r:c_t:s0".into(), "d_u:e_r:f_t:s0".into()));
        assert!(
            HostLabels::parse("process = \"a\"")
                .unwrap_err()
                .to_string()
                .contains("role")
        );
    }

    #[test]
    fn a_process_has_what_is_asked_for_and_its_files_the_same_level() {
        let asked = SelinuxOptions {
            user: "staff_u".into(),
            role: "staff_r".into(),
            type_: "container_init_t".into(),
            level: "s0:c4,c5".into(),
        };
        assert_eq!(
            shown(&host().labels(&asked).unwrap()),
            (
                "staff_u:staff_r:container_init_t:s0:c4,c5".into(),
                "staff_u:object_r:container_file_t:s0:c4,c5".into()
            )
        );
    }

    #[test]
    fn what_is_no_label_is_refused_with_the_part_that_is_wrong() {
        for level in [
            "s0,c4,c5",
            "s0:",
            "s16",
            "s0:c1024",
            "s0:c5.c4",
            "s0:c1,,c2",
            "s0-s1-s2",
            "s0\"",
            "0",
            "s00000",
        ] {
            let asked = SelinuxOptions {
                level: level.into(),
                ..SelinuxOptions::default()
            };
            let error = host().labels(&asked).unwrap_err().to_string();
            assert!(error.starts_with("SELinux level"), "{level}: {error}");
        }
        for level in ["s0", "s0:c4,c5", "s0-s0:c0.c1023", "s0:c1,c3.c9,c1023", "s15"] {
            assert!(is_level(level), "{level}");
        }
        for (user, role, type_, part) in [
            ("a:b", "", "", "user"),
            ("", "a,b", "", "role"),
            ("", "", "t\"\n", "type"),
        ] {
            let asked = SelinuxOptions {
                user: user.into(),
                role: role.into(),
                type_: type_.into(),
                level: String::new(),
            };
            let error = host().labels(&asked).unwrap_err().to_string();
            assert!(error.starts_with(&format!("SELinux {part}")), "{error}");
        }
    }

    #[test]
    fn every_pair_comes_up_and_is_known_by_its_level() {
        let all: BTreeSet<_> = Pair::all_from(1_000_000).collect();
        assert_eq!(all.len(), 1024 * 1023 / 2);
        for pair in [all.first(), all.last()].into_iter().flatten() {
            assert_eq!(Pair::of_level(&pair.level()), Some(*pair));
        }
        for other in ["s0", "s0:c1", "s0:c2,c1", "s0:c1,c1", "s1:c1,c2", "s0:c1,c2,c3", ""] {
            assert_eq!(Pair::of_level(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_label_that_is_written_as_it_was_read_or_none(text in "[a-z_:.,\"\\-sc0-9 ]{0,60}|.{0,60}") {
            if let Ok(label) = Label::parse(&text) {
                prop_assert_eq!(label.to_string(), text.clone());
                prop_assert!(!text.contains(['"', '\0', '\n', ' ']));
            }
        }
    }
}
