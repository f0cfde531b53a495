//! Exec and attach: a client's standard streams, over SPDY streams or WebSocket channels.

mod channels;
mod resize;
mod streams;

pub use channels::over_websocket;
pub use streams::over_spdy;

use super::status::Status;
use super::{Command, Streams};
use crate::drivers::seams::{Output, Session, SessionEnd};
use crate::lifecycle::{Error, Lifecycle};
use std::future::Future;

/// The way to a client, in its protocol.
trait Client: Send {
    /// Shows output. Errors: the client has left.
    fn show(&mut self, output: Output) -> impl Future<Output = Result<(), Left>> + Send;

    /// Says how it ended, and good-bye.
    fn finish(&mut self, status: Status) -> impl Future<Output = Result<(), Left>> + Send;
}

/// The client has left: there is nobody to tell anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left;

/// Begins what was asked.
async fn begin(lifecycle: &Lifecycle, command: Command) -> Result<Session, Error> {
    let Command { id, words, streams } = command;
    match words {
        Some(words) => lifecycle.exec_attached(&id, words, streams.tty, streams.stdin).await,
        None => lifecycle.attach(&id),
    }
}

/// Shows the client what comes, to the end.
async fn show_to_the_end(mut session: Session, streams: Streams, client: &mut impl Client) -> Result<(), Left> {
    while let Some(output) = session.output.recv().await {
        let wanted = match &output {
            Output::Stdout(_) => streams.stdout,
            Output::Stderr(_) => streams.stderr,
        };
        if wanted {
            client.show(output).await?;
        }
    }
    let status = match session.ended.await {
        Ok(Ok(SessionEnd::ExitCode(0) | SessionEnd::Closed)) => Status::Success,
        Ok(Ok(SessionEnd::ExitCode(code))) => Status::ExitCode(code),
        Ok(Err(error)) => Status::Failed(error.to_string()),
        Err(_lost) => Status::Failed("the session was lost, see the daemon's log".to_owned()),
    };
    client.finish(status).await
}
