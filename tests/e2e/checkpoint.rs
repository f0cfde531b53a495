//! Checkpoints: what is written down goes on elsewhere, and where that cannot be it is said why.
//!
//! Debian 12's criu does not work on every kernel. The tests that need one give the node the programs of a Debian 13,
//! which `tests/hosts/tree.sh trixie` has installed beside: its `/usr` in place of the machine's.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri::v1::{CheckpointContainerRequest, ContainerState, Mount};
use e2e::client::{RunningPod, sh};
use e2e::image::TestImage;
use e2e::{Node, Runtime, eventually, run_on};
use tonic::{Code, Status};

run_on!(runc:
    where_no_criu_works_the_reason_is_told,
);
run_on!(runc, crun:
    a_container_goes_on_from_its_checkpoint,
    a_checkpoint_that_fails_leaves_the_container_running_and_nothing_else,
);

/// By which a manifest says that its layers are a checkpoint.
const CHECKPOINT: &str = "org.criu.checkpoint.container.name";
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
const SOON: Duration = Duration::from_secs(20);

/// Counts in its own memory: a shell that was started anew would begin with 1.
const COUNT: &str = "rm -r /gone /dir; mkdir /dir; echo new >/dir/new; i=0; \
                     while :; do i=$((i+1)); echo $i; echo $i >/tmp/n; sleep 0.05; done";

async fn checkpoint(node: &Node, id: &str, location: &Path, timeout: i64) -> Result<(), Status> {
    let request = CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    let answer = node.client.runtime.clone().checkpoint_container(request).await;
    answer.map(drop)
}

/// Gives the node Debian 13's programs; `None`, with the reason on standard error, where they are not there.
async fn with_debian_13(node: &mut Node) -> anyhow::Result<Option<()>> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/hosts/trixie");
    if !tree.with_extension("packages").exists() {
        eprintln!("SKIPPED: target/hosts has no Debian 13 (`make setup` makes it, and says why if it cannot)");
        return Ok(None);
    }
    for plugin in PLUGINS {
        fs::copy(
            Path::new("/usr/lib/cni").join(plugin),
            node.path("plugins").join(plugin),
        )?;
    }
    fs::write(
        node.path("crio.conf.d").join("50-checkpoints.conf"),
        "[crio_manager]\nrestore_from_images = true\n",
    )?;
    let usr = tree.canonicalize()?.join("usr").display().to_string();
    node.namespaces.run("mount", &["--bind", &usr, "/usr"])?;
    restart(node).await?;
    Ok(Some(()))
}

/// Takes them away again, so that nothing more is mounted than before.
async fn without_debian_13(node: &mut Node) -> anyhow::Result<()> {
    node.client.remove_everything().await?;
    node.stop().await?;
    node.namespaces.run("umount", &["--lazy", "/usr"])?;
    let parent = beside(&node.cgroup_parent);
    for cgroup in fs::read_dir(&parent).into_iter().flatten().flatten() {
        if cgroup.file_type()?.is_dir() {
            fs::remove_dir(cgroup.path())?;
        }
    }
    for made in [parent, home(node)] {
        let _ = fs::remove_dir(made); // mostly there is none
    }
    Ok(())
}

/// A cgroup of version 2 where that stands beside version 1.
fn beside(cgroup: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup/unified").join(cgroup.trim_start_matches('/'))
}

fn home(node: &Node) -> PathBuf {
    beside(&format!("{}-home", node.cgroup_parent))
}

/// Starts the daemon again. Where version 2 of cgroups stands beside version 1, crun leaves containers in the cgroup of
/// version 2 in which it finds itself; criu makes that and all beneath it anew, beneath the container's own. So it is
/// not the root.
async fn restart(node: &mut Node) -> anyhow::Result<()> {
    node.restart().await?;
    if node.runtime == Runtime::Crun && beside("").is_dir() {
        let home = home(node);
        fs::create_dir_all(&home)?;
        fs::write(home.join("cgroup.procs"), node.daemon_pid().to_string())?;
    }
    Ok(())
}

/// A pod with an image that has files to be removed.
async fn pod(node: &mut Node, name: &str) -> anyhow::Result<RunningPod> {
    let image = TestImage::busybox()?.with_layer(|layer| {
        e2e::image::file(layer, "gone", 0o644, b"x")?;
        e2e::image::directory(layer, "dir", 0o755)?;
        e2e::image::file(layer, "dir/old", 0o644, b"old")
    })?;
    let image = node.pulled("e2e/counter:1", &image).await?;
    let config = node.pod(name);
    let id = node.client.run_pod(&config).await?;
    Ok(RunningPod {
        id,
        config,
        image,
        client: node.client.clone(),
    })
}

