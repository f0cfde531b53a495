//! The daemon and its service manager: what outlives a restart, what the journal has, what is restarted.

use std::error::Error as _;
use std::fs;
use std::io::ErrorKind;
use std::iter;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use e2e::service_host::UNIT;
use e2e::{Client, RunningPod, ServiceHost, eventually, service_host};
use h2::Reason;
use serde_json::Value;
use tonic::{Code, Status};

const RESTARTS: usize = 3;
/// Clients with a connection for each call, beside one that keeps its connection.
const CALLERS: usize = 4;

/// What callers saw.
#[derive(Default)]
struct Calls {
    over: AtomicBool,
    answered: AtomicU32,
}

/// Calls until it is over, at the end of which every call must have been answered. Gives the longest wait.
async fn call_all_the_time(socket: PathBuf, calls: Arc<Calls>, kept: Option<Client>) -> anyhow::Result<Duration> {
    let mut longest = Duration::ZERO;
    while !calls.over.load(Ordering::SeqCst) {
        let began = Instant::now();
        let client = match &kept {
            Some(client) => client.clone(),
            None => Client::connect(&socket).await?,
        };
        let mut answer = client.version().await;
        if kept.is_some() && answer.as_ref().is_err_and(was_not_taken) {
            answer = client.version().await;
        }
        answer.with_context(|| format!("on a {} connection", if kept.is_some() { "kept" } else { "new" }))?;
        longest = longest.max(began.elapsed());
        calls.answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(longest)
}

/// Whether a call never came to a server that had said that it goes (RFC 9113, 6.8). gRPC has clients send such a call
/// again by themselves, and the kubelet's does; the one used here leaves that to its caller.
fn was_not_taken(status: &Status) -> bool {
    let causes = iter::successors(status.source(), |&cause| cause.source());
    let mut goodbyes = causes.filter_map(|cause| cause.downcast_ref::<h2::Error>());
    let went =
        goodbyes.any(|error| error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR));
    went || status.code() == Code::Cancelled
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_refused_while_the_daemon_is_restarted() {
    let host = service_host!("");
    restart_under_calls(&host).await;
    host.finish().await.unwrap();
}

/// Nobody holds the socket but the daemon, and between two daemons the store.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_refused_where_the_daemon_made_the_socket_itself() {
    let mut host = service_host!("");
    let unit = host.host.inside("/etc/systemd/system/crio-manager.socket");
    let text = fs::read(&unit).unwrap();
    host.host
        .run("systemctl", &["stop", "crio-manager.socket", UNIT])
        .unwrap();
    fs::remove_file(&unit).unwrap();
    host.host.run("systemctl", &["daemon-reload"]).unwrap();
    host.host.run("systemctl", &["start", UNIT]).unwrap();
    host.reconnect().await.unwrap();
    eventually("the socket is stored", || Ok(stored(&host)? == "1"))
        .await
        .unwrap();
    restart_under_calls(&host).await;
    host.reconnect().await.unwrap();
    host.kill9().await.unwrap();
    host.client.remove_everything().await.unwrap();
    eventually("nothing but the socket is stored", || Ok(stored(&host)? == "1"))
        .await
        .unwrap();

    // Another path: the old one is nobody's any more.
    let (here, there) = (host.socket(), host.host.inside("/run/crio/other.sock"));
    host.configure("50-listen.conf", "[crio.api]\nlisten = \"/run/crio/other.sock\"\n")
        .unwrap();
    host.host.run("systemctl", &["restart", UNIT]).unwrap();
    Client::connect(&there).await.unwrap().version().await.unwrap();
    assert!(!here.exists());
    eventually("the new socket alone is stored", || Ok(stored(&host)? == "1"))
        .await
        .unwrap();

    // A stop: nobody listens, and nothing is in the way of a wipe, of the next daemon, or of the socket unit.
    host.host.run("systemctl", &["stop", UNIT]).unwrap();
    eventually("nobody listens", || {
        let refused = UnixStream::connect(&there).err();
        Ok(refused.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused))
    })
    .await
    .unwrap();
    assert_eq!(host.host.run("crio-manager", &["wipe"]).unwrap(), "");
    host.host.run("systemctl", &["start", UNIT]).unwrap();
    Client::connect(&there).await.unwrap().version().await.unwrap();
    fs::remove_file(host.host.inside("/etc/crio/crio.conf.d/50-listen.conf")).unwrap();
    host.host.run("systemctl", &["restart", UNIT]).unwrap();
    assert!(here.exists() && !there.exists());
    host.host.run("systemctl", &["stop", UNIT]).unwrap();
    fs::write(&unit, text).unwrap();
    host.host.run("systemctl", &["daemon-reload"]).unwrap();
    host.host.run("systemctl", &["start", UNIT]).unwrap();
    host.reconnect().await.unwrap();
    eventually("the unit holds it, and nothing is stored", || Ok(stored(&host)? == "0"))
        .await
        .unwrap();
    host.finish().await.unwrap();
}

