//! What an administrator does beside the daemon: looks at images, removes unused ones, wipes the node.

use std::time::Duration;

use e2e::terminal::Terminal;
use e2e::{Node, TestImage, container, run_on, sh};

run_on!(runc, crun: a_wipe_removes_what_a_dead_daemon_left_and_refuses_beside_a_living_one);
run_on!(runc:
    a_wipe_of_all_takes_the_images_too,
    what_a_wipe_cannot_remove_is_named_and_gone_with_the_next,
    images_are_listed_with_what_keeps_them,
    a_prune_removes_what_nobody_needs_with_and_without_the_daemon,
    progress_is_drawn_at_a_terminal_alone,
);

const SOON: Duration = Duration::from_secs(20);

async fn a_wipe_removes_what_a_dead_daemon_left_and_refuses_beside_a_living_one(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    let pod = node.running_pod("wiped").await?;
    let running = pod.sh("running", "sleep 1000").await?;
    pod.ran_sh("over", "true").await?;
    let created = pod.create(&sh("created", &pod.image, "true")).await?;

    let refused = node.manager(&["wipe"]).unwrap_err().to_string();
    assert!(
        refused.contains("a daemon listens on") && refused.contains("systemctl stop"),
        "{refused}"
    );
    // Its socket may have been removed, and it is there still.
    let aside = node.path("aside.sock");
    std::fs::rename(node.socket(), &aside)?;
    let refused = node.manager(&["wipe"]).unwrap_err().to_string();
    std::fs::rename(&aside, node.socket())?;
    assert!(refused.contains("belongs to the daemon with pid"), "{refused}");
    assert!(node.client.pid(&running).await? > 0);

    node.kill9().await?;
    let shown = node.manager(&["wipe", "--dry-run"])?;
    for line in [
        format!("pod {} e2e/wiped\n", pod.id),
        format!("container {running} e2e/wiped/running\n"),
        format!("container {created} e2e/wiped/created\n"),
    ] {
        assert!(shown.contains(&line), "{line} in {shown}");
    }
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert!(!node.processes_with("sleep 1000").is_empty(), "only looked");

    assert_eq!(node.manager(&["wipe"])?, shown);
    assert_eq!(node.processes_with("sleep 1000"), [""; 0]);
    assert_eq!(node.manager(&["wipe"])?, "");
    node.restart().await?;
    assert_eq!(node.client.pods(None).await?, []);
    assert_eq!(node.client.list_images().await?.len(), 1);
    node.nothing_more_than(&before).await
}

async fn a_wipe_of_all_takes_the_images_too(node: &mut Node) -> anyhow::Result<()> {
    node.registry()?;
    let before = node.snapshot();
    let pod = node.running_host_pod("all").await?;
    pod.sh("c", "sleep 1000").await?;
    node.configure("50-pinned.conf", "[crio.image]\npinned_images = [\"*busybox*\"]\n")
        .await?;
    node.stop().await?;
    let wiped = node.manager(&["wipe", "--all"])?;
    assert!(wiped.contains(&format!(" {}\n", pod.image)), "{wiped}");
    assert_eq!(node.manager(&["image", "list", "--json"])?, "[]\n");
    node.restart().await?;
    assert!(node.client.list_images().await?.is_empty());
    std::fs::remove_file(node.path("crio.conf.d/50-pinned.conf"))?;
    node.nothing_more_than(&before).await
}

/// A plugin that cannot disconnect: the pod's record and its addresses stay until it can.
async fn what_a_wipe_cannot_remove_is_named_and_gone_with_the_next(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    node.wrap_plugin(
        "bridge",
        "if [ \"$CNI_COMMAND\" = DEL ] && [ -e $DIR/broken ]; then echo '{\"code\":100,\"msg\":\"no way\"}'; exit 1; fi",
    )?;
    let pod = node.running_pod("stuck").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    node.stop().await?;
    std::fs::write(node.path("broken"), "")?;
    let error = node.manager(&["wipe"]).unwrap_err().to_string();
    assert!(error.contains(&pod.id) && error.contains("no way"), "{error}");
    assert_eq!(node.processes_with(&id), [""; 0], "what could go is gone");
    std::fs::remove_file(node.path("broken"))?;
    let rest = node.manager(&["wipe"])?;
    assert!(rest.starts_with(&format!("pod {}", pod.id)), "{rest}");
    node.restart().await?;
    node.nothing_more_than(&before).await
}

