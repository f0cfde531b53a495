//! Why a conversation failed, in the registry's own words where it has any.

use super::{MAX_ERROR_BYTES, MAX_ERROR_CHARS, Registry};
use crate::drivers::image::error::Error;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use std::time::Duration;

impl Registry {
    pub(super) async fn refusal(&self, what: &str, status: StatusCode, mut response: Response) -> Error {
        let mut body = Vec::new();
        while (body.len() as u64) < MAX_ERROR_BYTES {
            match self.progress(what, response.chunk()).await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) | Err(_) => break, // the status says enough
            }
        }
        let message = error_message(&body).unwrap_or_else(|| status.to_string());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.unauthorized(message),
            StatusCode::NOT_FOUND => Error::NotFound { what: what.to_owned() },
            status => Error::Refused {
                registry: self.registry.clone(),
                what: what.to_owned(),
                status: status.as_u16(),
                message,
            },
        }
    }

    pub(super) fn broken(&self, what: &str, error: &reqwest::Error) -> Error {
        let registry = self.registry.clone();
        let cause = root_cause(error);
        if is_tls(error) {
            Error::Tls { registry, cause }
        } else if error.is_connect() {
            Error::Unreachable { registry, cause }
        } else {
            Error::Transfer {
                registry,
                what: what.to_owned(),
                cause,
            }
        }
    }

    pub(super) fn transfer_error(&self, what: &str, cause: String) -> Error {
        Error::Transfer {
            registry: self.registry.clone(),
            what: what.to_owned(),
            cause,
        }
    }

    pub(super) fn stalled(&self, what: &str, limit: Duration) -> Error {
        Error::Stalled {
            registry: self.registry.clone(),
            what: what.to_owned(),
            limit,
        }
    }

    pub(super) fn unauthorized(&self, reason: String) -> Error {
        Error::Unauthorized {
            registry: self.registry.clone(),
            reason,
        }
    }
}

pub(super) fn is_transient(error: &Error) -> bool {
    match error {
        Error::Transfer { .. } | Error::Stalled { .. } => true,
        Error::Refused { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
}

/// The first message of a registry's error document, made safe to show.
fn error_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let text = match answer.errors.first() {
        Some(first) => format!("{}: {}", first.code, first.message),
        None => answer.details?,
    };
    Some(text.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect())
}

fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| {
        error.source()
    })
}

/// The innermost message; the outer ones repeat the address or say "error sending request".
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    sources(error).last().map(ToString::to_string).unwrap_or_default()
}

fn is_tls(error: &reqwest::Error) -> bool {
    sources(error).any(|source| {
        // An I/O error hides what it wraps from the chain of sources.
        let mut wrapped: Option<&(dyn std::error::Error + 'static)> = Some(source);
        while let Some(error) = wrapped {
            if error.is::<rustls::Error>() {
                return true;
            }
            let io_error = error.downcast_ref::<std::io::Error>();
            wrapped = io_error.and_then(std::io::Error::get_ref).map(|inner| inner as _);
        }
        false
    })
}