async fn restart_under_calls(host: &ServiceHost) {
    let pod = host.running_pod("/kubepods/pod1").await.unwrap();
    let calls = Arc::new(Calls::default());
    let callers: Vec<_> = (0..=CALLERS)
        .map(|n| {
            let kept = (n == 0).then(|| host.client.clone());
            tokio::spawn(call_all_the_time(host.socket(), calls.clone(), kept))
        })
        .collect();
    let first = host.main_pid().unwrap();
    for _ in 0..RESTARTS {
        let before = calls.answered.load(Ordering::SeqCst);
        host.host.run("systemctl", &["restart", UNIT]).unwrap();
        eventually("calls are answered again", || {
            Ok(calls.answered.load(Ordering::SeqCst) > before + CALLERS as u32)
        })
        .await
        .unwrap();
    }
    calls.over.store(true, Ordering::SeqCst);
    let mut longest = Duration::ZERO;
    for caller in callers {
        let waited = caller.await.unwrap();
        longest = longest.max(waited.unwrap_or_else(|error| panic!("{error:#}\n{}", host.journal().unwrap())));
    }
    assert_ne!(host.main_pid().unwrap(), first);
    println!(
        "{RESTARTS} restarts: {} calls answered, none refused; the longest waited {longest:?}",
        calls.answered.load(Ordering::SeqCst)
    );
    assert!(host.client.pod_status(&pod.id).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_started_by_hand_names_the_one_that_runs_and_leaves_it_alone() {
    let host = service_host!("");
    let running = host.main_pid().unwrap();
    let second = host.host.command("crio-manager").output().unwrap();
    assert!(!second.status.success());
    let complaint = String::from_utf8_lossy(&second.stderr);
    let named = format!("belongs to the daemon with pid {running}");
    assert!(complaint.contains(&named), "{complaint}");

    // With directories of its own it comes as far as the socket.
    let elsewhere = ["--root", "/var/lib/second", "--runroot", "/run/second"];
    let elsewhere = [&elsewhere[..], &["--config-dir", "/etc/second"]].concat();
    let alone = "[crio_manager]\nstate_dir = \"/var/lib/second-state\"\n[crio.runtime]\ndefault_runtime = \"runc\"\n";
    fs::create_dir_all(host.host.inside("/etc/second")).unwrap();
    fs::write(host.host.inside("/etc/second/second.conf"), alone).unwrap();
    let third = host.host.command("crio-manager").args(elsewhere).output().unwrap();
    assert!(!third.status.success());
    let complaint = String::from_utf8_lossy(&third.stderr);
    assert!(
        complaint.contains("another daemon answers on it: process 1 (systemd)"),
        "{complaint}"
    );

    assert_eq!(host.main_pid().unwrap(), running);
    host.client.version().await.unwrap();
    Client::connect(&host.socket()).await.unwrap().version().await.unwrap();
    host.finish().await.unwrap();
}

/// And who calls meanwhile is answered when the configuration is right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_not_the_configured_one_is_named() {
    let host = service_host!("");
    host.configure("50-listen.conf", "[crio.api]\nlisten = \"/run/crio/other.sock\"\n")
        .unwrap();
    assert!(host.host.run("systemctl", &["restart", UNIT]).is_err());
    let complaint = "socket /run/crio/other.sock: the service manager handed over /run/crio/crio.sock";
    eventually("the daemon says why it does not start", || {
        Ok(host.journal()?.contains(complaint))
    })
    .await
    .unwrap();
    let waiting = Client::connect(&host.socket()).await.unwrap();
    let answer = tokio::spawn(async move { waiting.version().await.map(drop) });
    fs::remove_file(host.host.inside("/etc/crio/crio.conf.d/50-listen.conf")).unwrap();
    answer.await.unwrap().unwrap();
    host.finish().await.unwrap();
}

const SOON: Duration = Duration::from_secs(30);

/// A container that ends with 41 when it is asked to, with its first process, and its monitor; it is ready to be asked.
async fn ready_to_end(host: &ServiceHost, pod: &RunningPod) -> (String, String, String) {
    let script = "trap 'exit 41' TERM; echo ready; while :; do sleep 0.05; done";
    let id = pod.sh("c", script).await.unwrap();
    let log = host.host.inside(&pod.config.log_directory).join("c.log");
    eventually("the trap is set", || {
        Ok(fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")))
    })
    .await
    .unwrap();
    let process = host.client.pid(&id).await.unwrap().to_string();
    let monitor = host.host.run("pgrep", &["-x", "conmon-rs"]).unwrap().trim().to_owned();
    (id, process, monitor)
}

/// How many descriptors systemd keeps for the daemon.
fn stored(host: &ServiceHost) -> anyhow::Result<String> {
    host.property(UNIT, "NFileDescriptorStore")
}

/// Linux 6.15 and later tell how a process ended that somebody else has reaped.
fn kernel_tells() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_nobody_saw_is_asked_of_the_kernel() {
    let mut host = service_host!("");
    if !kernel_tells() {
        return eprintln!("SKIPPED: this kernel is older than 6.15 and forgets how a process ended");
    }
    let pod = host.running_pod("/kubepods/pod1").await.unwrap();
    let (id, process, monitor) = ready_to_end(&host, &pod).await;
    eventually("both pidfds are stored", || Ok(stored(&host)? == "2"))
        .await
        .unwrap();

    // The next daemon waits at the gate while both die.
    let gate = host.host.inside("/run/gate");
    fs::write(&gate, "").unwrap();
    let waits = "[Service]\nExecStartPre=/bin/sh -c 'while [ -e /run/gate ]; do sleep 0.05; done'\n";
    host.override_unit("gate.conf", waits).unwrap();
    host.host.run("kill", &["-KILL", &host.main_pid().unwrap()]).unwrap();
    eventually("the daemon is down", || {
        Ok(host.property(UNIT, "SubState")? == "start-pre")
    })
    .await
    .unwrap();
    assert_eq!(stored(&host).unwrap(), "2");
    host.host.run("kill", &["-KILL", &monitor]).unwrap();
    host.host.run("kill", &["-TERM", &process]).unwrap();
    let proc = host.host.inside("/proc");
    eventually("both are gone and reaped", || {
        Ok(!proc.join(&monitor).exists() && !proc.join(&process).exists())
    })
    .await
    .unwrap();
    fs::remove_file(gate).unwrap();

    host.reconnect().await.unwrap();
    let status = host.client.exited(&id, SOON).await.unwrap();
    assert_eq!(status.exit_code, 41, "{status:?}\n{}", host.journal().unwrap());
    eventually("nothing is stored of what has ended", || Ok(stored(&host)? == "0"))
        .await
        .unwrap();
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_daemon_is_restarted_and_loses_no_container() {
    let mut host = service_host!("");
    host.override_unit("watchdog.conf", "[Service]\nWatchdogSec=3\n")
        .unwrap();
    host.restart().await.unwrap();
    let pod = host.running_pod("/kubepods/pod1").await.unwrap();
    let (id, process, monitor) = ready_to_end(&host, &pod).await;
    let frozen = host.main_pid().unwrap();
    host.host.run("kill", &["-STOP", &frozen]).unwrap();
    eventually("another daemon runs", || {
        Ok(!["0", &frozen].contains(&host.main_pid()?.as_str()))
    })
    .await
    .unwrap();
    host.reconnect().await.unwrap();
    assert_eq!(host.client.pid(&id).await.unwrap().to_string(), process);
    host.client.stop(&id, 30).await.unwrap();
    assert_eq!(host.client.status(&id).await.unwrap().exit_code, 41);
    eventually("its monitor has ended", || {
        Ok(!host.host.inside("/proc").join(&monitor).exists())
    })
    .await
    .unwrap();
    host.finish().await.unwrap();
}

/// The daemon's entries with this field.
fn entries(host: &ServiceHost, field: &str) -> anyhow::Result<Vec<Value>> {
    let found = host
        .host
        .run("journalctl", &["--no-pager", "-o", "json", "-u", UNIT, field])?;
    Ok(found
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_has_a_field_for_each_id_and_for_the_method() {
    let host = service_host!("");
    let pod = host.running_pod("/kubepods/pod1").await.unwrap();
    let id = pod.sh("c", "sleep 1000").await.unwrap();
    for (field, rpc) in [
        (format!("CRIO_SANDBOX_ID={}", pod.id), "RunPodSandbox"),
        (format!("CRIO_CONTAINER_ID={id}"), "CreateContainer"),
    ] {
        let answered = |entry: &Value| {
            entry["CRIO_RPC"] == rpc
                && entry["MESSAGE"]
                    .as_str()
                    .is_some_and(|text| text.starts_with("answered"))
        };
        eventually("the call is in the journal", || {
            Ok(entries(&host, &field)?.iter().any(answered))
        })
        .await
        .unwrap_or_else(|error| panic!("{field}: {error}\n{}", host.journal().unwrap()));
        let found = entries(&host, &field).unwrap();
        let entry = found.iter().find(|entry| answered(entry)).unwrap();
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "crio-manager");
        assert_eq!(entry["PRIORITY"], "7");
        let text = entry["MESSAGE"].as_str().unwrap();
        assert!(text.contains(&format!("rpc={rpc}")), "people read it too: {text}");
    }
    host.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_an_error_is_shown_by_systemctl_until_one_goes_well() {
    let host = service_host!("");
    let status = || host.property(UNIT, "StatusText");
    host.configure("50-broken.conf", "[crio.runtime]\npids_limit = = 5\n")
        .unwrap();
    host.host.run("systemctl", &["reload", UNIT]).unwrap();
    eventually("the status says which file and line", || {
        let status = status()?;
        Ok(status.starts_with("0 pods, 0 containers; ") && status.contains("50-broken.conf:2"))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}: {}", status().unwrap()));
    let journal = host.journal().unwrap();
    assert!(journal.contains("the one before stays in force"), "{journal}");
    host.client.version().await.unwrap();

    fs::remove_file(host.host.inside("/etc/crio/crio.conf.d/50-broken.conf")).unwrap();
    host.host.run("systemctl", &["reload", UNIT]).unwrap();
    eventually("the status is in order", || Ok(status()? == "0 pods, 0 containers"))
        .await
        .unwrap();
    host.finish().await.unwrap();
}

/// What systemd itself finds in the units, and what the daemon cannot do without.
#[tokio::test(flavor = "multi_thread")]
async fn the_units_are_in_order_and_spare_containers() {
    let host = service_host!("");
    let units = ["crio-manager.service", "crio-manager.socket"];
    let verify = host
        .host
        .command("systemd-analyze")
        .arg("verify")
        .args(units)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && complaints.is_empty(), "{complaints}");
    for (property, value) in [
        ("KillMode", "process"),
        ("Delegate", "yes"),
        ("OOMPolicy", "continue"),
        ("OOMScoreAdjust", "-999"),
        ("NoNewPrivileges", "no"),
    ] {
        assert_eq!(host.property(UNIT, property).unwrap(), value, "{property}");
    }
    let security = host
        .host
        .run("systemd-analyze", &["security", "--no-pager", UNIT])
        .unwrap();
    println!("{security}");
    host.finish().await.unwrap();
}
