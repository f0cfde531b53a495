//! `lifecycle::Error` → gRPC status. Nobody else knows codes.

use crate::drivers::seams::{DriverError, ErrorKind};
use crate::lifecycle::Error;
use crate::lifecycle::error::MOUNT_IMAGE;
use crate::spans;
use tonic::{Code, Status};

/// Longest message of a status, in bytes: gRPC carries it in a header.
const MESSAGE_BYTES: usize = 4096;

/// The whole mapping of the verbs' errors.
pub fn status(error: Error) -> Status {
    let code = match &error {
        Error::NoSuchContainer(_) | Error::NoSuchSandbox(_) => Code::NotFound,
        Error::Ambiguous(_) => Code::InvalidArgument,
        Error::NoRecursiveReadOnly { .. }
        | Error::NoUserNamespaces { .. }
        | Error::SandboxNotReady(_)
        | Error::NotRunning { .. }
        | Error::MemoryInUse { .. }
        | Error::WrongState(_) => Code::FailedPrecondition,
        Error::TimedOut { .. } | Error::UnderWay { .. } => Code::DeadlineExceeded,
        Error::Create(failed) => code_of_part(failed.cause.kind),
        Error::Step {
            step: "pull" | "load",
            cause,
        } => code(cause.kind),
        Error::Step { cause, .. } => code_of_part(cause.kind),
        Error::Leftovers { .. } | Error::Lost(_) => Code::Internal,
    };
    if let Error::Step { step, .. } | Error::UnderWay { step, .. } = &error {
        spans::note("step", step);
    }
    if let Error::Create(failed) = &error {
        spans::note("step", failed.step);
    }
    let message = match &error {
        // The kubelet knows these by their first word.
        Error::Create(failed) if failed.step == MOUNT_IMAGE => format!("ImageVolumeMountFailed: {error}"),
        Error::NoRecursiveReadOnly { .. } => format!("RROUnsupported: {error}"),
        _ => error.to_string(),
    };
    Status::new(code, one_line(&message))
}

/// The mapping of a driver's errors, for calls that need no verb.
pub fn driver_status(error: DriverError) -> Status {
    Status::new(code(error.kind), one_line(&error))
}

/// The code for something that a verb needed on its way. What is missing then is not the object of the call: clients
/// take `NotFound` for "already gone".
fn code_of_part(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::FailedPrecondition,
        kind => code(kind),
    }
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        // The kubelet tries the same attempt again.
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::Failed => Code::Internal,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Denied | ErrorKind::Untrusted => Code::PermissionDenied,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::InUse | ErrorKind::Unsupported => Code::FailedPrecondition,
    }
}

/// The error in one line of bounded length; of a long one the beginning.
fn one_line(error: &dyn std::fmt::Display) -> String {
    let mut line: String = error
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.len() > MESSAGE_BYTES {
        let end = (0..=MESSAGE_BYTES)
            .rev()
            .find(|at| line.is_char_boundary(*at))
            .unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_bounded_line() {
        let cause = DriverError::new(ErrorKind::Exhausted, format!("a\nb{}", "é".repeat(5000)));
        let status = status(Error::Step {
            step: "mount rootfs",
            cause,
        });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().starts_with("mount rootfs: a b"));
        assert!(status.message().len() <= MESSAGE_BYTES + '…'.len_utf8());
    }
}
