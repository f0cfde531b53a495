//! Waiting for file descriptors that we own.

use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the reactor watch a descriptor for being readable. Errors: it cannot be polled, or there are too many.
#[allow(unsafe_code)] // tokio asks for a promise that an `OwnedFd` keeps by its type.
pub fn watch(owned: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is valid and stays the same descriptor until it is dropped, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(owned, Interest::READABLE) }?)
}
