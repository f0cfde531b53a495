//! Where output is kept.

pub mod cri;
