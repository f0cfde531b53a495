//! One seam per outside thing. No driver knows another.

pub mod cgroup;
pub mod namespaces;
pub mod network;
