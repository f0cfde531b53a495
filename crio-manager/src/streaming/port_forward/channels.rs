//! Over WebSocket without SPDY: the i-th port asked for has channel 2i for data and 2i + 1 for an error. There is no
//! half-close: the session ends when all connections have.

use super::PIECE_BYTES;
use crate::lifecycle::Lifecycle;
use crate::model::SandboxId;
use crate::streaming::websocket::{Closed, Incoming, Outgoing};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Pieces that wait for one port.
const PIECES_QUEUED: usize = 8;

/// Forwards until the client leaves, or all connections have ended.
pub async fn over_channels(
    lifecycle: &Lifecycle,
    id: SandboxId,
    ports: Vec<u16>,
    mut incoming: Incoming,
    outgoing: Outgoing,
) {
    let mut to_ports = Vec::new();
    let mut forwards = JoinSet::new();
    for (data, port) in (0_u8..).step_by(2).zip(ports) {
        for channel in [data, data + 1] {
            if outgoing.send(channel, &port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        let (to_port, from_client) = mpsc::channel(PIECES_QUEUED);
        to_ports.push(to_port);
        let (lifecycle, id, outgoing) = (lifecycle.clone(), id.clone(), outgoing.clone());
        forwards.spawn(async move {
            // Ends early when the client has left.
            let _ = forward(&lifecycle, &id, port, data, from_client, &outgoing).await;
        });
    }
    let distribute = async {
        while let Some((channel, bytes)) = incoming.next().await {
            if channel % 2 == 0
                && let Some(to_port) = to_ports.get(usize::from(channel / 2))
            {
                // One whose connection has ended takes nothing more.
                let _ = to_port.send(bytes).await;
            }
        }
    };
    tokio::select! {
        () = distribute => {}
        () = async { while forwards.join_next().await.is_some() {} } => {}
    }
    let _ = outgoing.close().await;
}

async fn forward(
    lifecycle: &Lifecycle,
    id: &SandboxId,
    port: u16,
    data: u8,
    mut from_client: mpsc::Receiver<Bytes>,
    outgoing: &Outgoing,
) -> Result<(), Closed> {
    let pod = match lifecycle.dial(id, port).await {
        Ok(pod) => pod,
        Err(failed) => {
            let why = format!("forward port {port} to pod sandbox {}: {failed}", id.short());
            return outgoing.send(data + 1, why.as_bytes()).await;
        }
    };
    let (mut from_pod, mut to_pod) = pod.into_split();
    let take = async {
        while let Some(bytes) = from_client.recv().await {
            if to_pod.write_all(&bytes).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let show = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match from_pod.read(&mut piece).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(length) => outgoing.send(data, piece.get(..length).unwrap_or_default()).await?,
            }
        }
    };
    tokio::select! {
        shown = show => shown,
        () = take => Ok(()),
    }
}
