//! SELinux on this host: whether it is there, what its policy says of containers, and the labels of files.

use super::seams::{DriverError, DriverResult, ErrorKind};
use crate::model::selinux::{HostLabels, Label};
use anyhow::Context;
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io::ErrorKind as IoErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the kernel shows SELinux, while it is on.
const SELINUXFS: &str = "/sys/fs/selinux/enforce";

/// Where the policy is configured.
const CONFIG: &str = "/etc/selinux";

/// Where distributions without a file of their policy have one.
const SHARED_CONTEXTS: &str = "/usr/share/containers/selinux/contexts";

/// The largest file of the policy that is read.
const POLICY_FILE_BYTES: u64 = 64 * 1024;

/// The attribute that holds the label of a file.
const LABEL: &str = "security.selinux";

/// The longest label that is compared.
const LABEL_BYTES: usize = 4096;

/// How deep a volume may be: each level is a descriptor that is open.
const DEPTH_MAX: usize = 128;

/// Never labelled as a whole: the node would not work any more.
const NEVER: [&str; 26] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Of these nothing is labelled either.
const NEVER_BENEATH: [&str; 4] = ["/dev", "/proc", "/sys", "/usr"];

/// What this host gives containers; `None` where SELinux is off.
///
/// Errors: it is on, and its policy says nonsense of containers.
pub fn detect() -> anyhow::Result<Option<HostLabels>> {
    detect_at(Path::new(SELINUXFS), Path::new(CONFIG), Path::new(SHARED_CONTEXTS))
}

fn detect_at(selinuxfs: &Path, etc: &Path, shared: &Path) -> anyhow::Result<Option<HostLabels>> {
    if !selinuxfs.exists() {
        return Ok(None);
    }
    let config = read(&etc.join("config"))?.unwrap_or_default();
    let policy = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    // A name, never a path.
    let policy = policy
        .map(str::trim)
        .filter(|name| !name.contains('/') && *name != "..");
    let of_policy = etc.join(policy.unwrap_or("targeted")).join("contexts/lxc_contexts");
    for path in [of_policy.as_path(), shared] {
        if let Some(contexts) = read(path)? {
            let labels = HostLabels::parse(&contexts).with_context(|| path.display().to_string())?;
            return Ok(Some(labels));
        }
    }
    Ok(Some(HostLabels::parse("")?))
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match super::host::read_regular(path, POLICY_FILE_BYTES) {
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
        Ok(content) => Ok(Some(String::from_utf8_lossy(&content).into_owned())),
    }
}

/// Labels a file, or a directory with all that is in it: by descriptors, so that a link that somebody puts there
/// meanwhile leads nowhere. A file system without labels is left as it is. Ends early when the caller has left.
///
/// Errors: `Invalid` for a directory of the node itself, or one that is too deep.
pub(super) async fn relabel(path: &Path, label: &Label) -> DriverResult<()> {
    if NEVER.iter().any(|never| path == Path::new(never)) || NEVER_BENEATH.iter().any(|never| path.starts_with(never)) {
        let why = format!(
            "{}: this is the node's own and is never relabelled for SELinux",
            path.display()
        );
        return Err(DriverError::new(ErrorKind::Invalid, why));
    }
    let left = Left::default();
    let (root, label, has_left) = (path.to_owned(), label.to_string(), left.0.clone());
    let done = tokio::task::spawn_blocking(move || Walk { label, has_left }.all_of(&root)).await;
    done.unwrap_or_else(|panicked| Err(DriverError::new(ErrorKind::Failed, panicked.to_string())))
}

/// Whether the thing itself has this label. What is not there is an error; a file system without labels has none.
pub(super) fn has_label(path: &Path, label: &str) -> std::io::Result<bool> {
    Ok(label_is(open(CWD, path)?.as_fd(), label))
}

/// Whether a file that is held has this label.
fn label_is(file: BorrowedFd<'_>, label: &str) -> bool {
    let mut now = [0; LABEL_BYTES];
    let length = rustix::fs::getxattr(by_descriptor(file), LABEL, &mut now).unwrap_or_default();
    let now = now.get(..length).unwrap_or_default();
    now.strip_suffix(b"\0").unwrap_or(now) == label.as_bytes()
}

