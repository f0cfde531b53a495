//! The command line → `MonitorPlan`, checked once.
//!
//! - `options`: the table of all there are; `grammar`: words → `Options`, as GLib's option parser reads them
//! - `check`: `Options` → `MonitorPlan`, or why not, in the order in which conmon complains; `log_path`: where output goes
//! - `plan`: what the monitor is asked to do

mod check;
mod grammar;
mod log_path;
mod options;
mod plan;

pub use check::Refusal;
pub use grammar::parse;
pub use options::{Options, help, version};
pub use plan::{Api, Confinement, ExitCommand, LogPlan, MonitorPlan, Rotation, StdioPlan, Task};
