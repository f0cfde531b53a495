//! One seam per outside thing. No driver calls another one through its seam.

pub mod additions;
pub mod bundle;
pub mod cgroup;
pub mod child;
pub mod clock;
mod copy;
#[cfg(test)]
pub mod fake;
pub mod fd_store;
pub mod host;
mod idmap;
pub mod image;
pub mod monitor;
pub mod namespaces;
pub mod network;
pub mod process;
pub mod readiness;
pub mod record_file;
pub mod runtime;
pub mod seams;
pub mod selinux;
pub mod store;
mod traffic;
