//! The daemon of a Kubernetes node.
//!
//! Three rooms in one direction:
//! - `service`: CRI over gRPC: parse → call → present; `service::manager`: what CRI has no call for, beside it
//! - `streaming`: the first room's second door: exec, attach and port-forward over HTTP
//! - `lifecycle`: what may happen, in which order; and the one door by which facts come in; `lifecycle::reap`: what is
//!   left half-made is removed in the background
//! - `drivers`: one seam per outside thing; `drivers::child`: what a child does between fork and exec
//!
//! Beside them:
//! - `model`: the nouns, their states and what may change those; pure
//! - `spec`: decisions → OCI runtime spec; pure
//! - `config`: files, environment and flags → one checked configuration
//! - `cli`: the command line; `status`: asks a daemon what it has and does; `images`, `wipe`: what there is, and its removal;
//!   `progress`: what a terminal shows meanwhile; `manual`: the man pages; `logging`: the daemon's own log; `journal`:
//!   as entries of systemd's journal
//! - `around`: something around each call, as metrics, spans, admission and inspection are
//! - `metrics`: what is counted, for Prometheus; `spans`: what took how long in a call, for OpenTelemetry
//! - `node`: builds the drivers from the configuration, hands them to the rooms, serves until SIGTERM
//! - `systemd`: what the service manager is told; `reload`: what SIGHUP changes
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

pub mod around;
pub mod check;
pub mod cli;
pub mod config;
#[cfg(test)]
mod damage;
pub mod drivers;
pub mod images;
pub mod journal;
pub mod lifecycle;
pub mod logging;
pub mod manual;
pub mod metrics;
pub mod model;
pub mod node;
pub mod progress;
pub mod reload;
pub mod service;
pub mod spans;
pub mod spec;
pub mod status;
pub mod streaming;
pub mod systemd;
pub mod wipe;
