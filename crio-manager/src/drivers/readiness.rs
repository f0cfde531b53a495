//! File descriptors that we own: waiting for them, and those that a service manager gave us to own.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the reactor watch a descriptor for being readable or writable. Errors: as [`watch`].
pub fn watch_both_ways(owned: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    register(owned, Interest::READABLE | Interest::WRITABLE)
}

/// Has the reactor watch a descriptor for being readable. Errors: it cannot be polled, or there are too many.
pub fn watch(owned: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    register(owned, Interest::READABLE)
}

#[allow(unsafe_code)] // tokio asks for a promise that an `OwnedFd` keeps by its type.
fn register(owned: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is valid and stays the same descriptor until it is dropped, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(owned, interest) }?)
}

/// The descriptors that the service manager left open for this process, by their names. The first call has them all.
///
/// Called before this process opens anything itself: what it says is there must be nobody's yet.
///
/// Errors: what it says about them makes no sense, or they are not open.
///
/// Source: sd_listen_fds(3).
#[allow(unsafe_code)] // A number from outside becomes an owned descriptor.
pub fn handed_over() -> std::io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) || sd_notify::listen_fds()?.len() == 0 {
        return Ok(Vec::new());
    }
    let handed = sd_notify::listen_fds_with_names()?;
    // SAFETY: each is open, or the call above had failed to mark it close-on-exec; nobody else owns it, since nothing
    // was opened before and it is taken only once.
    Ok(handed
        .map(|(number, name)| (name, unsafe { OwnedFd::from_raw_fd(number) }))
        .collect())
}
