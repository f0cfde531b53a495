//! Over SPDY: a stream each for error, stdin, stdout, stderr and resize, named by the header `streamtype`.

use super::resize::Sizes;
use super::{Client, Left, begin, show_to_the_end};
use crate::drivers::seams::{Input, Output};
use crate::lifecycle::Lifecycle;
use crate::streaming::Command;
use crate::streaming::spdy::frame::{ResetReason, StreamId};
use crate::streaming::spdy::{Closed, Connection, Opened, Received, Sender};
use crate::streaming::status::Status;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a client may take to open all its streams.
const STREAMS_LIMIT: Duration = Duration::from_secs(30);

/// The first version with a stream for sizes.
const WITH_RESIZE: u8 = 3;
/// The first version whose error stream has JSON.
const WITH_STATUS: u8 = 4;

/// Runs or attaches, once the client has opened its streams; returns when all is said.
pub async fn over_spdy(lifecycle: &Lifecycle, command: Command, version: u8, mut connection: Connection) {
    let wanted = command.streams;
    let expected: Vec<&'static str> = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty && version >= WITH_RESIZE),
    ]
    .into_iter()
    .filter_map(|(kind, wanted)| wanted.then_some(kind))
    .collect();
    let Ok(Some(mut streams)) = timeout(STREAMS_LIMIT, all_streams(&mut connection, &expected)).await else {
        tracing::debug!(?expected, "a client did not open its streams");
        let _ = connection.sender.close().await;
        return;
    };
    let id = |streams: &HashMap<&str, Opened>, kind| streams.get(kind).map(|stream| stream.id);
    let mut client = SpdyClient {
        version,
        error: id(&streams, "error").unwrap_or_default(),
        stdout: id(&streams, "stdout"),
        stderr: id(&streams, "stderr"),
        inputs: ["stdin", "resize"]
            .into_iter()
            .filter_map(|kind| id(&streams, kind))
            .collect(),
        sender: connection.sender.clone(),
    };
    let session = match begin(lifecycle, command).await {
        Ok(session) => session,
        Err(error) => {
            let _ = client.finish(Status::Failed(error.to_string())).await;
            return;
        }
    };
    let stdin = streams.remove("stdin").map(|stream| stream.received);
    let resize = streams.remove("resize").map(|stream| stream.received);
    let to_session = session.input.clone();
    let input = async {
        let keys = to_session.clone();
        tokio::join!(type_in(stdin, keys), size(resize, to_session));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Who has left hears nothing.
        _ = show_to_the_end(session, wanted, &mut client) => {}
        () = input => {}
    }
}

/// The streams expected, by type; `None` when the connection ends before.
async fn all_streams<'a>(connection: &mut Connection, expected: &[&'a str]) -> Option<HashMap<&'a str, Opened>> {
    let mut streams = HashMap::new();
    while streams.len() < expected.len() {
        let stream = connection.opened.recv().await?;
        let kind = stream.headers.get("streamtype");
        // What nobody asked for is not looked at; of two of a kind the first counts.
        if let Some(kind) = expected.iter().find(|name| kind.is_some_and(|kind| kind == *name)) {
            streams.entry(*kind).or_insert(stream);
        }
    }
    Some(streams)
}

async fn type_in(stdin: Option<mpsc::Receiver<Received>>, session: mpsc::Sender<Input>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(received) = stdin.recv().await {
        let (input, last) = match received {
            Received::Data(bytes) => (Input::Stdin(bytes), false),
            Received::Fin => (Input::End, true),
        };
        if session.send(input).await.is_err() || last {
            return;
        }
    }
    // Reset: there is no more to come either.
    let _ = session.send(Input::End).await;
}

async fn size(resize: Option<mpsc::Receiver<Received>>, session: mpsc::Sender<Input>) {
    let Some(mut resize) = resize else { return };
    let mut sizes = Sizes::default();
    while let Some(Received::Data(bytes)) = resize.recv().await {
        if let Some(size) = sizes.take(&bytes)
            && session.send(size).await.is_err()
        {
            return;
        }
    }
}

struct SpdyClient {
    version: u8,
    error: StreamId,
    stdout: Option<StreamId>,
    stderr: Option<StreamId>,
    /// Stdin and resize.
    inputs: Vec<StreamId>,
    sender: Sender,
}

impl From<Closed> for Left {
    fn from(_: Closed) -> Left {
        Left
    }
}

impl Client for SpdyClient {
    async fn show(&mut self, output: Output) -> Result<(), Left> {
        let (stream, bytes) = match output {
            Output::Stdout(bytes) => (self.stdout, bytes),
            Output::Stderr(bytes) => (self.stderr, bytes),
        };
        if let Some(stream) = stream {
            self.sender.data(stream, &bytes).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, status: Status) -> Result<(), Left> {
        for stream in [self.stdout, self.stderr].into_iter().flatten() {
            self.sender.fin(stream).await?;
        }
        let said = if self.version >= WITH_STATUS {
            status.json()
        } else {
            status.text()
        };
        self.sender.data(self.error, said.as_bytes()).await?;
        self.sender.fin(self.error).await?;
        for stream in &self.inputs {
            self.sender.reset(*stream, ResetReason::Cancel).await?;
        }
        Ok(self.sender.close().await?)
    }
}
