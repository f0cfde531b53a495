//! Which protocol a request asks to be upgraded to, and the answer. Pure.

use super::Asked;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL};
use hyper::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Most of what a client may offer that is looked at.
const OFFERS: usize = 32;

/// A protocol of the field, agreed upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY/3.1 with the streams of a remote command in this version, 1–5.
    SpdyCommand(u8),
    /// SPDY/3.1 with the streams of forwarded ports.
    SpdyPorts,
    /// SPDY/3.1 with the streams of forwarded ports, cut into WebSocket messages.
    TunnelledPorts,
    /// WebSocket messages that begin with a channel.
    Channels {
        /// 1–5; 0 is that without a name, which is as 1.
        version: u8,
        /// Text messages in base64.
        base64: bool,
    },
}

const SPDY_COMMAND: [(&str, Protocol); 5] = [
    ("v5.channel.k8s.io", Protocol::SpdyCommand(5)),
    ("v4.channel.k8s.io", Protocol::SpdyCommand(4)),
    ("v3.channel.k8s.io", Protocol::SpdyCommand(3)),
    ("v2.channel.k8s.io", Protocol::SpdyCommand(2)),
    ("channel.k8s.io", Protocol::SpdyCommand(1)),
];

const SPDY_PORTS: [(&str, Protocol); 1] = [("portforward.k8s.io", Protocol::SpdyPorts)];

const fn channels(version: u8, base64: bool) -> Protocol {
    Protocol::Channels { version, base64 }
}

const WEBSOCKET_COMMAND: [(&str, Protocol); 6] = [
    ("v5.channel.k8s.io", channels(5, false)),
    ("v4.channel.k8s.io", channels(4, false)),
    ("v4.base64.channel.k8s.io", channels(4, true)),
    ("channel.k8s.io", channels(1, false)),
    ("base64.channel.k8s.io", channels(1, true)),
    ("", channels(0, false)),
];

const WEBSOCKET_PORTS: [(&str, Protocol); 4] = [
    ("SPDY/3.1+portforward.k8s.io", Protocol::TunnelledPorts),
    ("v4.channel.k8s.io", channels(4, false)),
    ("v4.base64.channel.k8s.io", channels(4, true)),
    ("", channels(4, false)),
];

/// An answer that is whole at once.
pub type Answer = Response<http_body_util::Full<bytes::Bytes>>;

/// An answer in plain text; clients show it.
pub fn refusal(code: StatusCode, why: &str) -> Answer {
    let mut answer = Response::new(http_body_util::Full::new(bytes::Bytes::from(format!("{why}\n"))));
    *answer.status_mut() = code;
    answer
}

/// The protocol, and the answer that agrees to it. Errors: the answer that does not.
pub fn agree<Body>(request: &Request<Body>, asked: &Asked) -> Result<(Protocol, Answer), Box<Answer>> {
    let refuse = |code, why: &str| Box::new(refusal(code, why));
    let headers = request.headers();
    let says = |name: &HeaderName, word: &str| {
        let values = headers.get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.to_ascii_lowercase().contains(word))
    };
    if !says(&CONNECTION, "upgrade") {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "this is no web page: an upgrade to SPDY/3.1 or WebSocket is expected",
        ));
    }
    if says(&UPGRADE, "websocket") {
        return websocket(request, asked);
    }
    if !says(&UPGRADE, "spdy/3.1") {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "only upgrades to SPDY/3.1 and websocket are known",
        ));
    }
    let offers = offers(headers, &STREAM_PROTOCOL);
    if offers.is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "X-Stream-Protocol-Version is missing"));
    }
    let known: &[(&str, Protocol)] = match asked {
        Asked::Command(_) => &SPDY_COMMAND,
        Asked::Ports { .. } => &SPDY_PORTS,
    };
    let Some((name, protocol)) = choose(&offers, known) else {
        let mut answer = refusal(StatusCode::FORBIDDEN, "none of the offered stream protocols is known");
        for (name, _) in known {
            answer
                .headers_mut()
                .append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
        }
        return Err(Box::new(answer));
    };
    let mut answer = switching("SPDY/3.1");
    answer
        .headers_mut()
        .insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, answer))
}

