//! WebSocket connections that were agreed upon: messages with a channel in front, or a tunnel for another protocol.

use super::idle::Idle;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// The largest message that is taken, in bytes.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// Messages that wait, each way.
const MESSAGES_QUEUED: usize = 8;

/// What waits in a tunnel, each way, in bytes.
const TUNNEL_BYTES: usize = 64 * 1024;

/// The channel of a message that closes another one: that in its only byte. Since version 5.
pub const CLOSE: u8 = 255;

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Closed;

/// Messages from the client.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<(u8, Bytes)>);

impl Incoming {
    /// The next one, channel first; `None` when the client has left.
    pub async fn next(&mut self) -> Option<(u8, Bytes)> {
        self.0.recv().await
    }
}

/// Messages to the client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outgoing {
    base64: bool,
    messages: mpsc::Sender<Message>,
}

impl Outgoing {
    /// Sends one message.
    pub async fn send(&self, channel: u8, payload: &[u8]) -> Result<(), Closed> {
        let message = if self.base64 {
            let mut text = String::from(char::from(b'0' + channel % 10));
            STANDARD.encode_string(payload, &mut text);
            Message::text(text)
        } else {
            let mut bytes = BytesMut::with_capacity(1 + payload.len());
            bytes.put_u8(channel);
            bytes.put_slice(payload);
            Message::binary(bytes.freeze())
        };
        self.messages.send(message).await.map_err(|_gone| Closed)
    }

    /// Says good-bye; whatever is sent later is lost.
    pub async fn close(&self) -> Result<(), Closed> {
        self.messages.send(goodbye()).await.map_err(|_gone| Closed)
    }
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

/// Messages with channels. The future does the work; it ends when the client has left.
pub async fn channels<Io>(io: Io, idle: Idle, base64: bool) -> (Incoming, Outgoing, impl Future<Output = ()>)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (sink, stream) = open(io).await.split();
    let (come, incoming) = mpsc::channel(MESSAGES_QUEUED);
    let (messages, queued) = mpsc::channel(MESSAGES_QUEUED);
    let work = async move {
        let ended = tokio::try_join!(
            read_channels(stream, come, idle.clone(), base64),
            write_messages(sink, queued, idle)
        );
        if let Err(error) = ended {
            tracing::debug!(%error, "a WebSocket ended");
        }
    };
    (Incoming(incoming), Outgoing { base64, messages }, work)
}

async fn open<Io: AsyncRead + AsyncWrite + Unpin>(io: Io) -> WebSocketStream<Io> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Returns an error in any case: the other direction is of no use then.
async fn read_channels<Io: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<Io>>,
    come: mpsc::Sender<(u8, Bytes)>,
    idle: Idle,
    base64: bool,
) -> Result<(), Error> {
    while let Some(message) = stream.next().await {
        idle.touch();
        let parsed = match message? {
            Message::Binary(bytes) if !base64 => split(bytes),
            Message::Text(text) if base64 => decode(&text),
            // Pings are answered by the library; other messages mean nothing here.
            _ => None,
        };
        if let Some(message) = parsed {
            // Whoever took them may have left: what comes then is of no use to anybody.
            let _ = come.send(message).await;
        }
        idle.touch();
    }
    Err(Error::ConnectionClosed)
}

/// Channel and payload; `None` for an empty message.
fn split(mut message: Bytes) -> Option<(u8, Bytes)> {
    let channel = *message.first()?;
    Some((channel, message.split_off(1)))
}

/// The same of a text message; `None` also for one that is not base64.
fn decode(text: &str) -> Option<(u8, Bytes)> {
    let (channel, payload) = text.split_at_checked(1)?;
    let channel = channel.parse().ok()?;
    Some((channel, STANDARD.decode(payload).ok()?.into()))
}

async fn write_messages<Io: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<Io>, Message>,
    mut queued: mpsc::Receiver<Message>,
    idle: Idle,
) -> Result<(), Error> {
    while let Some(message) = queued.recv().await {
        let last = message.is_close();
        sink.send(message).await?;
        idle.touch();
        if last {
            break;
        }
    }
    Ok(())
}

/// A tunnel: what is read and written at its end travels in binary messages, cut anywhere.
pub async fn tunnel<Io>(io: Io) -> (DuplexStream, impl Future<Output = ()>)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sink, mut stream) = open(io).await.split();
    let (ours, theirs) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut from_us, mut to_us) = tokio::io::split(theirs);
    let work = async move {
        let read = async {
            while let Some(message) = stream.next().await {
                match message? {
                    Message::Binary(bytes) => to_us.write_all(&bytes).await?,
                    Message::Text(_) => break,
                    _ => {}
                }
            }
            Err::<(), Error>(Error::ConnectionClosed)
        };
        let write = async {
            let mut piece = BytesMut::new();
            loop {
                piece.reserve(TUNNEL_BYTES / 2);
                if from_us.read_buf(&mut piece).await? == 0 {
                    sink.send(goodbye()).await?;
                    return Ok(());
                }
                sink.send(Message::binary(piece.split().freeze())).await?;
            }
        };
        if let Err(error) = tokio::try_join!(read, write) {
            tracing::debug!(%error, "a tunnel ended");
        }
    };
    (ours, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::damage::damaged;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_channel_is_the_first_byte_or_digit() {
        assert_eq!(
            split(Bytes::from_static(b"\x00ab")),
            Some((0, Bytes::from_static(b"ab")))
        );
        assert_eq!(split(Bytes::new()), None);
        assert_eq!(decode("0YWI="), Some((0, Bytes::from_static(b"ab"))));
        for bad in ["", "x", "0***", "é"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    /// Feeds raw bytes to a server that has agreed, and gives what it made of them.
    async fn messages_of(bytes: Vec<u8>) -> usize {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let idle = Idle::new(Duration::from_secs(60));
        let (mut incoming, _outgoing, work) = channels(server, idle, false).await;
        client.write_all(&bytes).await.unwrap();
        drop(client);
        let count = async {
            let mut count = 0;
            while incoming.next().await.is_some() {
                count += 1;
            }
            count
        };
        tokio::join!(work, count).1
    }

    #[tokio::test]
    async fn a_frame_that_promises_too_much_is_refused_before_it_is_read() {
        // Binary, masked, of 2^40 bytes.
        let mut frame = vec![0x82, 0xff];
        frame.extend_from_slice(&(1_u64 << 40).to_be_bytes());
        frame.extend_from_slice(&[0; 64]);
        assert_eq!(messages_of(frame).await, 0);
    }

    proptest! {
        #[test]
        fn junk_ends_the_connection_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(messages_of(bytes));
        }

        #[test]
        fn damaged_frames_end_the_connection_and_nothing_else(
            // Masked with zeros: text in two fragments around a ping, one byte of a channel, a close.
            bytes in damaged([
                &[0x01, 0x82, 0, 0, 0, 0, b'0', b'a'][..], &[0x89, 0x81, 0, 0, 0, 0, b'p'], &[0x80, 0x81, 0, 0, 0, 0, b'b'],
                &[0x82, 0x81, 0, 0, 0, 0, 0], &[0x82, 0xfe, 0, 3, 0, 0, 0, 0, 4, 1, 2], &[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8],
            ].concat()),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(messages_of(bytes));
        }
    }
}
