//! Over WebSocket: every message begins with its channel.

use super::resize::Sizes;
use super::{Client, Left, begin, show_to_the_end};
use crate::drivers::seams::{Input, Output};
use crate::lifecycle::Lifecycle;
use crate::streaming::status::Status;
use crate::streaming::websocket::{CLOSE, Incoming, Outgoing};
use crate::streaming::{Command, Streams};
use bytes::Bytes;
use tokio::sync::mpsc;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// The first version whose error channel has JSON.
const WITH_STATUS: u8 = 4;
/// The first version that can close a channel.
const WITH_CLOSE: u8 = 5;

/// Runs or attaches; returns when all is said.
pub async fn over_websocket(
    lifecycle: &Lifecycle,
    command: Command,
    version: u8,
    mut incoming: Incoming,
    outgoing: Outgoing,
) {
    let wanted = command.streams;
    let mut client = ChannelClient { version, outgoing };
    if client.outgoing.send(lowest(wanted), &[]).await.is_err() {
        return;
    }
    let session = match begin(lifecycle, command).await {
        Ok(session) => session,
        Err(error) => {
            let _ = client.finish(Status::Failed(error.to_string())).await;
            return;
        }
    };
    let to_session = session.input.clone();
    let input = async {
        take_input(&mut incoming, wanted, version, to_session).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Who has left hears nothing.
        _ = show_to_the_end(session, wanted, &mut client) => {}
        () = input => {}
    }
}

/// The channel whose first, empty message says that all is well.
fn lowest(wanted: Streams) -> u8 {
    match wanted {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => ERROR,
    }
}

async fn take_input(incoming: &mut Incoming, wanted: Streams, version: u8, session: mpsc::Sender<Input>) {
    let mut sizes = Sizes::default();
    let mut open = wanted.stdin;
    while let Some((channel, bytes)) = incoming.next().await {
        let input = match channel {
            STDIN if open && !bytes.is_empty() => Some(Input::Stdin(bytes)),
            RESIZE if wanted.tty => sizes.take(&bytes),
            CLOSE if version >= WITH_CLOSE && open && bytes == Bytes::from_static(&[STDIN]) => {
                open = false;
                Some(Input::End)
            }
            _ => None,
        };
        if let Some(input) = input
            && session.send(input).await.is_err()
        {
            return;
        }
    }
}

struct ChannelClient {
    version: u8,
    outgoing: Outgoing,
}

impl Client for ChannelClient {
    async fn show(&mut self, output: Output) -> Result<(), Left> {
        let (channel, bytes) = match &output {
            Output::Stdout(bytes) => (STDOUT, bytes),
            Output::Stderr(bytes) => (STDERR, bytes),
        };
        self.outgoing.send(channel, bytes).await.map_err(|_gone| Left)
    }

    async fn finish(&mut self, status: Status) -> Result<(), Left> {
        let said = if self.version >= WITH_STATUS {
            status.json()
        } else {
            status.text()
        };
        if !said.is_empty() {
            let sent = self.outgoing.send(ERROR, said.as_bytes()).await;
            sent.map_err(|_gone| Left)?;
        }
        self.outgoing.close().await.map_err(|_gone| Left)
    }
}
