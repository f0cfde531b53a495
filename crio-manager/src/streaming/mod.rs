//! The first room's second door: exec, attach and port-forward, over HTTP.
//!
//! The CRI call leaves what was asked under a one-time token and answers with a URL; whoever dials it within a minute gets
//! a session: a protocol of the field (`spdy`, `websocket`) on one side, a `Session` or a socket of `lifecycle`'s on the
//! other. A session is one task; when it ends, for whatever reason, everything that it held is dropped, and `lifecycle`
//! hangs up what it had started.
//!
//! - `server`: listens, finds the request of a token, answers the upgrade
//! - `token`, `idle`, `status`, `tls`: one-time tokens; silence; what an error channel says; certificates
//! - `spdy`, `websocket`: bytes to streams or channels, and back
//! - `remote_command`: exec and attach; `port_forward`: ports

mod idle;
mod port_forward;
mod remote_command;
mod server;
mod spdy;
mod status;
mod tls;
mod token;
mod upgrade;
mod websocket;

pub use server::{Address, Server, Urls};
pub use tls::{Certificates, TlsFiles};
pub use token::TooMany;

use crate::model::{ContainerId, SandboxId};
use crate::spans;

/// What a client may dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A command of its own, or the container's standard streams.
    Command(Command),
    /// A pod's ports.
    Ports {
        /// Which pod.
        id: SandboxId,
        /// For the WebSocket protocol without SPDY, which cannot name ports itself.
        ports: Vec<u16>,
    },
}

/// An exec or an attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Where.
    pub id: ContainerId,
    /// What to run; `None` attaches to what runs.
    pub words: Option<Vec<String>>,
    /// Which streams the client wants.
    pub streams: Streams,
}

/// The standard streams that a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// To type.
    pub stdin: bool,
    /// To see.
    pub stdout: bool,
    /// Never with `tty`.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Asked {
    /// What its stream is called in a trace.
    fn span(&self) -> &'static str {
        match self {
            Asked::Command(Command { words: Some(_), .. }) => "exec stream",
            Asked::Command(Command { words: None, .. }) => "attach stream",
            Asked::Ports { .. } => "port-forward stream",
        }
    }

    /// Says in a trace what it is a stream to.
    fn note(&self) {
        match self {
            Asked::Command(Command { id, .. }) => spans::note("container_id", id.as_str()),
            Asked::Ports { id, .. } => spans::note("sandbox_id", id.as_str()),
        }
    }

    /// The first part of its URL's path.
    pub fn path(&self) -> &'static str {
        match self {
            Asked::Command(Command { words: Some(_), .. }) => "exec",
            Asked::Command(Command { words: None, .. }) => "attach",
            Asked::Ports { .. } => "portforward",
        }
    }
}
