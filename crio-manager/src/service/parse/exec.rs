//! ExecSync, Exec, Attach and PortForward.

use super::name::id;
use super::{Parsed, no_nul, wrong};
use crate::streaming::Streams;
use cri::v1;
use std::time::Duration;

/// ExecSync: id, command, and the time-out, 0 for none.
pub fn exec_sync(request: v1::ExecSyncRequest) -> Parsed<(String, Vec<String>, Option<Duration>)> {
    let seconds =
        u64::try_from(request.timeout).map_err(|_| wrong("timeout", format!("{} is negative", request.timeout)))?;
    // The monitor counts seconds in 31 bits.
    let timeout = (seconds != 0).then(|| Duration::from_secs(seconds.min(i32::MAX as u64)));
    let command = command(request.cmd)?;
    Ok((id("container_id", request.container_id)?, command, timeout))
}

/// Exec: id, command, and the streams wanted.
pub fn exec(request: v1::ExecRequest) -> Parsed<(String, Vec<String>, Streams)> {
    let command = command(request.cmd)?;
    let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
    Ok((id("container_id", request.container_id)?, command, streams))
}

/// Attach: id, and the streams wanted.
pub fn attach(request: v1::AttachRequest) -> Parsed<(String, Streams)> {
    let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
    Ok((id("container_id", request.container_id)?, streams))
}

/// PortForward: id, and ports, which only one of its protocols needs.
pub fn port_forward(request: v1::PortForwardRequest) -> Parsed<(String, Vec<u16>)> {
    if request.port.len() > PORTS_MAX {
        return Err(wrong("port", format!("more than {PORTS_MAX}")));
    }
    let port = |port: i32| match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(wrong("port", format!("{port} is not between 1 and 65535"))),
    };
    let ports = request.port.into_iter().map(port).collect::<Parsed<_>>()?;
    Ok((id("pod_sandbox_id", request.pod_sandbox_id)?, ports))
}

/// Two channels each, and a channel is a byte, of which the last ones mean other things.
const PORTS_MAX: usize = 64;

fn command(words: Vec<String>) -> Parsed<Vec<String>> {
    if words.first().is_none_or(String::is_empty) {
        return Err(wrong("cmd", "empty"));
    }
    words.into_iter().map(|word| no_nul("cmd", word)).collect()
}

fn streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Parsed<Streams> {
    if tty && stderr {
        return Err(wrong("stderr", "a terminal has none"));
    }
    if !(stdin || stdout || stderr) {
        return Err(wrong("stdout", "at least one of stdin, stdout and stderr is needed"));
    }
    Ok(Streams {
        stdin,
        stdout,
        stderr,
        tty,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_asked_for_and_a_terminal_has_no_errors_of_its_own() {
        assert!(streams(false, false, false, true).is_err());
        assert!(streams(true, true, true, true).is_err());
        assert!(streams(false, false, true, false).is_ok());
        assert!(streams(true, true, false, true).is_ok());
    }

    #[test]
    fn ports_are_ports() {
        let request = |port| v1::PortForwardRequest {
            pod_sandbox_id: "a".to_owned(),
            port,
        };
        assert_eq!(port_forward(request(vec![1, 65535])).unwrap().1, [1, 65535]);
        for bad in [0, -1, 65536] {
            assert!(port_forward(request(vec![bad])).is_err(), "{bad}");
        }
        assert!(port_forward(request(vec![1; 65])).is_err());
    }
}
