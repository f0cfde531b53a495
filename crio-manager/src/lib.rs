//! map
pub mod spec;
