//! Kernel settings that belong to a namespace, and no others.

use super::Kind;
use std::path::PathBuf;
use std::str::FromStr;

/// A sysctl's value is a few numbers; anything near a page is not one.
const SYSCTL_VALUE_MAX_BYTES: usize = 1024;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("sysctl {name:?}: {reason}")]
pub struct SysctlRefused {
    pub name: String,
    pub reason: &'static str,
}

/// A kernel setting that belongs to a namespace, with its new value. Settings of the whole node cannot be expressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    name: String,
    segments: Vec<String>,
    value: String,
    namespace: Kind,
}

impl Sysctl {
    /// Takes `net.ipv4.ip_forward` or `net/ipv4/ip_forward`. A name with both separators is refused: it reads
    /// differently to different tools. An interface with a dot in its name is reachable by the second form.
    pub fn parse(name: &str, value: &str) -> std::result::Result<Sysctl, SysctlRefused> {
        let refused = |reason| SysctlRefused {
            name: name.to_owned(),
            reason,
        };
        let separator = match (name.contains('.'), name.contains('/')) {
            (true, true) if !name.starts_with("net/") => {
                return Err(refused("name mixes '.' and '/' as separators"));
            }
            (_, true) => '/',
            (_, false) => '.',
        };
        let segments: Vec<String> = name.split(separator).map(str::to_owned).collect();
        for segment in &segments {
            if segment.is_empty() || segment.starts_with('.') || segment.contains("..") {
                return Err(refused("name has an empty or relative part"));
            }
            if !segment
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
            {
                return Err(refused("name has a character no kernel setting has"));
            }
        }
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        let namespace = match parts.as_slice() {
            ["net", _, ..] => Kind::Net,
            ["kernel", "sem"] | ["fs", "mqueue", _] => Kind::Ipc,
            ["kernel", last] if last.starts_with("shm") || last.starts_with("msg") => Kind::Ipc,
            _ => return Err(refused("not a setting of a namespace, it would change the whole node")),
        };
        if value.is_empty() || value.len() > SYSCTL_VALUE_MAX_BYTES {
            return Err(refused("value is empty or too long"));
        }
        if !value.chars().all(|c| matches!(c, ' '..='~' | '\t')) {
            return Err(refused("value has a line break or another control character"));
        }
        Ok(Sysctl {
            name: name.to_owned(),
            segments,
            value: value.to_owned(),
            namespace,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn value(&self) -> &str {
        &self.value
    }

    /// The namespace that must be the pod's own for this setting.
    pub fn namespace(&self) -> Kind {
        self.namespace
    }

    pub(super) fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys");
        path.extend(&self.segments);
        path
    }
}

impl FromStr for Sysctl {
    type Err = SysctlRefused;

    /// `name=value`, as configuration files write it.
    fn from_str(text: &str) -> std::result::Result<Sysctl, SysctlRefused> {
        let (name, value) = text.split_once('=').ok_or_else(|| SysctlRefused {
            name: text.to_owned(),
            reason: "is not of the form name=value",
        })?;
        Sysctl::parse(name.trim(), value.trim())
    }
}

/// `asked`, and the defaults of these kinds of namespaces that it leaves alone, however it spells its names.
pub(super) fn with_defaults(mut asked: Vec<Sysctl>, defaults: &[Sysctl], kinds: &[Kind]) -> Vec<Sysctl> {
    let left_alone = |default: &&Sysctl| asked.iter().all(|sysctl| sysctl.segments != default.segments);
    let own = |default: &&Sysctl| kinds.contains(&default.namespace);
    let added: Vec<Sysctl> = defaults.iter().filter(own).filter(left_alone).cloned().collect();
    asked.extend(added);
    asked
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_are_weaker_than_the_pods_own_and_never_reach_the_host() {
        let parse = |texts: &[&str]| -> Vec<Sysctl> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let defaults = parse(&["net.core.somaxconn=1024", "net.ipv4.ip_forward=1", "kernel.shmmax=4096"]);
        let set = |asked: &[&str], kinds: &[Kind]| {
            let sysctls = with_defaults(parse(asked), &defaults, kinds);
            let words = sysctls
                .iter()
                .map(|sysctl| format!("{}={}", sysctl.name(), sysctl.value()));
            words.collect::<Vec<_>>()
        };
        assert_eq!(
            set(&["net/ipv4/ip_forward=0"], &Kind::ALL),
            ["net/ipv4/ip_forward=0", "net.core.somaxconn=1024", "kernel.shmmax=4096"]
        );
        assert_eq!(set(&[], &[Kind::Ipc]), ["kernel.shmmax=4096"]);
        assert_eq!(set(&[], &[]), [""; 0]);
    }

    #[test]
    fn settings_of_a_namespace_are_taken_and_all_others_refused() {
        for (name, namespace) in [
            ("net.ipv4.ip_unprivileged_port_start", Kind::Net),
            ("net/ipv4/conf/eth0.100/forwarding", Kind::Net),
            ("kernel.shmmax", Kind::Ipc),
            ("kernel.shm_rmid_forced", Kind::Ipc),
            ("kernel.msgmnb", Kind::Ipc),
            ("kernel.sem", Kind::Ipc),
            ("fs.mqueue.msg_max", Kind::Ipc),
        ] {
            assert_eq!(Sysctl::parse(name, "1").unwrap().namespace(), namespace, "{name}");
        }
        for name in [
            "",
            "net",
            "net.",
            ".net.x",
            "kernel.core_pattern",
            "kernel.sem.x",
            "vm.swappiness",
            "fs.mqueue",
            "net..x",
            "net/../kernel/core_pattern",
            "net.ipv4/../../x",
            "kernel/../kernel/core_pattern",
            "net/ipv4/..",
            "net. x",
            "net.ipv4\0",
            "kernel.shm/x",
            "/net/ipv4",
            "net.ipv4.conf.eth0/100.forwarding",
            "kernelxshm",
            "fs.mqueue.a.b",
        ] {
            assert!(Sysctl::parse(name, "1").is_err(), "{name:?} was taken");
        }
        assert!(Sysctl::parse("net.core.somaxconn", "32768\t60999").is_ok());
        for value in ["", "1\n2", "1\0", "é"] {
            assert!(
                Sysctl::parse("net.core.somaxconn", value).is_err(),
                "{value:?} was taken"
            );
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_outside_the_namespaced_settings(name in "(net|kernel|fs)?[./a-z\\n]{0,24}") {
            if let Ok(sysctl) = Sysctl::parse(&name, "1") {
                let path = sysctl.path();
                prop_assert!(path.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
                let inside = ["net/", "kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"]
                    .iter()
                    .any(|prefix| path.to_str().unwrap().starts_with(&format!("/proc/sys/{prefix}")));
                prop_assert!(inside, "{}", path.display());
            }
        }
    }
}