/// A path to the very file that is held, be its name another's by now.
fn by_descriptor(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Says that the caller has left.
#[derive(Default)]
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Walk {
    label: String,
    has_left: Arc<AtomicBool>,
}

/// A directory that is being walked.
struct Level {
    path: PathBuf,
    directory: OwnedFd,
    entries: rustix::fs::Dir,
}

impl Walk {
    fn all_of(&self, root: &Path) -> DriverResult<()> {
        match self.walk(root) {
            Err(Failed {
                error: Errno::NOTSUP,
                path,
            }) => {
                tracing::debug!(path = %path.display(), "a file system without labels");
                Ok(())
            }
            Err(Failed {
                error: Errno::NAMETOOLONG,
                path,
            }) => Err(DriverError::new(
                ErrorKind::Invalid,
                format!("relabel {}: deeper than {DEPTH_MAX} directories", path.display()),
            )),
            Err(Failed { error, path }) => Err(DriverError::io(format!("relabel {}", path.display()), &error.into())),
            Ok(()) => Ok(()),
        }
    }

    fn walk(&self, root: &Path) -> Result<(), Failed> {
        let mut levels = Vec::new();
        let found = open(CWD, root).map_err(|error| failed(root, error))?;
        levels.extend(self.labelled(root.to_owned(), found)?);
        while let Some(level) = levels.last_mut() {
            if self.has_left.load(Ordering::Relaxed) {
                return Err(failed(root, Errno::CANCELED));
            }
            let Some(entry) = level.entries.read() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(|error| failed(&level.path, error))?;
            if [c".", c".."].contains(&entry.file_name()) {
                continue;
            }
            let path = level.path.join(os(entry.file_name()));
            let found = match open(&level.directory, entry.file_name()) {
                // Removed since it was listed.
                Err(Errno::NOENT) => continue,
                found => found.map_err(|error| failed(&path, error))?,
            };
            let depth = levels.len();
            if let Some(next) = self.labelled(path, found)? {
                if depth >= DEPTH_MAX {
                    return Err(failed(root, Errno::NAMETOOLONG));
                }
                levels.push(next);
            }
        }
        Ok(())
    }

    /// Labels this one; if it is a directory, what to walk.
    fn labelled(&self, path: PathBuf, found: OwnedFd) -> Result<Option<Level>, Failed> {
        let done = (|| {
            self.set(found.as_fd())?;
            let stat = rustix::fs::fstat(&found)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(None);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(&found, ".", flags, Mode::empty())?;
            let entries = rustix::fs::Dir::read_from(&directory)?;
            Ok(Some((directory, entries)))
        })();
        match done {
            Err(error) => Err(failed(&path, error)),
            Ok(opened) => Ok(opened.map(|(directory, entries)| Level {
                path,
                directory,
                entries,
            })),
        }
    }

    /// What has the label keeps its times.
    fn set(&self, file: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if label_is(file, &self.label) {
            return Ok(());
        }
        rustix::fs::setxattr(by_descriptor(file), LABEL, self.label.as_bytes(), XattrFlags::empty())
    }
}

struct Failed {
    path: PathBuf,
    error: Errno,
}

fn failed(path: &Path, error: Errno) -> Failed {
    Failed {
        path: path.to_owned(),
        error,
    }
}

fn os(name: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes())
}

/// The thing itself, be it a link, a pipe or a device: nothing is opened but its name.
fn open<P: rustix::path::Arg>(at: impl AsFd, name: P) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::security::SelinuxOptions;
    use std::fs;

    #[test]
    fn a_host_without_selinux_has_no_labels_and_one_with_it_those_of_its_policy() {
        let host = tempfile::tempdir().unwrap();
        let at = |name: &str| host.path().join(name);
        let detect = || detect_at(&at("enforce"), &at("etc"), &at("shared"));
        let process = || {
            let labels = detect().unwrap().unwrap().labels(&SelinuxOptions::default()).unwrap();
            labels.process.unwrap().to_string()
        };
        assert_eq!(detect().unwrap(), None);
        fs::write(at("enforce"), "1").unwrap();
        assert_eq!(
            process(),
            "system_u:system_r:container_t:s0",
            "as container-selinux has it"
        );
        fs::write(at("shared"), "process = \"system_u:system_r:shared_t:s0\"\n").unwrap();
        assert_eq!(process(), "system_u:system_r:shared_t:s0");
        fs::create_dir_all(at("etc/strict/contexts")).unwrap();
        fs::write(at("etc/config"), "SELINUX=enforcing\nSELINUXTYPE=strict\n").unwrap();
        let contexts = at("etc/strict/contexts/lxc_contexts");
        fs::write(&contexts, "process = \"system_u:system_r:strict_t:s0\"\n").unwrap();
        assert_eq!(process(), "system_u:system_r:strict_t:s0");
        fs::write(&contexts, "process = \"nonsense\"\n").unwrap();
        let error = format!("{:#}", detect().unwrap_err());
        assert!(
            error.contains("lxc_contexts") && error.contains("SELinux role"),
            "{error}"
        );
    }
}
