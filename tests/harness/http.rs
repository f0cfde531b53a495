//! HTTP/1.1 with our own hands: one request, and all of its answer.

use std::io::{Read, Write};

use anyhow::Context as _;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Lines of the head, as they came.
    pub head: String,
    pub body: String,
}

/// Sends a GET and reads until the other side closes.
pub fn get(connection: impl Read + Write, path: &str) -> anyhow::Result<Answer> {
    send(
        connection,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
}

/// Sends whatever this is and reads until the other side closes. The answer's body has a length, or ends with it.
pub fn send(mut connection: impl Read + Write, request: &str) -> anyhow::Result<Answer> {
    connection.write_all(request.as_bytes())?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok(Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    })
}
