//! A connection: what the client sends becomes a queue per stream, what we send waits in one queue for the socket.

use super::Malformed;
use super::frame::{self, Control, HEAD_BYTES, Head, ResetReason, StreamId};
use super::headers::{BlockReader, BlockWriter, Headers};
use crate::streaming::idle::Idle;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

/// Frames that wait for the socket.
const FRAMES_QUEUED: usize = 16;

/// Pieces of data that wait for whoever takes a stream's; then the whole connection waits, as SPDY has no other means
/// that the clients of the field obey.
const PIECES_QUEUED: usize = 8;

/// The largest piece, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// Streams that are open at once; more are refused.
const STREAMS_AT_ONCE: usize = 2048;

/// New streams that nobody has looked at yet.
const STREAMS_QUEUED: usize = 16;

/// How long our side stays open after the last frame; a client that closes its own before is not waited for.
const CLIENT_CLOSES: Duration = Duration::from_millis(500);

/// What comes on a stream. The queue's end without `Fin` is a reset, or the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Never empty.
    Data(Bytes),
    /// The client has no more to say on it.
    Fin,
}

/// A stream that the client opened and that was answered.
#[derive(Debug)]
pub struct Opened {
    /// Its number.
    pub id: StreamId,
    /// What it was opened with.
    pub headers: Headers,
    /// What comes on it.
    pub received: mpsc::Receiver<Received>,
}

/// Our end of a connection.
#[derive(Debug)]
pub struct Connection {
    /// Streams in the order of their opening; ends with the connection.
    pub opened: mpsc::Receiver<Opened>,
    /// Sends.
    pub sender: Sender,
}

/// The connection has ended, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Closed;

/// Sends frames, in order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    frames: mpsc::Sender<Frame>,
}

#[derive(Debug)]
enum Frame {
    Bytes(Vec<u8>),
    /// Nothing follows.
    Last(Vec<u8>),
}

impl Sender {
    /// Sends data, in frames of at most `DATA_BYTES`.
    pub async fn data(&self, stream: StreamId, payload: &[u8]) -> Result<(), Closed> {
        for piece in payload.chunks(frame::DATA_BYTES) {
            self.send(frame::data(stream, piece, false)).await?;
        }
        Ok(())
    }

    /// Closes our direction of a stream.
    pub async fn fin(&self, stream: StreamId) -> Result<(), Closed> {
        self.send(frame::data(stream, &[], true)).await
    }

    /// Ends a stream in both directions.
    pub async fn reset(&self, stream: StreamId, reason: ResetReason) -> Result<(), Closed> {
        self.send(frame::reset(stream, reason)).await
    }

    /// Says good-bye; whatever is sent later is lost.
    pub async fn close(&self) -> Result<(), Closed> {
        self.frames
            .send(Frame::Last(frame::go_away(0)))
            .await
            .map_err(|_gone| Closed)
    }

    async fn send(&self, frame: Vec<u8>) -> Result<(), Closed> {
        self.frames.send(Frame::Bytes(frame)).await.map_err(|_gone| Closed)
    }
}

/// Speaks SPDY on `io`. The future does the work; it ends when the client closes its side, or breaks the protocol.
///
/// `accepts` says of a new stream's headers whether it is answered or refused. Nothing is sent before the client has.
pub fn connect<Io>(
    io: Io,
    idle: Idle,
    accepts: fn(&Headers) -> bool,
) -> (Connection, impl Future<Output = Result<(), Ended>>)
where
    Io: AsyncRead + AsyncWrite + Send,
{
    let (frames, queued) = mpsc::channel(FRAMES_QUEUED);
    let (streams, opened) = mpsc::channel(STREAMS_QUEUED);
    let sender = Sender { frames };
    let (input, output) = tokio::io::split(io);
    let reader = Reader {
        input: BufReader::with_capacity(PIECE_BYTES, input),
        blocks: BlockReader::new(),
        replies: BlockWriter::new(),
        queues: HashMap::new(),
        newest: 0,
        opened: Some(streams),
        sender: sender.clone(),
        idle: idle.clone(),
        accepts,
    };
    let work = async move {
        tokio::try_join!(reader.run(), write(output, queued, idle))?;
        Ok(())
    };
    (Connection { opened, sender }, work)
}

/// Why a connection ended, other than by its end.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client did.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Sends what is queued. Returns when the last frame is out, and the client has had its time to close the connection itself:
/// its library may still answer what it reads, and lose it all when it finds that nobody listens.
async fn write(
    mut output: impl AsyncWrite + Unpin,
    mut queued: mpsc::Receiver<Frame>,
    idle: Idle,
) -> Result<(), Ended> {
    while let Some(frame) = queued.recv().await {
        idle.touch();
        match frame {
            Frame::Bytes(bytes) => output.write_all(&bytes).await?,
            Frame::Last(bytes) => {
                output.write_all(&bytes).await?;
                output.flush().await?;
                tokio::time::sleep(CLIENT_CLOSES).await;
                break;
            }
        }
        if queued.is_empty() {
            output.flush().await?;
        }
    }
    Ok(output.shutdown().await?)
}

struct Reader<Input> {
    input: BufReader<Input>,
    blocks: BlockReader,
    replies: BlockWriter,
    /// Of streams whose client side is open.
    queues: HashMap<StreamId, mpsc::Sender<Received>>,
    newest: StreamId,
    /// `None` once the client has said good-bye.
    opened: Option<mpsc::Sender<Opened>>,
    sender: Sender,
    idle: Idle,
    accepts: fn(&Headers) -> bool,
}

