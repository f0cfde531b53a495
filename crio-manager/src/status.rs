//! `crio-manager status`: asks the daemon what there is and what it is doing, for people and for tools.

use crate::service::manager;
use anyhow::Context as _;
use cri::manager::v1::{StatusRequest, StatusResponse};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// How long the daemon may take to answer; it does so from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What the daemon on this socket says. Errors: none is there, it does not answer in time, or knows no such call.
pub fn ask(socket: &Path) -> anyhow::Result<StatusResponse> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the async runtime")?.block_on(async {
        let answer = tokio::time::timeout(ANSWER_LIMIT, answer(socket)).await;
        answer.unwrap_or_else(|_elapsed| {
            anyhow::bail!(
                "the daemon on {} does not answer within {ANSWER_LIMIT:?}: see `journalctl -u crio-manager`",
                socket.display()
            )
        })
    })
}

async fn answer(socket: &Path) -> anyhow::Result<StatusResponse> {
    let daemon = manager::client(socket).await?;
    let mut daemon = daemon.with_context(|| {
        format!(
            "no daemon listens on {}: `systemctl status crio-manager` says whether one should; --listen names another socket",
            socket.display()
        )
    })?;
    match daemon.status(StatusRequest {}).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => {
            anyhow::bail!(
                "what listens on {} is no crio-manager, or an older one than this command",
                socket.display()
            )
        }
        Err(status) => anyhow::bail!("the daemon says: {}", status.message()),
    }
}

/// For people.
pub fn text(socket: &Path, answer: &StatusResponse) -> String {
    let mut text = format!("daemon      crio-manager {} on {}\n", answer.version, socket.display());
    let _ = writeln!(
        text,
        "pods        {} ready, {} not ready",
        answer.pods_ready, answer.pods_not_ready
    );
    let _ = writeln!(
        text,
        "containers  {} running, {} created, {} exited",
        answer.containers_running, answer.containers_created, answer.containers_exited
    );
    let mebibytes = answer.image_bytes.div_ceil(1 << 20);
    let _ = writeln!(text, "images      {} in {mebibytes} MiB", answer.images);
    if answer.under_way.is_empty() {
        text += "under way   nothing\n";
    }
    for (n, verb) in answer.under_way.iter().enumerate() {
        let label = if n == 0 { "under way" } else { "" };
        let seconds = Duration::from_millis(verb.elapsed_ms).as_secs();
        let _ = writeln!(text, "{label:<12}{} ({}) for {seconds} s", verb.what, verb.step);
    }
    text
}

/// For tools: times in milliseconds, sizes in bytes.
pub fn json(answer: &StatusResponse) -> serde_json::Value {
    let verbs = answer.under_way.iter();
    let verbs: Vec<_> = verbs
        .map(|verb| serde_json::json!({ "what": verb.what, "step": verb.step, "elapsedMs": verb.elapsed_ms }))
        .collect();
    serde_json::json!({
        "version": answer.version,
        "pods": { "ready": answer.pods_ready, "notReady": answer.pods_not_ready },
        "containers": {
            "created": answer.containers_created,
            "running": answer.containers_running,
            "exited": answer.containers_exited,
        },
        "images": { "count": answer.images, "bytes": answer.image_bytes },
        "underWay": verbs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::manager::v1::Verb;

    #[test]
    fn people_read_counts_and_each_verb_with_its_step_and_time() {
        let verb = |elapsed_ms| Verb {
            what: "stop container".to_owned(),
            step: "wait for exit".to_owned(),
            elapsed_ms,
        };
        let mut answer = StatusResponse {
            version: "1.2.3".to_owned(),
            pods_ready: 2,
            containers_running: 3,
            images: 1,
            image_bytes: (5 << 20) + 1,
            ..StatusResponse::default()
        };
        let socket = Path::new("/run/crio/crio.sock");
        assert_eq!(
            text(socket, &answer),
            "daemon      crio-manager 1.2.3 on /run/crio/crio.sock\n\
             pods        2 ready, 0 not ready\n\
             containers  3 running, 0 created, 0 exited\n\
             images      1 in 6 MiB\n\
             under way   nothing\n"
        );
        answer.under_way = vec![verb(12_900), verb(5)];
        assert!(text(socket, &answer).ends_with(
            "under way   stop container (wait for exit) for 12 s\n            stop container (wait for exit) for 0 s\n"
        ));
    }
}
