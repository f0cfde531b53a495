//! The CRI socket under systemd: held by a socket unit, or made by the daemon; what a restart, a stop and a wipe do to it.

use e2e::service_host::UNIT;
use e2e::{ServiceHost, eventually, service_host};

const SOCKET_UNIT: &str = "crio-manager.socket";

fn processes(host: &ServiceHost) -> String {
    host.host.run("sh", &["-c", "pgrep -x 'conmon-rs|sleep' || :"]).unwrap()
}

/// The service alone goes: the socket unit goes on listening, and whoever calls has the service started again. So does a
/// wipe, which is refused then. With both stopped, it has the node for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_containers_and_a_wipe_wants_the_socket_stopped_too() {
    let mut host = service_host!("");
    let pod = host.running_pod("/kubepods/pod1").await.unwrap();
    let id = pod.sh("lasting", "exec sleep 1000").await.unwrap();
    let before = processes(&host);

    host.host.run("systemctl", &["stop", UNIT]).unwrap();
    assert_eq!(host.property(UNIT, "ActiveState").unwrap(), "inactive");
    assert_eq!(host.property(SOCKET_UNIT, "ActiveState").unwrap(), "active");
    assert_eq!(processes(&host), before, "containers go on");
    let wipe = host.host.command("crio-manager").arg("wipe").output().unwrap();
    let complaint = String::from_utf8_lossy(&wipe.stderr).into_owned();
    assert!(!wipe.status.success(), "{complaint}");
    let advice = "stop it first, `systemctl stop crio-manager.socket crio-manager`";
    assert!(complaint.contains(advice), "{complaint}");
    eventually("the call has started the service", || {
        Ok(host.property(UNIT, "ActiveState")? == "active")
    })
    .await
    .unwrap();
    host.reconnect().await.unwrap();
    assert_eq!(host.client.output(&id, &["echo", "alive"]).await.unwrap(), "alive\n");
    assert_eq!(processes(&host), before);

    // As it was advised.
    host.host.run("systemctl", &["stop", SOCKET_UNIT, UNIT]).unwrap();
    assert!(!host.socket().exists());
    let shown = host.host.run("crio-manager", &["wipe", "--dry-run"]).unwrap();
    assert!(shown.contains(&pod.id) && shown.contains(&id), "{shown}");
    assert_eq!(processes(&host), before, "it was only shown");
    assert_eq!(host.host.run("crio-manager", &["wipe"]).unwrap(), shown);
    assert_eq!(processes(&host), "");
    assert_eq!(host.host.run("crio-manager", &["wipe"]).unwrap(), "");

    host.host.run("systemctl", &["start", UNIT]).unwrap();
    assert_eq!(host.property(SOCKET_UNIT, "ActiveState").unwrap(), "active");
    host.reconnect().await.unwrap();
    assert_eq!(host.client.pods(None).await.unwrap(), []);
    host.finish().await.unwrap();
}