fn websocket<Body>(request: &Request<Body>, asked: &Asked) -> Result<(Protocol, Answer), Box<Answer>> {
    let refuse = |code, why: &str| Box::new(refusal(code, why));
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(refuse(StatusCode::BAD_REQUEST, "a WebSocket begins with GET"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "only version 13 of the WebSocket protocol is known",
        ));
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"));
    };
    let mut offers = offers(headers, &SEC_WEBSOCKET_PROTOCOL);
    if offers.is_empty() {
        offers.push(String::new());
    }
    let known: &[(&str, Protocol)] = match asked {
        Asked::Command(_) => &WEBSOCKET_COMMAND,
        Asked::Ports { .. } => &WEBSOCKET_PORTS,
    };
    let Some((name, protocol)) = choose(&offers, known) else {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "none of the offered WebSocket protocols is known",
        ));
    };
    let mut answer = switching("websocket");
    // Base64 is always a header's value.
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !name.is_empty() {
        answer
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((protocol, answer))
}

fn switching(to: &'static str) -> Answer {
    let mut answer = Response::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    answer
}

/// What a header offers, over several lines and between commas.
fn offers(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let words = lines.flat_map(|line| line.split(','));
    let words = words.map(str::trim).filter(|word| !word.is_empty());
    words.map(str::to_owned).take(OFFERS).collect()
}

/// The first offer that is known.
fn choose(offers: &[String], known: &[(&'static str, Protocol)]) -> Option<(&'static str, Protocol)> {
    let mut found = offers
        .iter()
        .filter_map(|offer| known.iter().find(|(name, _)| *name == offer).copied());
    found.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SandboxId;
    use crate::streaming::{Command, Streams};

    fn command() -> Asked {
        Asked::Command(Command {
            id: crate::model::ContainerId::from_bytes([1; 32]),
            words: None,
            streams: Streams {
                stdin: true,
                stdout: true,
                stderr: true,
                tty: false,
            },
        })
    }

    fn ports() -> Asked {
        Asked::Ports {
            id: SandboxId::from_bytes([1; 32]),
            ports: vec![80],
        }
    }

    fn request(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/exec/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const SPDY: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    const WEBSOCKET: [(&str, &str); 4] = [
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_first_offer_that_is_known_is_taken() {
        let lines = [
            SPDY[0],
            SPDY[1],
            ("X-Stream-Protocol-Version", "v9.channel.k8s.io"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io, v5.channel.k8s.io"),
        ];
        let (protocol, answer) = agree(&request(Method::POST, &lines), &command()).unwrap();
        assert_eq!(protocol, Protocol::SpdyCommand(4));
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    }

    #[test]
    fn an_upgrade_that_cannot_be_is_refused_with_the_fields_codes() {
        let code = |method, headers: &[(&str, &str)], asked| {
            let answer = agree(&request(method, headers), &asked).unwrap_err();
            (
                answer.status().as_u16(),
                answer.headers().get_all(ACCEPTED_PROTOCOLS).iter().count(),
            )
        };
        assert_eq!(code(Method::POST, &[], command()), (400, 0));
        assert_eq!(
            code(
                Method::POST,
                &[("Connection", "Upgrade"), ("Upgrade", "h2c")],
                command()
            ),
            (400, 0)
        );
        assert_eq!(code(Method::POST, &SPDY, command()), (400, 0));
        let unknown = [SPDY[0], SPDY[1], ("X-Stream-Protocol-Version", "v9")];
        assert_eq!(code(Method::POST, &unknown, command()), (403, 5));
        assert_eq!(code(Method::POST, &unknown, ports()), (403, 1));
        assert_eq!(code(Method::POST, &WEBSOCKET, command()), (400, 0));
        let unknown = [&WEBSOCKET[..], &[("Sec-WebSocket-Protocol", "v9")]].concat();
        assert_eq!(code(Method::GET, &unknown, command()), (403, 0));
    }

    #[test]
    fn a_websocket_is_answered_with_its_key_and_one_protocol() {
        let offered = [
            &WEBSOCKET[..],
            &[("Sec-WebSocket-Protocol", "v5.channel.k8s.io, v4.channel.k8s.io")],
        ]
        .concat();
        let (protocol, answer) = agree(&request(Method::GET, &offered), &command()).unwrap();
        assert_eq!(protocol, channels(5, false));
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let (protocol, answer) = agree(&request(Method::GET, &WEBSOCKET), &command()).unwrap();
        assert_eq!(protocol, channels(0, false));
        assert!(answer.headers().get("sec-websocket-protocol").is_none());
        let tunnel = [
            &WEBSOCKET[..],
            &[("Sec-WebSocket-Protocol", "SPDY/3.1+portforward.k8s.io")],
        ]
        .concat();
        let (protocol, _) = agree(&request(Method::GET, &tunnel), &ports()).unwrap();
        assert_eq!(protocol, Protocol::TunnelledPorts);
    }
}
