//! The daemon as a service: what its service manager hears, and what a reload changes.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::{Node, eventually, http, run_on, sh};

run_on!(runc:
    the_service_manager_hears_ready_and_what_is_there_and_that_it_stops,
    pings_prove_that_the_daemon_answers,
    what_is_slow_is_in_the_status_line_until_it_is_over,
    a_reload_changes_what_is_live_and_names_what_is_not,
    a_reload_with_an_error_leaves_everything_as_it_was,
    the_log_can_be_json_with_a_span_for_each_call,
    a_check_tells_whether_the_machine_is_fit_and_what_to_do,
    a_status_counts_what_there_is_and_shows_what_takes_long,
);

const WATCHDOG: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(20);

async fn the_service_manager_hears_ready_and_what_is_there_and_that_it_stops(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("told").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let pid = node.client.pid(&id).await?;
    let manager = node.restart_as_a_service(WATCHDOG).await?;

    manager.hears("READY=1", 1).await?;
    // What its descriptor store is given comes at a time of its own.
    let mut heard = manager.heard();
    heard.retain(|heard| !heard.starts_with("FD"));
    assert_eq!(
        heard[..2],
        ["READY=1", "STATUS=1 pod, 1 container"],
        "ready is told after the restore"
    );
    // No program that the daemon starts may take the service manager for its own.
    let environment = fs::read_to_string(node.namespaces.inside(format!("/proc/{pid}/environ")))?;
    assert!(!environment.contains("NOTIFY_SOCKET"), "{environment}");
    let second = pod.sh("d", "sleep 1000").await?;
    manager.hears("STATUS=1 pod, 2 containers", 1).await?;

    node.stop().await?;
    manager.hears("STOPPING=1", 1).await?;
    assert_eq!(manager.count("READY=1"), 1);
    node.restart().await?;
    assert_eq!(node.client.pid(&id).await?, pid, "the same process");
    assert!(node.client.pid(&second).await? > 0);
    Ok(())
}

async fn what_is_slow_is_in_the_status_line_until_it_is_over(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("slow").await?;
    let deaf = node.deaf(&pod, "deaf").await?;
    let manager = node.restart_as_a_service(WATCHDOG).await?;
    manager.hears("STATUS=1 pod, 1 container", 1).await?;
    let (client, stopped) = (node.client.clone(), deaf.clone());
    let stop = tokio::spawn(async move { client.stop(&stopped, 600).await });
    let slow = |heard: String| heard.starts_with("STATUS=1 pod, 1 container; slow: stop container (");
    eventually("the stop is called slow", || Ok(manager.heard().into_iter().any(slow))).await?;
    node.client.stop(&deaf, 0).await?;
    stop.await??;
    manager.hears("STATUS=1 pod, 1 container", 2).await
}

async fn pings_prove_that_the_daemon_answers(node: &mut Node) -> anyhow::Result<()> {
    let manager = node.restart_as_a_service(WATCHDOG).await?;
    manager.hears("WATCHDOG=1", 3).await?;

    // Who can't be asked is not alive, whatever its threads do.
    let aside = node.path("crio.sock.aside");
    fs::rename(node.socket(), &aside)?;
    eventually("the missing answer is noticed", || {
        Ok(node.log().contains("the daemon does not answer itself"))
    })
    .await?;
    let pings = manager.count("WATCHDOG=1");
    let complaints = |node: &Node| node.log().matches("the daemon does not answer itself").count();
    eventually("three more pings were due", || Ok(complaints(node) >= 4)).await?;
    assert_eq!(manager.count("WATCHDOG=1"), pings, "no ping without an answer");

    fs::rename(&aside, node.socket())?;
    manager.hears("WATCHDOG=1", pings + 1).await
}

