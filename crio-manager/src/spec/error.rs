//! Why no spec can be built from what was asked.

use oci_spec::runtime::Capability;

use super::passwd::PASSWD_MAX_BYTES;
use super::path::PathFault;
use super::user::ID_MAX;

/// Names what is wrong and where; what is quoted comes from outside and is escaped and cut to [`EXCERPT_MAX_CHARS`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{what} contains a NUL byte")]
    NulByte { what: &'static str },
    #[error("{what} {path}: {fault}")]
    Path {
        what: &'static str,
        path: String,
        fault: PathFault,
    },

    #[error("no command: neither the request nor the image has one")]
    NoCommand,
    #[error("the first word of the command is empty")]
    EmptyProgram,
    #[error("{what} has a string of {bytes} bytes, more than the {limit} a program can be given")]
    StringTooLong {
        what: &'static str,
        bytes: usize,
        limit: usize,
    },
    #[error("arguments and environment take {bytes} bytes together, more than the {limit} a program can be given")]
    TooManyStrings { bytes: usize, limit: usize },
    #[error("environment variable name {name} is empty or contains an equals sign")]
    EnvName { name: String },
    #[error("HOME {home} is not an absolute path in one line")]
    Home { home: String },
    #[error("working directory {path} leads through the open files of a process")]
    WorkingDirectory { path: String },
    #[error("oom_score_adj {asked} is not within -1000 and 1000")]
    OomScoreAdj { asked: i32 },
    #[error("rlimit {resource}: {reason}")]
    Rlimit { resource: String, reason: &'static str },

    #[error("user {user} is neither a number up to {ID_MAX} nor a name")]
    UserSyntax { user: String },
    #[error("group {group} is neither a number up to {ID_MAX} nor a name")]
    GroupSyntax { group: String },
    #[error("no user {name} in the image's /etc/passwd")]
    NoSuchUser { name: String },
    #[error("no group {name} in the image's /etc/group")]
    NoSuchGroup { name: String },
    #[error("{what} {id} is above {ID_MAX}")]
    IdTooLarge { what: &'static str, id: u32 },
    #[error("a group was asked for without a user")]
    GroupWithoutUser,
    #[error("the user is in {count} groups, more than the {limit} a process can have")]
    TooManyGroups { count: usize, limit: usize },
    #[error("the image's {file} is larger than {PASSWD_MAX_BYTES} bytes")]
    AccountsTooLarge { file: &'static str },
    #[error("{what} {id} has no place in the user namespace")]
    IdNotMapped { what: &'static str, id: u32 },

    #[error("unknown capability {name}")]
    UnknownCapability { name: String },
    #[error("capability {capability} was asked for, and this node has none to give")]
    CapabilityNotHere { capability: Capability },
    #[error("ambient capability {capability} is not among those granted")]
    AmbientNotGranted { capability: Capability },
    #[error("AppArmor profile {profile}: this node has no AppArmor")]
    NoAppArmor { profile: String },
    #[error("seccomp profile: {reason}")]
    SeccompProfile { reason: String },

    #[error("id mapping of the user namespace: {reason}")]
    IdMapping { reason: &'static str },
    #[error("hostname {hostname}: {reason}")]
    Hostname { hostname: String, reason: &'static str },
    #[error("sysctl {name}: {reason}")]
    Sysctl { name: String, reason: &'static str },

    #[error("mount {path}: {reason}")]
    Mount { path: String, reason: &'static str },
    #[error("the image declares {count} volumes, more than {limit}")]
    TooManyVolumes { count: usize, limit: usize },
    #[error("device {path}: {reason}")]
    Device { path: String, reason: &'static str },

    #[error("{what}: {reason}")]
    Resource { what: String, reason: &'static str },
    #[error("memory limit {bytes} is below the {minimum} bytes that starting a container takes")]
    MemoryTooSmall { bytes: u64, minimum: u64 },
}

/// What is quoted of a foreign text.
pub const EXCERPT_MAX_CHARS: usize = 64;

/// A foreign text as it may stand in a message: quoted, escaped, short.
pub(crate) fn excerpt(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(EXCERPT_MAX_CHARS).collect();
    match chars.next() {
        None => format!("{head:?}"),
        Some(_) => format!("{head:?}…"),
    }
}

/// Refuses NUL, which no kernel interface can carry and which cuts a string short where it is not looked for.
pub(super) fn without_nul(what: &'static str, text: &str) -> Result<(), SpecError> {
    match text.contains('\0') {
        true => Err(SpecError::NulByte { what }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_cannot_break_or_flood_a_message() {
        assert_eq!(excerpt("a\nb\"c"), r#""a\nb\"c""#);
        let long = excerpt(&"ü".repeat(1_000_000));
        assert_eq!(long.chars().count(), EXCERPT_MAX_CHARS + 3);
    }
}
