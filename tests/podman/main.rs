//! Debian's Podman with our monitor, as its users drive it. Each file is one thing that they do.

mod attach;
mod exec;
mod handoff;
mod life;
mod logs;
mod network;
