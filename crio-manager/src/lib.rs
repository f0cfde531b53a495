//! map

pub mod drivers;
