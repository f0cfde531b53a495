//! map
pub mod spec;
pub mod drivers;
