//! GetContainerEvents: what happens, as a stream that ends when something would be missing.

use super::present;
use crate::lifecycle::events::Event;
use cri::v1;
use futures::StreamExt;
use futures::future::ready;
use futures::stream::BoxStream;
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::Status;

/// Events on their way to one client.
pub type EventStream = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

/// Every event; `DATA_LOSS`, counted, and the end for a client that has not read for so long that some are gone.
pub fn stream(events: Receiver<Arc<Event>>, all_missed: Counter) -> EventStream {
    let answers = BroadcastStream::new(events).map(move |event| match event {
        Ok(event) => Ok(present::event(&event)),
        Err(BroadcastStreamRecvError::Lagged(missed)) => {
            all_missed.inc_by(missed);
            Err(Status::data_loss(format!(
                "{missed} events were not read in time: list what is there and watch anew"
            )))
        }
    });
    let mut whole = true;
    answers
        .take_while(move |answer| ready(std::mem::replace(&mut whole, answer.is_ok())))
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::events::What;
    use crate::model::Timestamp;
    use tonic::Code;

    fn event(number: usize) -> Arc<Event> {
        Arc::new(Event {
            what: What::Created,
            id: number.to_string(),
            at: Timestamp::from_nanos(1),
            sandbox: None,
            containers: Vec::new(),
        })
    }

    #[tokio::test]
    async fn who_does_not_read_is_told_what_is_missing_and_then_nothing_more() {
        let (sender, receiver) = tokio::sync::broadcast::channel(4);
        for number in 0..10 {
            assert!(sender.send(event(number)).is_ok(), "nobody waits for the reader");
        }
        let all_missed = Counter::default();
        let heard: Vec<_> = stream(receiver, all_missed.clone()).collect().await;
        assert_eq!(all_missed.get(), 6);
        assert_eq!(heard.len(), 1);
        let missing = heard[0].as_ref().unwrap_err();
        assert_eq!(missing.code(), Code::DataLoss);
        assert!(missing.message().starts_with("6 events"), "{}", missing.message());
    }

    #[tokio::test]
    async fn who_reads_late_but_not_too_late_hears_everything() {
        let (sender, receiver) = tokio::sync::broadcast::channel(4);
        for number in 0..4 {
            sender.send(event(number)).unwrap_or_default();
        }
        drop(sender);
        let heard: Vec<_> = stream(receiver, Counter::default())
            .map(|answer| answer.unwrap().container_id)
            .collect()
            .await;
        assert_eq!(heard, ["0", "1", "2", "3"]);
    }
}
