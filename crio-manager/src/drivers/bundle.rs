//! Bundles of containers and the files of pods, below the run directory.

use super::copy;
use super::idmap::{self, Depth};
use super::record_file::{let_pass, make_passable_dir, make_private_dir};
use super::seams::{Bundles, DriverError, DriverResult, ErrorKind, Readers};
use crate::model::record::SandboxFiles;
use crate::model::security::NamespaceMode;
use crate::model::selinux::Label;
use crate::model::users::{Owner, PodUsers};
use crate::model::{ContainerId, SandboxId, SandboxPlan};
use async_trait::async_trait;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io::ErrorKind as IoErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Size of a pod's `/dev/shm`.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// The directory of a bundle that has a mount point for each id-mapped copy.
const COPIES: &str = "mounts";

/// The largest resolv.conf of the host that is copied, in bytes.
const RESOLV_CONF_BYTES: usize = 64 * 1024;

/// Bundles below `<run>/containers`, files of pods below `<run>/sandboxes`.
#[derive(Debug, Clone)]
pub struct BundleDirs {
    run: PathBuf,
}

impl BundleDirs {
    /// Makes the directories.
    pub fn open(run: PathBuf) -> std::io::Result<Self> {
        make_private_dir(&run.join("containers"))?;
        // The root file system of a pod's own process is in there.
        make_passable_dir(&run)?;
        make_passable_dir(&run.join("sandboxes"))?;
        Ok(Self { run })
    }

    fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.run.join("sandboxes").join(id.as_str())
    }
}

#[async_trait]
impl Bundles for BundleDirs {
    async fn make_sandbox(&self, plan: &SandboxPlan, label: Option<&Label>) -> DriverResult<SandboxFiles> {
        let directory = self.sandbox(&plan.id);
        let files = SandboxFiles {
            resolv_conf: directory.join("resolv.conf"),
            hosts: directory.join("hosts"),
            hostname: directory.join("hostname"),
            shm: (plan.namespaces.ipc != NamespaceMode::Node).then(|| directory.join("shm")),
        };
        let (plan, made) = (plan.clone(), files.clone());
        let owner = owner_of(&plan);
        let context = label.map_or_else(String::new, |label| format!(",context=\"{label}\""));
        blocking("pod files", move || {
            make_private_dir(&directory)?;
            let_pass(&directory, owner)?;
            write_readable(&made.resolv_conf, &resolv_conf(&plan)?, owner)?;
            let hostname = if plan.hostname.is_empty() {
                host_name()
            } else {
                plan.hostname.clone()
            };
            write_readable(&made.hostname, format!("{hostname}\n").as_bytes(), owner)?;
            if let Some(shm) = &made.shm {
                make_private_dir(shm)?;
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                let options = format!("{SHM_OPTIONS},uid={},gid={}{context}", owner.uid, owner.gid);
                mount(Some("shm"), shm, Some("tmpfs"), flags, Some(options.as_str()))?;
            }
            Ok(())
        })
        .await?;
        Ok(files)
    }

    async fn write_hosts(&self, plan: &SandboxPlan, ips: &[IpAddr]) -> DriverResult<()> {
        let path = self.sandbox(&plan.id).join("hosts");
        let (own_network, owner) = (plan.has_own_network(), owner_of(plan));
        let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        for ip in ips {
            hosts.push_str(&format!("{ip}\t{}\n", plan.hostname));
        }
        blocking("hosts file", move || {
            if own_network {
                write_readable(&path, hosts.as_bytes(), owner)
            } else {
                write_readable(&path, &std::fs::read("/etc/hosts")?, owner)
            }
        })
        .await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> DriverResult<()> {
        let directory = self.sandbox(id);
        blocking("pod files", move || {
            match umount2(&directory.join("shm"), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // Not mounted, or not there.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
            remove_tree(&directory)
        })
        .await
    }

    fn path(&self, id: &ContainerId) -> PathBuf {
        self.run.join("containers").join(id.as_str())
    }

    async fn write(&self, id: &ContainerId, name: &str, content: &[u8], readers: Readers) -> DriverResult<PathBuf> {
        let directory = self.path(id);
        let (file, content) = (directory.join(name), content.to_vec());
        let written = file.clone();
        blocking("bundle", move || {
            make_private_dir(&directory)?;
            match readers {
                Readers::Root => {
                    std::fs::write(&file, content)?;
                    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
                }
                Readers::Everybody(owner) => write_readable(&file, &content, owner),
            }
        })
        .await?;
        Ok(written)
    }

    async fn make_dir(&self, id: &ContainerId, below: &Path, owner: Owner) -> DriverResult<()> {
        let directory = self.path(id);
        let made = directory.join(below);
        blocking("bundle", move || {
            make_private_dir(&directory)?;
            std::fs::create_dir_all(&made)?;
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755))?;
            chown(&made, Some(owner.uid), Some(owner.gid))
        })
        .await
    }

