//! CRI and manager.v1 over gRPC: parse → call → present. Holds no state. `inspect`: what cadvisor asks over HTTP/1.1.

pub mod admission;
mod events;
pub mod image;
pub mod inspect;
pub mod listener;
pub mod local;
pub mod manager;
mod metrics;
pub mod parse;
pub mod portions;
pub mod present;
pub mod runtime;
mod status;
mod usage;
