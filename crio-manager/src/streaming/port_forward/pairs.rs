//! Over SPDY: for each connection the client opens a pair of streams, `error` and `data`, with the port and a number of
//! the request in their headers.

use super::PIECE_BYTES;
use crate::lifecycle::Lifecycle;
use crate::model::SandboxId;
use crate::streaming::spdy::frame::{ResetReason, StreamId};
use crate::streaming::spdy::{Closed, Connection, Headers, Opened, Received, Sender};
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How long the second stream of a pair may be in coming.
const PAIR_LIMIT: Duration = Duration::from_secs(30);

/// Pairs that wait for their second stream, and connections under way, of one client.
const PAIRS_AT_ONCE: usize = 1000;

/// What a stream is for, and which other one it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Purpose {
    is_data: bool,
    port: u16,
    request: Option<u32>,
}

fn purpose(headers: &Headers) -> Option<Purpose> {
    let is_data = match headers.get("streamtype")?.as_str() {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let port = headers.get("port")?.parse().ok().filter(|port| *port != 0)?;
    let request = match headers.get("requestid") {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    Some(Purpose { is_data, port, request })
}

/// Whether a new stream is one of a pair.
pub fn is_of_a_port(headers: &Headers) -> bool {
    purpose(headers).is_some()
}

/// Half a pair.
struct Half {
    data: Option<Opened>,
    error: Option<StreamId>,
    until: Instant,
}

/// Forwards until the client leaves.
pub async fn over_spdy(lifecycle: &Lifecycle, id: SandboxId, mut connection: Connection) {
    let sender = connection.sender.clone();
    let mut halves: HashMap<(u16, u32), Half> = HashMap::new();
    let mut forwards = JoinSet::new();
    loop {
        let next_end = halves.values().map(|half| half.until).min();
        let stream = tokio::select! {
            stream = connection.opened.recv() => match stream {
                Some(stream) => stream,
                None => break,
            },
            Some(_) = forwards.join_next() => continue,
            () = sleep_until(next_end.unwrap_or_else(Instant::now)), if next_end.is_some() => {
                give_up_old_ones(&mut halves, &sender).await;
                continue;
            }
        };
        let Some(purpose) = purpose(&stream.headers) else {
            continue;
        };
        if halves.len() + forwards.len() >= PAIRS_AT_ONCE {
            let _ = sender.reset(stream.id, ResetReason::Refused).await;
            continue;
        }
        // Old clients give no number: their error stream comes first, and the data stream has the next odd number.
        let old = if purpose.is_data {
            stream.id.saturating_sub(2)
        } else {
            stream.id
        };
        let key = (purpose.port, purpose.request.unwrap_or(old));
        let half = halves.entry(key).or_insert_with(|| Half {
            data: None,
            error: None,
            until: Instant::now() + PAIR_LIMIT,
        });
        let is_second_of_a_kind = match purpose.is_data {
            true if half.data.is_none() => {
                half.data = Some(stream);
                false
            }
            false if half.error.is_none() => {
                half.error = Some(stream.id);
                false
            }
            _ => {
                let _ = sender.reset(stream.id, ResetReason::Protocol).await;
                true
            }
        };
        if is_second_of_a_kind {
            if let Some(error) = half.error {
                let _ = complain(&sender, error, "this request has that stream already").await;
            }
            continue;
        }
        if let (Some(_), Some(error)) = (&half.data, half.error)
            && let Some(Half { data: Some(data), .. }) = halves.remove(&key)
        {
            let (lifecycle, id, sender) = (lifecycle.clone(), id.clone(), sender.clone());
            forwards.spawn(async move {
                // Ends early when the client has left.
                let _ = forward(&lifecycle, &id, purpose.port, data, error, &sender).await;
            });
        }
    }
    // What is under way may end as its ends do; the connection's own end ends it all.
    while forwards.join_next().await.is_some() {}
}

async fn give_up_old_ones(halves: &mut HashMap<(u16, u32), Half>, sender: &Sender) {
    let now = Instant::now();
    let old: Vec<_> = halves.extract_if(|_, half| half.until <= now).collect();
    for (_, half) in old {
        if let Some(error) = half.error {
            let _ = complain(sender, error, "the data stream of this request did not come").await;
        }
        if let Some(data) = half.data {
            let _ = sender.reset(data.id, ResetReason::Cancel).await;
        }
    }
}

/// Text on an error stream ends the client's whole connection: only what the user must see goes there.
async fn complain(sender: &Sender, error: StreamId, why: &str) -> Result<(), Closed> {
    sender.data(error, why.as_bytes()).await?;
    sender.fin(error).await
}

async fn forward(
    lifecycle: &Lifecycle,
    id: &SandboxId,
    port: u16,
    data: Opened,
    error: StreamId,
    sender: &Sender,
) -> Result<(), Closed> {
    let pod = match lifecycle.dial(id, port).await {
        Ok(pod) => pod,
        Err(failed) => {
            let why = format!("forward port {port} to pod sandbox {}: {failed}", id.short());
            complain(sender, error, &why).await?;
            return sender.reset(data.id, ResetReason::Cancel).await;
        }
    };
    let (from_pod, to_pod) = pod.into_split();
    let shown = async {
        let ended = show(from_pod, data.id, sender).await;
        // The client waits for the end of both.
        sender.fin(data.id).await?;
        sender.fin(error).await?;
        ended
    };
    let (shown, taken) = tokio::join!(shown, take(data.received, to_pod));
    match taken {
        Taken::All => shown,
        // It wants no more in either direction; what the pod would still have said is of no use.
        Taken::Reset => Ok(()),
    }
}

/// How the client's direction ended.
enum Taken {
    All,
    Reset,
}

async fn take(mut received: mpsc::Receiver<Received>, mut to_pod: tokio::net::tcp::OwnedWriteHalf) -> Taken {
    while let Some(received) = received.recv().await {
        match received {
            // The pod may have closed that direction alone.
            Received::Data(bytes) => drop(to_pod.write_all(&bytes).await),
            Received::Fin => {
                let _ = to_pod.shutdown().await;
                return Taken::All;
            }
        }
    }
    Taken::Reset
}

async fn show(mut from_pod: tokio::net::tcp::OwnedReadHalf, data: StreamId, sender: &Sender) -> Result<(), Closed> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from_pod.read(&mut piece).await {
            // A connection that breaks is an end like another to the client.
            Ok(0) | Err(_) => return Ok(()),
            Ok(length) => sender.data(data, piece.get(..length).unwrap_or_default()).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Option<Purpose> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        purpose(&headers)
    }

    #[test]
    fn a_stream_of_no_port_or_kind_is_refused() {
        let data = ("streamtype", "data");
        assert_eq!(
            of(&[data, ("port", "80"), ("requestid", "7")]),
            Some(Purpose {
                is_data: true,
                port: 80,
                request: Some(7)
            })
        );
        assert!(of(&[data, ("port", "80")]).is_some(), "old clients give no number");
        for port in ["0", "65536", "-1", "http", ""] {
            assert_eq!(of(&[data, ("port", port)]), None, "{port:?}");
        }
        assert_eq!(of(&[data]), None);
        assert_eq!(of(&[("port", "80")]), None);
        assert_eq!(of(&[("streamtype", "resize"), ("port", "80")]), None);
        assert_eq!(of(&[data, ("port", "80"), ("requestid", "x")]), None);
    }
}
