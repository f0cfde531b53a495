//! New user namespaces. A process with threads cannot make one, so a child does between fork and exec; it runs the pause
//! program for as long as it takes to pin what it has.

use super::{Error, Kind, Result};
use crate::drivers::child;
use crate::model::users::UserMappings;
use nix::sched::CloneFlags;
use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_uid};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A child in a user namespace with these mappings, and in new namespaces of other kinds that belong to it. It ends with
/// this.
pub(super) struct Holder {
    child: Child,
    mappings: UserMappings,
}

impl Holder {
    /// The calling thread must live as long as the holder.
    pub(super) fn start(program: &Path, mappings: &UserMappings, others: CloneFlags) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        child::begins_in_new(&mut command, CloneFlags::CLONE_NEWUSER | others);
        let child = command.spawn().map_err(|source| Error::UserNamespace {
            action: "begin one",
            source,
        })?;
        let holder = Self {
            child,
            mappings: *mappings,
        };
        for (file, range) in [("uid_map", mappings.uids), ("gid_map", mappings.gids)] {
            let path = format!("/proc/{}/{file}", holder.child.id());
            std::fs::write(path, range.as_map()).map_err(|source| Error::UserNamespace {
                action: "map its ids",
                source,
            })?;
        }
        Ok(holder)
    }

    /// The file that stands for its namespace of this kind.
    pub(super) fn namespace(&self, kind: Kind) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.child.id()).into()
    }

    /// Takes the calling thread into the namespaces that need no user namespace of its own to enter.
    pub(super) fn join(&self, kinds: &[Kind]) -> Result<()> {
        for kind in kinds {
            let joined = File::open(self.namespace(*kind)).and_then(|file| {
                let only = match kind {
                    Kind::Net => LinkNameSpaceType::Network,
                    Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
                    Kind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
                    Kind::User => return Ok(()),
                };
                Ok(move_into_link_name_space(file.as_fd(), Some(only))?)
            });
            joined.map_err(|source| Error::UserNamespace {
                action: "join its namespaces",
                source,
            })?;
        }
        Ok(())
    }

    /// Does something as the root of the user namespace: some sysctls are written by nobody else, not even by the node's root.
    pub(super) fn as_its_root<T>(&self, act: impl FnOnce() -> T) -> Result<T> {
        let failed = |source: rustix::io::Errno| Error::UserNamespace {
            action: "act as its root",
            source: source.into(),
        };
        let own = geteuid();
        let root = rustix::process::Uid::from_raw(self.mappings.uids.first);
        set_thread_res_uid(None, root, None).map_err(failed)?;
        let done = act();
        let back = set_thread_res_uid(None, own, None).map_err(failed);
        // The kernel takes a process whose ids change for one that has something to hide.
        let dumpable = nix::sys::prctl::set_dumpable(true);
        back?;
        dumpable.map_err(|errno| Error::UserNamespace {
            action: "act as its root",
            source: io::Error::from(errno),
        })?;
        Ok(done)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            tracing::warn!(%error, "end the process that held new namespaces, ignoring");
        }
    }
}
