//! The streaming lists: the same items as the unary ones, in messages that fit whatever a client's limit is.

use tonic::Status;

/// Items of one message.
const ITEMS: usize = 100;

/// A list on its way, in portions. It was taken at one moment; what a client does not read waits in memory, as the answer
/// to the unary call would.
pub type Portions<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

/// The items, a message for every so many of them; no message for none.
pub fn portions<I, T>(items: Vec<I>, message: impl Fn(Vec<I>) -> T) -> Portions<T> {
    let mut messages = Vec::with_capacity(items.len().div_ceil(ITEMS));
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        messages.push(Ok(message(items.by_ref().take(ITEMS).collect())));
    }
    tokio_stream::iter(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn every_item_is_in_one_portion_and_the_order_stays() {
        for count in [0, 1, ITEMS, ITEMS + 1, 3 * ITEMS] {
            let all: Vec<usize> = (0..count).collect();
            let sent: Vec<Vec<usize>> = portions(all.clone(), |items| items).map(Result::unwrap).collect().await;
            assert_eq!(sent.len(), count.div_ceil(ITEMS));
            assert!(sent.iter().all(|items| (1..=ITEMS).contains(&items.len())));
            assert_eq!(sent.concat(), all);
        }
    }
}
