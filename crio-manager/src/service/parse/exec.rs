//! ExecSync.

use super::name::id;
use super::{Parsed, no_nul, wrong};
use cri::v1;
use std::time::Duration;

/// ExecSync: id, command, and the time-out, 0 for none.
pub fn exec_sync(request: v1::ExecSyncRequest) -> Parsed<(String, Vec<String>, Option<Duration>)> {
    let seconds =
        u64::try_from(request.timeout).map_err(|_| wrong("timeout", format!("{} is negative", request.timeout)))?;
    // The monitor counts seconds in 31 bits.
    let timeout = (seconds != 0).then(|| Duration::from_secs(seconds.min(i32::MAX as u64)));
    if request.cmd.is_empty() || request.cmd.first().is_some_and(String::is_empty) {
        return Err(wrong("cmd", "empty"));
    }
    let command = request
        .cmd
        .into_iter()
        .map(|word| no_nul("cmd", word))
        .collect::<Parsed<_>>()?;
    Ok((id("container_id", request.container_id)?, command, timeout))
}
