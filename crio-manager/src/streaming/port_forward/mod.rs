//! Ports of a pod: over SPDY any number of connections to any port, over WebSocket channels one to each port asked for.

mod channels;
mod pairs;

pub use channels::over_channels;
pub use pairs::{is_of_a_port, over_spdy};

/// What is read from a pod's port at once, in bytes.
const PIECE_BYTES: usize = 32 * 1024;