/// The numbers that a counting container has said.
fn counted(node: &Node, pod: &str, container: &str) -> anyhow::Result<Vec<u64>> {
    let said = node.said(pod, container, "stdout")?;
    Ok(said.lines().filter_map(|line| line.parse().ok()).collect())
}

async fn counts_on(node: &Node, pod: &str, container: &str) -> anyhow::Result<()> {
    let before = counted(node, pod, container)?.len();
    eventually("it counts on", || Ok(counted(node, pod, container)?.len() > before + 2)).await
}

fn archives(node: &Node) -> anyhow::Result<PathBuf> {
    let directory = node.path("archives");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

async fn where_no_criu_works_the_reason_is_told(node: &mut Node) -> anyhow::Result<()> {
    let location = archives(node)?.join("c.tar");
    let pod = node.running_host_pod("counter").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    // Whatever this machine has: none, or one that works or does not.
    if let Err(error) = checkpoint(node, &id, &location, 0).await {
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("criu"), "{error}");
        assert!(!location.exists());
    }
    // An image may be one only where the administrator says so.
    let mut image = TestImage::scratch().with_file("config.dump", b"{}")?;
    image.annotations = serde_json::json!({ CHECKPOINT: "c" });
    let image = node.pulled("e2e/checkpoint:1", &image).await?;
    let refused = pod.create(&sh("of-image", &image, "")).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("crio_manager.restore_from_images is false"),
        "{refused}"
    );
    let bin = node.path("bin");
    fs::write(
        bin.join("criu"),
        "#!/bin/sh\necho 'Error (criu/vdso.c:1): vdso: bad' >&2\nexit 1\n",
    )?;
    fs::set_permissions(bin.join("criu"), fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let handler = |path: &str| format!("[crio.runtime.runtimes.runc]\nmonitor_env = [\"PATH={path}\"]\n");
    let off = "[crio.runtime]\nenable_criu_support = false\n";
    for (setting, why) in [
        (handler("/nowhere"), "criu is not installed: none in /nowhere"),
        (handler(&path), "criu does not work here: criu check: "),
        (off.to_owned(), "enable_criu_support is false"),
    ] {
        node.configure("50-criu.conf", &setting).await?;
        let pod = node.running_host_pod("later").await?;
        let id = pod.sh("c", "sleep 1000").await?;
        let error = checkpoint(node, &id, &location, 0).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains(why), "{why}: {error}");
        assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerRunning);
        fs::write(&location, "x")?;
        let from = pod
            .create(&sh("from", &location.display().to_string(), ""))
            .await
            .unwrap_err();
        assert!(from.to_string().contains(why), "{why}: {from}");
        fs::remove_file(&location)?;
        pod.remove().await?;
    }
    assert_eq!(fs::read_dir(archives(node)?)?.count(), 0);
    Ok(())
}

