//! What the host delegates, as the daemon and `crio-manager check` report it, beside what the kernel's own files say.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Context as _;
use e2e::{ServiceHost, service_host};
use serde_json::Value;

/// What the host's files say: the version in Status, in `check`, and the controllers.
struct Delegated {
    version: &'static str,
    in_words: &'static str,
    controllers: BTreeSet<String>,
    hugetlb: bool,
}

/// Super block options of a cgroup mount that are no controllers are not in /proc/cgroups.
fn delegated(host: &ServiceHost) -> anyhow::Result<Delegated> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let offered = host.host.inside("/sys/fs/cgroup/cgroup.controllers");
    if offered.exists() {
        let controllers = words(&fs::read_to_string(offered)?);
        return Ok(Delegated {
            version: "v2",
            in_words: "version 2",
            hugetlb: controllers.contains("hugetlb"),
            controllers,
        });
    }
    let known = host.host.run("cut", &["-f1", "/proc/cgroups"])?;
    let known = words(&known);
    let mounted = host.host.run("findmnt", &["-rn", "-t", "cgroup", "-o", "FS-OPTIONS"])?;
    let mut controllers: BTreeSet<_> = mounted.split([',', '\n']).map(str::to_owned).collect();
    controllers.retain(|name| known.contains(name));
    let unified = host.host.run("findmnt", &["-rn", "-t", "cgroup2", "-o", "TARGET"]);
    let (version, in_words) = match &unified {
        Ok(place) => {
            let beside = host.host.inside(place.trim()).join("cgroup.controllers");
            controllers.extend(words(&fs::read_to_string(beside)?));
            ("hybrid", "version 1, and version 2 beside it")
        }
        Err(_none) => ("v1", "version 1"),
    };
    let hugetlb = mounted.split([',', '\n']).any(|option| option == "hugetlb");
    Ok(Delegated {
        version,
        in_words,
        controllers,
        hugetlb,
    })
}

fn finding<'a>(findings: &'a Value, what: &str) -> Option<&'a Value> {
    findings.as_array()?.iter().find(|finding| finding["what"] == what)
}

fn words(found: &Value) -> BTreeSet<String> {
    let text = found.as_str().unwrap_or_default();
    text.split(' ').map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_delegates_is_what_status_and_check_say() {
    let mut host = service_host!("cgroup_manager = \"systemd\"\n");
    let real = delegated(&host).unwrap();
    assert!(real.controllers.contains("memory"), "{:?}", real.controllers);
    for manager in ["systemd", "cgroupfs"] {
        let answer = host.client.node_status().await.unwrap();
        let info: Value = serde_json::from_str(&answer.info["config"]).unwrap();
        let cgroups = &info["cgroups"];
        assert_eq!(cgroups["manager"], manager);
        assert_eq!(cgroups["version"], real.version);
        assert_eq!(cgroups["hugetlb"], real.hugetlb);
        let told: BTreeSet<String> = serde_json::from_value(cgroups["controllers"].clone()).unwrap();
        assert_eq!(told, real.controllers);
        host.configure("20-manager.conf", "[crio.runtime]\ncgroup_manager = \"cgroupfs\"\n")
            .unwrap();
        host.restart().await.unwrap();
    }

    let checked = host
        .host
        .command("crio-manager")
        .args(["check", "--json"])
        .output()
        .unwrap();
    let findings: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let of = |what| finding(&findings, what).with_context(|| format!("{what} in {findings}"));
    assert_eq!(of("cgroups").unwrap()["found"], real.in_words);
    let controllers = of("controllers").unwrap();
    assert_eq!(controllers["verdict"], "good");
    assert_eq!(words(&controllers["found"]), real.controllers);
    assert_eq!(of("hugetlb").is_ok(), !real.hugetlb, "said where it cannot be limited");
    host.finish().await.unwrap();
}

/// With what a controller's delegation fails of: on version 1 it is not mounted, on version 2 not in the root's list.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_not_delegated_is_named_by_check() {
    let host = service_host!("");
    let missing = if host.host.inside("/sys/fs/cgroup/cgroup.controllers").exists() {
        "cpuset"
    } else {
        "pids"
    };
    // A cgroup namespace below a slice for which systemd has switched on only memory and pids.
    let look = "set -e
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
            umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
            ! grep -qw cpuset /sys/fs/cgroup/cgroup.controllers
        else umount /sys/fs/cgroup/pids; fi
        crio-manager check --json || [ $? = 1 ]";
    let inside = [
        "systemd-run",
        "--scope",
        "--quiet",
        "--slice=bare.slice",
        "-p",
        "MemoryAccounting=yes",
    ];
    let unshared = ["unshare", "--mount", "--cgroup", "sh", "-c", look];
    let checked = host
        .host
        .run(inside[0], &[&inside[1..], &unshared[..]].concat())
        .unwrap();
    let findings: Value = serde_json::from_str(&checked).unwrap();
    let controllers = finding(&findings, "controllers").unwrap();
    assert_eq!(controllers["verdict"], "bad", "{controllers}");
    let found = controllers["found"].as_str().unwrap();
    let (have, lack) = found.split_once("; without ").unwrap();
    assert!(lack.split(' ').any(|name| name == missing), "{found}");
    assert!(!have.split(' ').any(|name| name == missing), "{found}");
    assert!(controllers["advice"].as_str().unwrap().contains("Delegate=yes"));
    host.finish().await.unwrap();
}
