//! SPDY/3.1 frames: eight bytes of head, then a payload. Pure.
//!
//! Source: SPDY Protocol Draft 3.1, section 2.2 (framing) and 2.6 (control frames).

use super::Malformed;

/// Bytes before every payload.
pub const HEAD_BYTES: usize = 8;

/// The longest payload of a control frame that is read: header blocks of exec, attach and port-forward have a few dozen
/// bytes.
pub const CONTROL_BYTES: usize = 16 * 1024;

/// The largest payload of a data frame that is sent.
pub const DATA_BYTES: usize = 32 * 1024;

const VERSION: u16 = 3;
const FIN: u8 = 1;

/// Number of a stream; odd ones are the client's.
pub type StreamId = u32;

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A control frame; its payload is at most `CONTROL_BYTES` long.
    Control {
        /// Which one.
        kind: u16,
        /// `FIN` and others.
        flags: u8,
        /// Of the payload, in bytes.
        length: usize,
    },
    /// Data of a stream, of any length that 24 bits can tell.
    Data {
        /// Whose.
        stream: StreamId,
        /// Nothing follows.
        fin: bool,
        /// Of the payload, in bytes.
        length: usize,
    },
}

impl Head {
    /// Errors: a control frame that is too long.
    pub fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Head, Malformed> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if a & 0x80 == 0 {
            return Ok(Head::Data {
                stream: u32::from_be_bytes([a, b, c, d]),
                fin: flags & FIN != 0,
                length,
            });
        }
        if length > CONTROL_BYTES {
            return Err(Malformed("a control frame is too long"));
        }
        Ok(Head::Control {
            kind: u16::from_be_bytes([c, d]),
            flags,
            length,
        })
    }
}

/// A control frame of the client's that means something to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control<'a> {
    /// A new stream; the header block is still compressed.
    SynStream {
        /// Its number.
        stream: StreamId,
        /// Nothing will be sent on it.
        fin: bool,
        /// Compressed.
        block: &'a [u8],
    },
    /// Headers of a stream that we opened, or more headers: read only to keep the compression in step.
    Headers {
        /// Compressed.
        block: &'a [u8],
    },
    /// The stream is over in both directions.
    Reset {
        /// Which.
        stream: StreamId,
    },
    /// Answered as it is.
    Ping {
        /// Its number.
        id: u32,
    },
    /// The client leaves.
    GoAway,
    /// SETTINGS, WINDOW_UPDATE: nothing we act upon.
    Ignored,
}

impl<'a> Control<'a> {
    /// Errors: the payload is shorter than its kind needs; an unknown kind.
    pub fn parse(kind: u16, flags: u8, payload: &'a [u8]) -> Result<Control<'a>, Malformed> {
        let short = Malformed("a control frame is too short");
        let number = |at: usize| {
            let bytes = payload.get(at..at + 4).and_then(|four| four.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or(short)
        };
        let stream = || number(0).map(|id| id & 0x7fff_ffff);
        Ok(match kind {
            1 => Control::SynStream {
                stream: stream()?,
                fin: flags & FIN != 0,
                block: payload.get(10..).ok_or(short)?,
            },
            2 | 8 => Control::Headers {
                block: payload.get(4..).ok_or(short)?,
            },
            3 => Control::Reset { stream: stream()? },
            4 | 9 => Control::Ignored,
            6 => Control::Ping { id: number(0)? },
            7 => Control::GoAway,
            _ => return Err(Malformed("an unknown control frame")),
        })
    }
}

/// Why a stream is refused or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The client broke the rules.
    Protocol = 1,
    /// The server will not serve it.
    Refused = 3,
    /// It is not needed any more.
    Cancel = 5,
}

/// The answer to a SYN_STREAM, with this header block.
pub fn syn_reply(stream: StreamId, block: &[u8]) -> Vec<u8> {
    control(2, &[&stream.to_be_bytes(), block])
}

/// Ends a stream in both directions.
pub fn reset(stream: StreamId, reason: ResetReason) -> Vec<u8> {
    control(3, &[&stream.to_be_bytes(), &(reason as u32).to_be_bytes()])
}

/// The answer to a ping.
pub fn ping(id: u32) -> Vec<u8> {
    control(6, &[&id.to_be_bytes()])
}

/// The last frame of a connection.
pub fn go_away(last: StreamId) -> Vec<u8> {
    control(7, &[&last.to_be_bytes(), &0_u32.to_be_bytes()])
}

/// The client may send this many more bytes; stream 0 is the whole connection.
pub fn window_update(stream: StreamId, bytes: u32) -> Vec<u8> {
    control(9, &[&stream.to_be_bytes(), &bytes.to_be_bytes()])
}

/// One data frame, of at most `DATA_BYTES`.
pub fn data(stream: StreamId, payload: &[u8], fin: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
    push_flags_and_length(&mut frame, if fin { FIN } else { 0 }, payload.len());
    frame.extend_from_slice(payload);
    frame
}

fn control(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(HEAD_BYTES + length);
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    push_flags_and_length(&mut frame, 0, length);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

fn push_flags_and_length(frame: &mut Vec<u8>, flags: u8, length: usize) {
    // What we send is far below 2^24 bytes.
    let length = u32::try_from(length).unwrap_or(0) & 0x00ff_ffff;
    frame.extend_from_slice(&(length | u32::from(flags) << 24).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(frame: &[u8]) -> Head {
        Head::parse(frame[..HEAD_BYTES].try_into().unwrap()).unwrap()
    }

    #[test]
    fn frames_are_as_the_draft_draws_them() {
        assert_eq!(ping(7), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        assert_eq!(data(5, b"ab", true), [0, 0, 0, 5, 1, 0, 0, 2, b'a', b'b']);
        assert_eq!(
            reset(1, ResetReason::Cancel),
            [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]
        );
        assert_eq!(go_away(9), [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0]);
        assert_eq!(
            head(&window_update(3, 4)),
            Head::Control {
                kind: 9,
                flags: 0,
                length: 8
            }
        );
    }

    #[test]
    fn a_control_frame_beyond_the_limit_is_refused_and_long_data_is_not() {
        assert!(Head::parse([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).is_err());
        assert_eq!(
            Head::parse([0, 0, 0, 1, 0, 0xff, 0xff, 0xff]),
            Ok(Head::Data {
                stream: 1,
                fin: false,
                length: (1 << 24) - 1
            })
        );
    }

    #[test]
    fn every_kind_refuses_a_payload_that_is_too_short() {
        for (kind, needs) in [(1, 10), (2, 4), (3, 4), (6, 4), (8, 4)] {
            for length in 0..needs {
                assert!(
                    Control::parse(kind, 0, &vec![0; length]).is_err(),
                    "kind {kind} with {length} bytes"
                );
            }
            assert!(Control::parse(kind, 0, &vec![0; needs]).is_ok());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(head in any::<[u8; 8]>(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Head::Control { kind, flags, .. }) = Head::parse(head) {
                let _ = Control::parse(kind, flags, &payload);
            }
        }

        #[test]
        fn data_comes_back(stream in 1_u32..0x7fff_ffff, payload in proptest::collection::vec(any::<u8>(), 0..256), fin: bool) {
            let frame = data(stream, &payload, fin);
            prop_assert_eq!(head(&frame), Head::Data { stream, fin, length: payload.len() });
            prop_assert_eq!(&frame[HEAD_BYTES..], &payload[..]);
        }
    }
}
