//! Waiting for file descriptors that we own.

use std::os::fd::OwnedFd;
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
