//! The daemon of a Kubernetes node.
//!
//! Three rooms in one direction: `service` (CRI over gRPC: parse → call → present) → `lifecycle` (what may happen, in
//! which order) → `drivers` (one seam per outside thing). `model` and `spec` are pure. `node` builds the drivers from
//! the configuration and hands them to the rooms.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

pub mod cli;
pub mod config;
pub mod drivers;
pub mod lifecycle;
pub mod logging;
pub mod model;
pub mod node;
pub mod service;
pub mod spec;
