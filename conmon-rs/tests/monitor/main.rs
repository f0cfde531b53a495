//! The built monitor, run against a scripted runtime on this kernel. Each file is one promise of docs/monitor-contract.md.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod arguments;
mod attach;
mod caller;
mod confined;
mod exec;
mod exit_command;
mod exit_record;
mod exit_status;
mod harness;
mod journald;
mod killed;
mod listen_pid;
mod log_format;
mod notify;
mod oom;
mod passthrough;
mod real_runtime;
mod reopen;
mod rotation;
mod runtime_failures;
mod side_by_side;
mod sync_pipe;
mod terminal;
mod timeout;
mod tracer;