impl<Input: AsyncRead + Unpin> Reader<Input> {
    /// Reads until the client closes its side.
    async fn run(mut self) -> Result<(), Ended> {
        let mut head = [0; HEAD_BYTES];
        loop {
            self.input.read_exact(&mut head).await?;
            self.idle.touch();
            match Head::parse(head)? {
                Head::Data { stream, fin, length } => self.data(stream, length, fin).await?,
                Head::Control { kind, flags, length } => {
                    let mut payload = vec![0; length];
                    self.input.read_exact(&mut payload).await?;
                    self.control(Control::parse(kind, flags, &payload)?).await?;
                }
            }
        }
    }

    async fn data(&mut self, stream: StreamId, mut length: usize, fin: bool) -> Result<(), Ended> {
        while length > 0 {
            let mut piece = vec![0; length.min(PIECE_BYTES)];
            self.input.read_exact(&mut piece).await?;
            length -= piece.len();
            let taken = u32::try_from(piece.len()).unwrap_or_default();
            if let Some(queue) = self.queues.get(&stream) {
                // Whoever took the stream may have left: what comes then is of no use to anybody.
                let _ = queue.send(Received::Data(piece.into())).await;
            }
            self.idle.touch();
            for of in [stream, 0] {
                let _ = self.sender.send(frame::window_update(of, taken)).await;
            }
        }
        if fin && let Some(queue) = self.queues.remove(&stream) {
            let _ = queue.send(Received::Fin).await;
        }
        Ok(())
    }

    async fn control(&mut self, control: Control<'_>) -> Result<(), Ended> {
        match control {
            Control::SynStream { stream, fin, block } => {
                let headers = self.blocks.read(block)?;
                self.open(stream, fin, headers).await;
            }
            Control::Headers { block } => drop(self.blocks.read(block)?),
            Control::Reset { stream } => drop(self.queues.remove(&stream)),
            // A server's pings are even, and we send none.
            Control::Ping { id } if id % 2 == 1 => {
                // One that does not read would not see it.
                let _ = self.sender.frames.try_send(Frame::Bytes(frame::ping(id)));
            }
            Control::GoAway => self.opened = None,
            Control::Ping { .. } | Control::Ignored => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: StreamId, fin: bool, headers: Headers) {
        let refuse = |reason| self.sender.send(frame::reset(stream, reason));
        if stream.is_multiple_of(2) || stream <= self.newest {
            let _ = refuse(ResetReason::Protocol).await;
            return;
        }
        self.newest = stream;
        self.queues.retain(|_, queue| !queue.is_closed());
        let Some(opened) = &self.opened else {
            let _ = refuse(ResetReason::Refused).await;
            return;
        };
        if !(self.accepts)(&headers) || self.queues.len() >= STREAMS_AT_ONCE {
            let _ = refuse(ResetReason::Refused).await;
            return;
        }
        let reply = self.replies.write(&[(":status", "200"), (":version", "HTTP/1.1")]);
        let _ = self.sender.send(frame::syn_reply(stream, &reply)).await;
        let (queue, received) = mpsc::channel(PIECES_QUEUED);
        if fin {
            // Has room: it is new.
            let _ = queue.try_send(Received::Fin);
        } else {
            self.queues.insert(stream, queue);
        }
        let id = stream;
        let _ = opened.send(Opened { id, headers, received }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::damage::damaged;
    use proptest::prelude::*;

    /// Nothing takes so long but a connection that hangs.
    const LIMIT: Duration = Duration::from_secs(60);

    /// Two streams with data, a ping, a window, a reset and a good-bye.
    fn conversation() -> Vec<u8> {
        let mut blocks = BlockWriter::new();
        let mut open = |stream: u32| {
            let block = blocks.write(&[("streamtype", "stdin"), ("port", "80")]);
            let length = u32::try_from(block.len() + 10).unwrap();
            let mut bytes = vec![0x80, 3, 0, 1];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&stream.to_be_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&block);
            bytes
        };
        let frames = [
            open(1),
            open(3),
            frame::data(1, b"abc", false),
            frame::ping(1),
            frame::window_update(1, 9),
            frame::data(3, b"de", true),
            frame::reset(1, ResetReason::Cancel),
            frame::go_away(3),
        ];
        frames.concat()
    }

    /// What a server makes of these bytes: the streams that were opened, and how the connection ended.
    async fn opened_by(bytes: Vec<u8>) -> (usize, Result<(), Ended>) {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (Connection { mut opened, sender }, work) = connect(server, Idle::new(LIMIT), |_| true);
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        drop(sender);
        let count = async {
            let mut count = 0;
            while let Some(mut stream) = opened.recv().await {
                while stream.received.try_recv().is_ok() {}
                count += 1;
            }
            count
        };
        let (ended, count) = tokio::time::timeout(LIMIT, async { tokio::join!(work, count) })
            .await
            .unwrap();
        (count, ended)
    }

    #[tokio::test]
    async fn the_conversation_that_is_damaged_is_good() {
        let (opened, ended) = opened_by(conversation()).await;
        // Who closes without a word of it, after the good-bye too, has left.
        let left = matches!(&ended, Err(Ended::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof);
        assert!(left, "{ended:?}");
        assert_eq!(opened, 2);
    }

    proptest! {
        #[test]
        fn a_damaged_conversation_ends_and_harms_nothing(bytes in damaged(conversation())) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let (opened, _) = runtime.block_on(opened_by(bytes));
            prop_assert!(opened <= STREAMS_AT_ONCE);
        }
    }
}
