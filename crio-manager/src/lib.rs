//! map
pub mod drivers;