async fn images_are_listed_with_what_keeps_them(node: &mut Node) -> anyhow::Result<()> {
    let images = ["used", "pinned", "unused"];
    for name in images {
        let image = TestImage::busybox()?.with_file("name", name.as_bytes())?;
        node.pulled(&format!("e2e/{name}:1"), &image).await?;
    }
    node.configure("50-pinned.conf", "[crio.image]\npinned_images = [\"*/pinned*\"]\n")
        .await?;
    let pod = node.running_host_pod("p").await?;
    pod.ran(&container("c", "127.0.0.1:5000/e2e/used:1", &["true"])).await?;
    let by_daemon = node.manager(&["image", "list"])?;
    let line = |name: &str| {
        let line = by_daemon
            .lines()
            .find(|line| line.starts_with(&format!("127.0.0.1:5000/e2e/{name}:1 ")));
        line.unwrap_or_default().to_owned()
    };
    for (name, kept_by) in [("used", "a container"), ("pinned", "its pin"), ("unused", "nobody")] {
        assert!(
            line(name).ends_with(kept_by) && line(name).contains(" MiB "),
            "{by_daemon}"
        );
    }
    let json: serde_json::Value = serde_json::from_str(&node.manager(&["image", "list", "--json"])?)?;
    let of = |name: &str| {
        let images = json.as_array().map(Vec::as_slice).unwrap_or_default();
        let name = format!("127.0.0.1:5000/e2e/{name}:1");
        images
            .iter()
            .find(|image| image["names"] == serde_json::json!([name]))
            .cloned()
            .unwrap_or_default()
    };
    for (name, in_use, pinned) in [("used", true, false), ("pinned", false, true), ("unused", false, false)] {
        assert_eq!(
            (&of(name)["inUse"], &of(name)["pinned"]),
            (&in_use.into(), &pinned.into()),
            "{json}"
        );
    }

    node.stop().await?;
    assert_eq!(
        node.manager(&["image", "list"])?,
        by_daemon,
        "the store itself says the same"
    );
    std::fs::remove_file(node.path("crio.conf.d/50-pinned.conf"))?;
    node.restart().await
}

async fn a_prune_removes_what_nobody_needs_with_and_without_the_daemon(node: &mut Node) -> anyhow::Result<()> {
    let before = node.snapshot();
    let pod = node.running_host_pod("p").await?;
    pod.ran_sh("c", "true").await?;
    for with_daemon in [true, false] {
        for name in ["one", "two"] {
            let image = TestImage::busybox()?.with_file("name", name.as_bytes())?;
            node.pulled(&format!("e2e/{name}:1"), &image).await?;
        }
        if !with_daemon {
            node.stop().await?;
        }
        let shown = node.manager(&["image", "prune", "--dry-run"])?;
        let names: Vec<_> = shown
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(_, names)| names)
            .collect();
        assert_eq!(names, ["127.0.0.1:5000/e2e/one:1", "127.0.0.1:5000/e2e/two:1"]);
        assert!(shown.lines().all(|line| line.starts_with("sha256:")), "{shown}");
        assert_eq!(
            node.manager(&["image", "prune"])?,
            shown,
            "with a daemon: {with_daemon}"
        );
        assert_eq!(node.manager(&["image", "prune"])?, "");
        node.restart().await?;
        let left = node.client.list_images().await?;
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0].repo_tags, [pod.image.as_str()]);
    }
    pod.remove().await?;
    assert!(
        node.manager(&["image", "prune"])?
            .ends_with(&format!(" {}\n", pod.image))
    );
    node.nothing_more_than(&before).await
}

async fn progress_is_drawn_at_a_terminal_alone(node: &mut Node) -> anyhow::Result<()> {
    let archive = node.path("busybox.tar");
    TestImage::busybox()?.write_docker_archive(&archive, "example.test/loaded:1")?;
    let archive = archive.display().to_string();
    for (arguments, drawn) in [
        (&["image", "load", archive.as_str()][..], "loading"),
        (&["image", "prune"], "removing images"),
    ] {
        let mut terminal = Terminal::run(node.manager_command(arguments), 24, 200)?;
        let status = terminal.ended()?;
        assert!(status.success(), "{}", terminal.screen());
        terminal.shows("example.test/loaded:1")?;
        terminal.shows(drawn)?;
    }
    // `image load` again, into a pipe.
    let output = node.manager_command(&["image", "load", &archive]).output()?;
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("loading") && !said.contains('\u{1b}'), "{said}");
    tokio::time::timeout(SOON, node.client.remove_image("example.test/loaded:1")).await??;
    Ok(())
}
