//! A lock per key, for as long as somebody holds or wants it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

pub struct KeyedLocks<K> {
    locks: Mutex<HashMap<K, Weak<Lock>>>,
}

impl<K: Eq + Hash> KeyedLocks<K> {
    pub fn new() -> Self {
        Self {
            locks: Mutex::new(HashMap::new()),
        }
    }

    /// Waits until nobody else holds the lock of `key`.
    pub async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(&key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Lock::new(()));
                    locks.insert(key, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_excludes_itself_only_and_leaves_nothing() {
        let locks = KeyedLocks::new();
        let one = locks.lock("one").await;
        let _two = locks.lock("two").await;
        let mut again = Box::pin(locks.lock("one"));
        assert!(futures::poll!(&mut again).is_pending());
        drop(one);
        drop(again.await);
        drop(locks.lock("three").await);
        assert_eq!(locks.locks.lock().unwrap().len(), 2, "three, and two which is held");
    }
}