async fn a_reload_changes_what_is_live_and_names_what_is_not(node: &mut Node) -> anyhow::Result<()> {
    let manager = node.restart_as_a_service(WATCHDOG).await?;
    let pod = node.running_host_pod("reloaded").await?;
    let before = pod.sh("before", "echo env=$RELOADED; sleep 1000").await?;
    let toml = "[crio.runtime]\ndefault_env = [\"RELOADED=yes\"]\nlog_level = \"warn\"\n\
                [crio]\nroot = \"/somewhere/else\"\n";
    node.reload_with("50-reload.conf", toml)?;
    manager.hears("RELOADING=1", 1).await?;
    manager.hears("READY=1", 2).await?;
    assert!(
        manager.heard().iter().any(|heard| heard.starts_with("MONOTONIC_USEC=")),
        "{:?}",
        manager.heard()
    );

    let after = pod.create(&sh("after", &pod.image, "echo env=$RELOADED")).await?;
    node.client.start(&after).await?;
    node.client.exited(&after, SOON).await?;
    assert_eq!(node.said("reloaded", "after", "stdout")?, "env=yes\n");
    assert_eq!(
        node.said("reloaded", "before", "stdout")?,
        "env=\n",
        "what runs is as it was"
    );
    assert!(node.client.pid(&before).await? > 0);
    let shown = http::get(UnixStream::connect(node.socket())?, "/config")?.body;
    assert!(
        shown.contains("\ndefault_env = [\"RELOADED=yes\"]\n"),
        "what is live is shown as it is now: {shown}"
    );
    let root = format!("\nroot = \"{}\"\n", node.path("root").display());
    assert!(shown.contains(&root), "what is not is shown as it was: {shown}");
    let log = node.log();
    assert!(
        log.contains("crio.root") && log.contains("changes with the next restart"),
        "{log}"
    );
    assert!(
        !log.contains("configuration reloaded"),
        "said at info, and the level is warn now: {log}"
    );
    fs::remove_file(node.path("crio.conf.d/50-reload.conf"))?;
    Ok(())
}

async fn a_reload_with_an_error_leaves_everything_as_it_was(node: &mut Node) -> anyhow::Result<()> {
    let manager = node.restart_as_a_service(WATCHDOG).await?;
    let pod = node.running_host_pod("unreloaded").await?;
    for (n, (toml, complaint)) in [
        (
            "[crio.runtime]\ndefault_env = [\"BROKEN=yes\"]\npids_limit = = 5\n",
            "50-broken.conf:3",
        ),
        (
            "[crio.runtime]\ndefault_env = [\"BROKEN=yes\"]\nread_only = \"perhaps\"\n",
            "crio.runtime.read_only",
        ),
        (
            "[crio.runtime]\ndefault_env = [\"BROKEN=yes\"]\nseccomp_profile = \"/not/there\"\n",
            "/not/there",
        ),
        (
            "[crio.runtime]\ndefault_env = [\"BROKEN=yes\"]\n[crio_manager]\nlog_targets = \"a=b=c\"\n",
            "log_targets",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        node.reload_with("50-broken.conf", toml)?;
        manager.hears("READY=1", n + 2).await?;
        let log = node.log();
        let status = manager.heard().into_iter().rfind(|heard| heard.starts_with("STATUS="));
        assert!(
            status.as_ref().is_some_and(|status| status.contains(complaint)),
            "{complaint}: {status:?}"
        );
        let line = log.lines().rfind(|line| line.contains("the one before stays in force"));
        assert!(
            line.is_some_and(|line| line.contains(complaint)),
            "{complaint}: {line:?}"
        );
    }
    let id = pod.create(&sh("c", &pod.image, "echo env=$BROKEN")).await?;
    node.client.start(&id).await?;
    node.client.exited(&id, SOON).await?;
    assert_eq!(node.said("unreloaded", "c", "stdout")?, "env=\n");
    fs::remove_file(node.path("crio.conf.d/50-broken.conf"))?;
    Ok(())
}

async fn the_log_can_be_json_with_a_span_for_each_call(node: &mut Node) -> anyhow::Result<()> {
    let toml = "[crio_manager]\nlog_format = \"json\"\n";
    fs::write(node.path("crio.conf.d").join("90-json.conf"), toml)?;
    node.restart().await?;
    let pod = node.running_host_pod("spoken").await?;
    let log = node.log();
    // Before the restart it was text.
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let calls: Vec<_> = lines.filter(|line| line["span"]["rpc"] == "RunPodSandbox").collect();
    assert!(
        calls.iter().any(|line| line["span"]["sandbox_id"] == pod.id),
        "{calls:#?}"
    );
    let answered = calls.iter().find(|line| line["message"] == "answered");
    assert!(answered.is_some_and(|line| line["elapsed_ms"].is_u64()), "{calls:#?}");
    Ok(())
}

async fn a_check_tells_whether_the_machine_is_fit_and_what_to_do(node: &mut Node) -> anyhow::Result<()> {
    let fit = node.manager(&["check"])?;
    for line in [
        "good     overlayfs",
        "good     network",
        "good     monitor",
        ": 0 bad, ",
    ] {
        assert!(fit.contains(line), "{line} in {fit}");
    }
    let json: serde_json::Value = serde_json::from_str(&node.manager(&["check", "--json"])?)?;
    let findings = json.as_array().expect("a list");
    assert!(
        findings.len() > 10 && findings.iter().all(|of| of["verdict"] != "bad"),
        "{json}"
    );

    // A network without its plugin; a default runtime that is not there, a monitor of another kind.
    let nowhere = node.path("nowhere").display().to_string();
    let error = node
        .manager(&["check", "--cni-plugin-dir", &nowhere])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("exit status: 1") && error.contains("bad      network"),
        "{error}"
    );
    let unfit = format!("[crio.runtime.runtimes.runc]\nruntime_path = \"{nowhere}\"\nmonitor_path = \"/bin/true\"\n");
    fs::write(node.path("crio.conf.d").join("unfit.conf"), unfit)?;
    let error = node.manager(&["check"]).unwrap_err().to_string();
    for line in ["bad      runtime runc", "-> install", "bad      monitor"] {
        assert!(error.contains(line), "{line} in {error}");
    }
    Ok(())
}

