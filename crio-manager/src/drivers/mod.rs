//! One seam per outside thing. No driver knows another.

pub mod namespaces;
pub mod network;
