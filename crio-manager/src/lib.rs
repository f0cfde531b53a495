//! The daemon of a Kubernetes node.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

pub mod cli;
pub mod config;
pub mod logging;
pub mod node;