async fn a_status_counts_what_there_is_and_shows_what_takes_long(node: &mut Node) -> anyhow::Result<()> {
    let pod = node.running_host_pod("counted").await?;
    let deaf = node.deaf(&pod, "deaf").await?;
    pod.create(&sh("made", &pod.image, "true")).await?;
    pod.ran_sh("over", "true").await?;
    let status = |node: &Node| {
        anyhow::Ok(serde_json::from_str::<serde_json::Value>(
            &node.manager(&["status", "--json"])?,
        )?)
    };
    let found = status(node)?;
    assert_eq!(found["pods"], serde_json::json!({ "ready": 1, "notReady": 0 }));
    assert_eq!(
        found["containers"],
        serde_json::json!({ "running": 1, "created": 1, "exited": 1 })
    );
    assert_eq!(found["images"]["count"], 1);
    assert!(
        found["images"]["bytes"].as_u64().is_some_and(|bytes| bytes > 500_000),
        "{found}"
    );
    assert_eq!(found["underWay"], serde_json::json!([]));

    // A stop with a long grace of a container that ignores it.
    let client = node.client.clone();
    let stopped = deaf.clone();
    let stop = tokio::spawn(async move { client.stop(&stopped, 600).await });
    eventually("the stop is shown", || {
        Ok(status(node)?["underWay"][0]["what"]
            .as_str()
            .is_some_and(|what| what.contains("stop")))
    })
    .await?;
    let shown = node.manager(&["status"])?;
    assert!(shown.contains("containers  1 running, 1 created, 1 exited"), "{shown}");
    assert!(shown.contains("under way   stop"), "{shown}");
    node.client.stop(&deaf, 0).await?;
    stop.await??;

    node.stop().await?;
    let error = node.manager(&["status"]).unwrap_err().to_string();
    assert!(error.contains("no daemon listens on"), "{error}");
    node.restart().await
}
