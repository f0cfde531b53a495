//! One-time tokens: what was asked over CRI waits here for the client that dials the URL.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a token is good for.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// Tokens that nobody has dialled yet.
pub const TOKENS_OUTSTANDING: usize = 1000;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 18;

/// There are `TOKENS_OUTSTANDING` already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{TOKENS_OUTSTANDING} streams were asked for and not dialled yet; ask again in a minute")]
pub struct TooMany;

/// What was asked, by token. A token is spent by the first look at it.
#[derive(Debug)]
pub struct Tokens<T>(Mutex<HashMap<String, (T, Instant)>>);

impl<T> Tokens<T> {
    /// None.
    pub fn new() -> Self {
        Self(Mutex::default())
    }

    /// Keeps what was asked; the token is made of `random`.
    pub fn issue(&self, asked: T, random: [u8; 32]) -> Result<String, TooMany> {
        let token = URL_SAFE_NO_PAD.encode(random.get(..TOKEN_BYTES).unwrap_or_default());
        let now = Instant::now();
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= TOKENS_OUTSTANDING {
            pending.retain(|_, (_, end)| *end > now);
        }
        if pending.len() >= TOKENS_OUTSTANDING {
            return Err(TooMany);
        }
        pending.insert(token.clone(), (asked, now + TOKEN_LIFE));
        Ok(token)
    }

    /// What this token stands for; `None` when it is unknown, used or too old.
    pub fn redeem(&self, token: &str) -> Option<T> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, end) = pending.remove(token)?;
        (end > Instant::now()).then_some(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: usize) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_and_for_a_minute() {
        let tokens = Tokens::new();
        let used = tokens.issue("a", random(1)).unwrap();
        let old = tokens.issue("b", random(2)).unwrap();
        assert_eq!(used.len(), 24);
        assert_eq!(tokens.redeem(&used), Some("a"));
        assert_eq!(tokens.redeem(&used), None);
        tokio::time::advance(TOKEN_LIFE).await;
        assert_eq!(tokens.redeem(&old), None);
        assert_eq!(tokens.redeem("unknown"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_wait_and_no_more() {
        let tokens = Tokens::new();
        for n in 0..TOKENS_OUTSTANDING {
            tokens.issue((), random(n)).unwrap();
        }
        assert_eq!(tokens.issue((), random(5000)), Err(TooMany));
        tokio::time::advance(TOKEN_LIFE).await;
        tokens.issue((), random(5001)).unwrap();
        assert_eq!(tokens.0.lock().unwrap().len(), 1, "those too old have made room");
    }
}