async fn a_container_goes_on_from_its_checkpoint(node: &mut Node) -> anyhow::Result<()> {
    let first = pod(node, "first").await?;
    first.remove().await?;
    let Some(()) = with_debian_13(node).await? else {
        return Ok(());
    };
    let data = node.path("data");
    fs::create_dir_all(&data)?;
    let mounts = || {
        vec![Mount {
            container_path: "/data".to_owned(),
            host_path: data.display().to_string(),
            ..Default::default()
        }]
    };
    let location = archives(node)?.join("counter.tar");
    let first = node.running("", node.pod("first")).await?;
    let image = first.image.replace("busybox", "counter");
    let mut config = sh("c", &image, COUNT);
    config.mounts = mounts();
    let id = first.run(&config).await?;
    eventually("it has counted to 5", || Ok(counted(node, "first", "c")?.contains(&5))).await?;
    checkpoint(node, &id, &location, 0).await?;
    let written = fs::metadata(&location)?;
    assert_eq!((written.mode() & 0o777, written.uid()), (0o600, 0));
    counts_on(node, "first", "c").await?;
    let names = names_in(&location)?;
    for name in [
        "config.dump",
        "spec.dump",
        "bind.mounts",
        "deleted.files",
        "rootfs-diff.tar",
        "dump.log",
        "stats-dump",
        "checkpoint/inventory.img",
    ] {
        assert!(names.iter().any(|there| there == name), "{name} in {names:?}");
    }
    // A second one takes the place of the first.
    checkpoint(node, &id, &location, 60).await?;
    assert_eq!(fs::read_dir(archives(node)?)?.count(), 1);
    let last = counted(node, "first", "c")?.last().copied().unwrap_or_default();
    first.remove().await?;

    let second = node.running("", node.pod("second")).await?;
    let archive = location.display().to_string();
    let bare = second.create(&sh("bare", &archive, "")).await.unwrap_err();
    assert!(
        bare.to_string().contains("mounts nothing at") && bare.to_string().contains("/data"),
        "{bare}"
    );
    let mut config = sh("c", &archive, "echo never");
    config.mounts = mounts();
    let id = second.create(&config).await?;
    let status = node.client.status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerCreated);
    assert_eq!(
        node.client.image(&status.image_id).await?.map(|image| image.id),
        Some(status.image_id)
    );
    node.kill9().await?;
    restart(node).await?;
    assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerCreated);
    node.client.start(&id).await?;
    assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerRunning);
    counts_on(node, "second", "c").await?;
    let numbers = counted(node, "second", "c")?;
    assert!((5..=last + 1).contains(&numbers[0]), "{numbers:?} after {last}");
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    let files = node
        .client
        .output(&id, &["sh", "-c", "ls /dir; ls -d /gone; true"])
        .await?;
    assert_eq!(files, "new\n");
    assert_eq!(node.client.output(&id, &["ls", "-A", "/data"]).await?, "");
    // It is a container like any other: it survives the daemon, and its end is known.
    node.kill9().await?;
    restart(node).await?;
    counts_on(node, "second", "c").await?;
    node.client.stop(&id, 0).await?;
    assert_eq!(node.client.exited(&id, SOON).await?.exit_code, 137);
    node.client.remove(&id).await?;

    // An image of the same files is as good as the archive.
    let mut image = TestImage::scratch().with_layer(|layer| {
        let mut archive = tar::Archive::new(fs::File::open(&location)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let header = entry.header().clone();
            let path = entry.path()?.into_owned();
            layer.append_data(&mut header.clone(), path, &mut entry)?;
        }
        Ok(())
    })?;
    image.annotations = serde_json::json!({ CHECKPOINT: "c" });
    let checkpoint_image = node.pulled("e2e/checkpoint:1", &image).await?;
    let mut of_image = sh("of-image", &checkpoint_image, "echo never");
    of_image.mounts = mounts();
    let id = second.run(&of_image).await?;
    // It needs its layers no more.
    node.client.remove_image(&checkpoint_image).await?;
    counts_on(node, "second", "of-image").await?;
    let numbers = counted(node, "second", "of-image")?;
    assert!((5..=last + 1).contains(&numbers[0]), "{numbers:?} after {last}");
    let files = node.client.output(&id, &["ls", "/dir"]).await?;
    assert_eq!(files, "new\n");
    node.client.remove(&id).await?;

    // One that is never started leaves nothing.
    let id = node.client.create(&second.id, &config, &second.config).await?;
    node.client.stop(&id, 10).await?;
    assert_eq!(node.client.status(&id).await?.state(), ContainerState::ContainerExited);
    without_debian_13(node).await
}

async fn a_checkpoint_that_fails_leaves_the_container_running_and_nothing_else(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    if with_debian_13(node).await?.is_none() {
        return Ok(());
    }
    let counter = node.running_host_pod("counter").await?;
    let id = counter
        .sh("c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
        .await?;
    eventually("it counts", || Ok(!counted(node, "counter", "c")?.is_empty())).await?;

    let full = node.path("full");
    fs::create_dir(&full)?;
    let mounted = full.display().to_string();
    node.namespaces
        .run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", &mounted])?;
    let error = checkpoint(node, &id, &full.join("c.tar"), 0).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert_eq!(node.namespaces.run("ls", &["-A", &mounted])?, "");
    counts_on(node, "counter", "c").await?;
    node.namespaces.run("umount", &[&mounted])?;

    // criu has no answer within the time: that is told then, what it was at ends by itself, and the next one comes through.
    let location = archives(node)?.join("c.tar");
    let slow = node.path("bin").join("criu");
    fs::write(
        &slow,
        "#!/bin/sh\n[ $1 = check ] || sleep 3\nexec /usr/sbin/criu \"$@\"\n",
    )?;
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755))?;
    let runtime = node.runtime.name();
    let path = node.path("bin").display().to_string();
    node.configure(
        "50-criu.conf",
        &format!("[crio.runtime.runtimes.{runtime}]\nmonitor_env = [\"PATH={path}:/usr/sbin:/usr/bin:/sbin:/bin\"]\n"),
    )
    .await?;
    let other = node.running_host_pod("other").await?;
    let id = other
        .sh("c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
        .await?;
    eventually("it counts", || Ok(!counted(node, "other", "c")?.is_empty())).await?;
    let error = checkpoint(node, &id, &location, 1).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    counts_on(node, "other", "c").await?;
    assert_eq!(fs::read_dir(archives(node)?)?.count(), 0);
    checkpoint(node, &id, &location, 60).await?;
    counts_on(node, "other", "c").await?;
    without_debian_13(node).await
}

fn names_in(archive: &Path) -> anyhow::Result<Vec<String>> {
    let mut archive = tar::Archive::new(fs::File::open(archive)?);
    let mut names = Vec::new();
    for entry in archive.entries()? {
        names.push(entry?.path()?.display().to_string());
    }
    Ok(names)
}
