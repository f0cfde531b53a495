//! Which cgroup a process is in, as far as the monitor needs it: to hear of memory that ran out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

const ROOT: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The directory in which the kernel counts a process' memory.
#[derive(Debug, PartialEq, Eq)]
pub enum MemoryCgroup {
    V1(PathBuf),
    V2(PathBuf),
}

/// Finds it; `None` if the process is in no such cgroup.
pub fn memory_cgroup(pid: Pid) -> io::Result<Option<MemoryCgroup>> {
    let unified = rustix::fs::statfs(ROOT)?.f_type as i64 == CGROUP2_MAGIC;
    let memberships = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()))?;
    Ok(if unified {
        v2_directory(&memberships)
    } else {
        v1_directory(&memberships)
    })
}

fn v2_directory(memberships: &str) -> Option<MemoryCgroup> {
    let path = memberships.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(MemoryCgroup::V2(below(Path::new(ROOT), path)))
}

fn v1_directory(memberships: &str) -> Option<MemoryCgroup> {
    memberships.lines().find_map(|line| {
        let (_, membership) = line.split_once(':')?;
        let (controllers, path) = membership.split_once(':')?;
        let memory = controllers.split(',').any(|controller| controller == "memory");
        memory.then(|| MemoryCgroup::V1(below(&Path::new(ROOT).join(controllers), path)))
    })
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_unified_line_names_the_directory() {
        let found = v2_directory("1:name=systemd:/x\n0::/kubepods.slice/a:b.scope\n");
        assert_eq!(
            found,
            Some(MemoryCgroup::V2("/sys/fs/cgroup/kubepods.slice/a:b.scope".into()))
        );
        assert_eq!(v2_directory("4:memory:/x\n"), None);
    }

    #[test]
    fn the_memory_controller_names_the_directory() {
        let found = v1_directory("5:cpu,cpuacct:/a\n4:memory:/pod/c\n0::/x\n");
        assert_eq!(found, Some(MemoryCgroup::V1("/sys/fs/cgroup/memory/pod/c".into())));
        assert_eq!(v1_directory("5:cpu:/a\n1:name=memory:/b\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_names_a_directory_below_the_root_or_none(memberships in "([0-9:,a-z/=.]{0,30}\n){0,6}") {
            for found in [v1_directory(&memberships), v2_directory(&memberships)].into_iter().flatten() {
                let (MemoryCgroup::V1(path) | MemoryCgroup::V2(path)) = found;
                prop_assert!(path.starts_with(ROOT));
            }
        }
    }
}
