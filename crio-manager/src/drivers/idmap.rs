//! Id-mapped copies of mounts: in one, the files of id 0 belong to whoever is 0 in a user namespace, and so on.
//!
//! We make them ourselves, for every OCI runtime: root file systems are mounted by us anyway, and runc before 1.2 and
//! crun before 1.9 cannot.

use rustix::fs::{AtFlags, CWD};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What of a tree of mounts is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The one mount.
    One,
    /// It, and all that is mounted beneath.
    All,
}

/// A copy of the mount at `path` with the ids of `users`, a user namespace, that is not mounted anywhere yet.
///
/// Errors: the file system cannot be id-mapped (`EINVAL`), or is already (`EPERM`).
pub(super) fn copy(path: &Path, users: &impl AsFd, depth: Depth) -> io::Result<OwnedFd> {
    let recursive = match depth {
        Depth::One => OpenTreeFlags::empty(),
        Depth::All => OpenTreeFlags::AT_RECURSIVE,
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive;
    let tree = open_tree(CWD, path, flags)?;
    set_ids(tree.as_fd(), users.as_fd(), depth)?;
    Ok(tree)
}

/// The same, mounted at `target`.
pub(super) fn mount(path: &Path, users: &impl AsFd, depth: Depth, target: &Path) -> io::Result<()> {
    let tree = copy(path, users, depth)?;
    Ok(move_mount(
        &tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

#[allow(unsafe_code)] // A system call that neither rustix nor nix wraps.
fn set_ids(tree: BorrowedFd<'_>, users: BorrowedFd<'_>, depth: Depth) -> io::Result<()> {
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?,
    };
    let recursive = match depth {
        Depth::One => AtFlags::empty(),
        Depth::All => AtFlags::from_bits_retain(libc::AT_RECURSIVE.cast_unsigned()),
    };
    let flags = (AtFlags::EMPTY_PATH | recursive).bits();
    // SAFETY: the descriptors are open, the path is an empty C string, and the attributes outlive the call, which reads
    // as many bytes of them as it is told.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