    async fn mount_for(
        &self,
        id: &ContainerId,
        number: usize,
        source: &Path,
        users: &PodUsers,
    ) -> DriverResult<PathBuf> {
        let copies = self.path(id).join(COPIES);
        let point = copies.join(number.to_string());
        let (source, users, made) = (source.to_owned(), users.clone(), point.clone());
        let what = format!("id-mapped mount of {}", source.display());
        let done = tokio::task::spawn_blocking(move || {
            make_private_dir(&copies)?;
            if source.is_dir() {
                std::fs::create_dir(&made)?;
            } else {
                std::fs::File::create_new(&made)?;
            }
            let namespace = std::fs::File::open(&users.namespace)?;
            idmap::mount(&source, &namespace, Depth::All, &made)
        });
        let done = done
            .await
            .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
        done.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::EPERM) => DriverError::new(
                ErrorKind::Invalid,
                format!("{what}: a file system in there cannot be id-mapped: {error}"),
            ),
            _ => DriverError::io(what, &error),
        })?;
        Ok(point)
    }

    async fn unmount_copies(&self, id: &ContainerId) -> DriverResult<()> {
        let directory = self.path(id);
        blocking("id-mapped mounts", move || unmount_copies(&directory)).await
    }

    async fn copy(&self, id: &ContainerId, below: &Path, source: &Path) -> DriverResult<()> {
        let directory = self.path(id);
        let (target, source) = (directory.join(below), source.to_owned());
        blocking("copy", move || {
            make_private_dir(&directory)?;
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            copy::copy(&source, &target)
        })
        .await
    }

    async fn read_spec(&self, id: &ContainerId) -> DriverResult<Vec<u8>> {
        let file = self.path(id).join("config.json");
        blocking("bundle", move || std::fs::read(file)).await
    }

    async fn make_infra_rootfs(&self, id: &SandboxId, owner: Owner) -> DriverResult<PathBuf> {
        let rootfs = self.sandbox(id).join("rootfs");
        let made = rootfs.clone();
        blocking("pause rootfs", move || {
            make_private_dir(&made)?;
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755))?;
            chown(&made, Some(owner.uid), Some(owner.gid))
        })
        .await?;
        Ok(rootfs)
    }

    async fn remove(&self, id: &ContainerId) -> DriverResult<()> {
        let directory = self.path(id);
        blocking("bundle", move || {
            unmount_copies(&directory)?;
            remove_tree(&directory)
        })
        .await
    }
}

/// Unmounts the id-mapped copies of a bundle, whichever there are.
fn unmount_copies(bundle: &Path) -> std::io::Result<()> {
    let points = match std::fs::read_dir(bundle.join(COPIES)) {
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
        points => points?,
    };
    for point in points {
        match umount2(&point?.path(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Not mounted, or not there.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn owner_of(plan: &SandboxPlan) -> Owner {
    Owner::root_of(plan.namespaces.users.as_ref())
}

/// Removes a directory tree that holds nothing mounted; `Ok` when there is none.
///
/// A mount that could not be undone must not be walked into: that would delete what is mounted.
fn remove_tree(directory: &Path) -> std::io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let inside = mounts
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(4))
        .find(|point| Path::new(point).starts_with(directory));
    if let Some(point) = inside {
        return Err(std::io::Error::new(
            IoErrorKind::ResourceBusy,
            format!("{point} is still mounted"),
        ));
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A file that every user of a container may read, and its root write.
fn write_readable(path: &Path, content: &[u8], owner: Owner) -> std::io::Result<()> {
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    chown(path, Some(owner.uid), Some(owner.gid))
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn resolv_conf(plan: &SandboxPlan) -> std::io::Result<Vec<u8>> {
    let Some(dns) = &plan.dns else {
        let mut content = match std::fs::read("/etc/resolv.conf") {
            Err(error) if error.kind() == IoErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        content.truncate(RESOLV_CONF_BYTES);
        return Ok(content);
    };
    let mut lines = String::new();
    if !dns.searches.is_empty() {
        lines.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        lines.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        lines.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(lines.into_bytes())
}

async fn blocking<T, W>(what: &'static str, work: W) -> DriverResult<T>
where
    T: Send + 'static,
    W: FnOnce() -> std::io::Result<T> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
    done.map_err(|error| match error.kind() {
        IoErrorKind::ResourceBusy => DriverError::new(ErrorKind::InUse, format!("{what}: {error}")),
        _ => DriverError::io(what, &error),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_of_the_bundle_is_readable_inside_and_gone_with_it() {
        let run = tempfile::tempdir().unwrap();
        let bundles = BundleDirs::open(run.path().to_owned()).unwrap();
        let id = ContainerId::from_bytes([1; 32]);
        let own = Owner {
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
        };
        bundles.make_dir(&id, Path::new("volumes/0"), own).await.unwrap();
        bundles.make_dir(&id, Path::new("volumes/0"), own).await.unwrap();

        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&bundles.path(&id)), 0o700);
        assert_eq!(mode(&bundles.path(&id).join("volumes/0")), 0o755);
        bundles.remove(&id).await.unwrap();
        assert!(!bundles.path(&id).exists());
    }
}
