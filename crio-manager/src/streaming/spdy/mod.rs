//! SPDY/3.1 as the field's clients speak it: a server for streams that the client opens. Nothing well-kept exists.
//!
//! Flow control is one-sided: the clients of the field neither keep to windows nor open them, so what we send waits for
//! TCP alone. A client that keeps to them is told what we have taken.

mod connection;
pub mod frame;
mod headers;

pub use connection::{Closed, Connection, Ended, Opened, Received, Sender, connect};
pub use headers::Headers;

/// The client broke the protocol; the connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);
