//! Images: from registries and archives into the store, and out of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use cri::v1::{AuthConfig, FilesystemUsage, ImageFsInfoRequest, UInt64Value};
use e2e::image::{Blob, MANIFEST, directory, file, link};
use e2e::registry::{Access, PASSWORD, USER};
use e2e::{Node, TestImage, container, refused, run_on};
use serde_json::json;
use tar::{Builder, EntryType};
use tonic::Code;

run_on!(runc, crun: an_image_is_pulled_run_and_removed);
run_on!(runc:
    an_image_has_one_id_whatever_it_is_called,
    an_image_is_pulled_by_digest,
    a_missing_image_is_no_error_to_ask_for,
    layers_hide_what_is_beneath_them,
    the_image_for_this_machine_is_taken_from_an_index,
    a_registry_with_a_password_is_given_it,
    a_registry_with_a_certificate_is_trusted_as_configured,
    a_truncated_blob_is_refused_and_leaves_nothing,
    a_layer_that_reaches_outside_is_kept_inside,
    a_registry_that_stalls_is_given_up,
    a_registry_that_is_not_there_is_said_to_be_unavailable,
    the_store_says_how_full_it_is,
    an_image_in_use_stays_and_a_pinned_one_is_marked,
    the_same_image_pulled_by_many_is_one,
    an_image_is_loaded_from_archives,
);

async fn an_image_is_pulled_run_and_removed(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?.with_file("etc/greeting", b"hello from a layer\n")?;
    let reference = node.pushed("e2e/hello:1", &image)?;
    let before = node.snapshot();
    let id = node.client.pull(&reference).await?;
    let status = node.client.image(&reference).await?.unwrap();
    assert_eq!(status.id, id);
    assert_eq!(
        format!("sha256:{}", id.trim_start_matches("sha256:")),
        image.config_blob().digest
    );
    assert_eq!(status.repo_tags, [reference.as_str()]);
    assert_eq!(
        status.repo_digests,
        [format!("127.0.0.1:5000/e2e/hello@{}", image.manifest_blob().digest)]
    );
    assert!(status.size > 500_000, "{}", status.size);
    assert_eq!(node.client.list_images().await?.len(), 1);

    let pod = node.host_network_pod("p");
    let pod_id = node.client.run_pod(&pod).await?;
    let c = node
        .client
        .run(&pod_id, &container("c", &reference, &["cat", "/etc/greeting"]), &pod)
        .await?;
    let ended = node.client.exited(&c, Duration::from_secs(20)).await?;
    assert_eq!((ended.image_id.as_str(), ended.exit_code), (id.as_str(), 0));
    assert_eq!(node.said("p", "c", "stdout")?, "hello from a layer\n");
    node.client.stop_pod(&pod_id).await?;
    node.client.remove_pod(&pod_id).await?;

    for _ in 0..2 {
        node.client.remove_image(&reference).await?;
    }
    assert!(node.client.list_images().await?.is_empty());
    node.nothing_more_than(&before).await
}

async fn an_image_has_one_id_whatever_it_is_called(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?;
    let one = node.pulled("e2e/a:1", &image).await?;
    let two = node.pulled("e2e/b:2", &image).await?;
    let images = node.client.list_images().await?;
    assert_eq!(images.len(), 1);
    let mut tags = images[0].repo_tags.clone();
    tags.sort();
    assert_eq!(tags, [one.clone(), two.clone()]);
    let id = images[0].id.clone();
    for name in [one.as_str(), &two, &id, &id[..19], "127.0.0.1:5000/e2e/a:1"] {
        assert_eq!(
            node.client.image(name).await?.map(|image| image.id),
            Some(id.clone()),
            "{name}"
        );
    }
    node.client.remove_image(&one).await?;
    assert!(
        node.client.image(&two).await?.is_none(),
        "removing an image takes all its names along"
    );
    Ok(())
}

async fn an_image_is_pulled_by_digest(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?;
    node.pushed("e2e/d:1", &image)?;
    let reference = format!("127.0.0.1:5000/e2e/d@{}", image.manifest_blob().digest);
    let id = node.client.pull(&reference).await?;
    let status = node.client.image(&reference).await?.unwrap();
    assert_eq!(
        (status.id, status.repo_tags.len(), status.repo_digests),
        (id, 0, vec![reference])
    );
    let wrong = format!("127.0.0.1:5000/e2e/d@sha256:{}", "0".repeat(64));
    assert_eq!(refused(node.client.pull(&wrong).await), Code::NotFound);
    Ok(())
}

async fn a_missing_image_is_no_error_to_ask_for(node: &mut Node) -> anyhow::Result<()> {
    assert!(node.client.image("127.0.0.1:5000/no/such:1").await?.is_none());
    node.client.remove_image("127.0.0.1:5000/no/such:1").await?;
    assert_eq!(refused(node.client.image("").await), Code::InvalidArgument);
    assert_eq!(refused(node.client.pull("").await), Code::InvalidArgument);
    assert_eq!(
        refused(node.client.pull("Not A Reference!").await),
        Code::InvalidArgument
    );
    node.registry()?;
    assert_eq!(
        refused(node.client.pull("127.0.0.1:5000/no/such:1").await),
        Code::NotFound
    );
    let pod = node.host_network_pod("p");
    let id = node.client.run_pod(&pod).await?;
    let created = node
        .client
        .create(&id, &container("c", "127.0.0.1:5000/no/such:1", &["true"]), &pod)
        .await;
    assert_eq!(refused(created), Code::FailedPrecondition);
    Ok(())
}

async fn layers_hide_what_is_beneath_them(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?
        .with_layer(|archive| {
            directory(archive, "data", 0o755)?;
            directory(archive, "data/old", 0o755)?;
            file(archive, "data/old/file", 0o644, b"x")?;
            file(archive, "data/gone", 0o644, b"x")?;
            file(archive, "data/kept", 0o640, b"kept\n")?;
            link(archive, EntryType::Link, "data/hard", "data/kept")?;
            link(archive, EntryType::Symlink, "data/soft", "kept")
        })?
        .with_layer(|archive| {
            file(archive, "data/.wh.gone", 0o644, b"")?;
            directory(archive, "data/old", 0o755)?;
            file(archive, "data/old/.wh..wh..opq", 0o644, b"")?;
            file(archive, "data/old/new", 0o644, b"y")
        })?;
    let reference = node.pulled("e2e/layers:1", &image).await?;
    let pod = node.running_host_pod("p").await?;
    let script = "ls /data /data/old; cat /data/hard /data/soft; stat -c %a:%h /data/kept";
    assert_eq!(pod.ran(&e2e::sh("c", &reference, script)).await?.exit_code, 0);
    assert_eq!(
        node.said("p", "c", "stdout")?,
        "/data:\nhard\nkept\nold\nsoft\n\n/data/old:\nnew\nkept\nkept\n640:2\n"
    );
    Ok(())
}

async fn the_image_for_this_machine_is_taken_from_an_index(node: &mut Node) -> anyhow::Result<()> {
    let ours = TestImage::busybox()?.declaring("Cmd", json!(["echo", "ours"]));
    let other = TestImage::busybox()?.declaring("Cmd", json!(["echo", "other"]));
    node.pushed("e2e/multi:ours", &ours)?;
    node.pushed("e2e/multi:other", &other)?;
    let entry = |image: &TestImage, architecture: &str| {
        let manifest = image.manifest_blob();
        json!({ "mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.bytes.len(),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let index =
        json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [entry(&other, "s390x"), entry(&ours, "amd64")] });
    let blob = Blob::new(index.to_string().into_bytes());
    node.pushed_manifest("e2e/multi", "both", kind, &blob)?;
    node.client.pull("127.0.0.1:5000/e2e/multi:both").await?;
    let pod = node.running_host_pod("p").await?;
    pod.ran(&container("c", "127.0.0.1:5000/e2e/multi:both", &[])).await?;
    assert_eq!(node.said("p", "c", "stdout")?, "ours\n");
    Ok(())
}

async fn a_registry_with_a_password_is_given_it(node: &mut Node) -> anyhow::Result<()> {
    node.pushed("e2e/secret:1", &TestImage::busybox()?)?;
    let _registry = node.another_registry(5001, Access::Password)?;
    let reference = "127.0.0.1:5001/e2e/secret:1";
    let auth = |username: &str, password: &str| {
        Some(AuthConfig {
            username: username.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        })
    };
    let denied = [Code::Unauthenticated, Code::PermissionDenied];
    assert!(denied.contains(&refused(node.client.pull(reference).await)));
    assert!(denied.contains(&refused(node.client.pull_with(reference, auth(USER, "wrong")).await)));
    assert!(node.client.image(reference).await?.is_none());
    node.client.pull_with(reference, auth(USER, PASSWORD)).await?;
    node.client.remove_image(reference).await?;
    // What docker's config.json holds: base64 of user:password.
    let encoded = AuthConfig {
        auth: "c29tZWJvZHk6czNjcmV0".to_owned(),
        ..Default::default()
    };
    node.client.pull_with(reference, Some(encoded)).await?;
    assert!(!node.log().contains(PASSWORD), "a password is not for the log");
    Ok(())
}

async fn a_registry_with_a_certificate_is_trusted_as_configured(node: &mut Node) -> anyhow::Result<()> {
    node.pushed("e2e/tls:1", &TestImage::busybox()?)?;
    let _registry = node.another_registry(5002, Access::Tls)?;
    let reference = "127.0.0.1:5002/e2e/tls:1";
    assert_eq!(
        refused(node.client.pull(reference).await),
        Code::Unavailable,
        "nobody vouches for this certificate"
    );
    let trusted = node.path("certs/127.0.0.1:5002");
    std::fs::create_dir_all(&trusted)?;
    std::fs::copy(node.path("registry/ca.crt"), trusted.join("ca.crt"))?;
    node.client.pull(reference).await?;
    Ok(())
}

/// The file in which the registry keeps a blob.
fn stored(node: &Node, digest: &str) -> std::path::PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    node.path("registry/storage/docker/registry/v2/blobs/sha256")
        .join(&hex[..2])
        .join(hex)
        .join("data")
}

async fn a_truncated_blob_is_refused_and_leaves_nothing(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?.with_file("etc/x", b"another layer")?;
    let reference = node.pushed("e2e/truncated:1", &image)?;
    let layer = image.layer_blobs().remove(0);
    let before = node.snapshot();
    let mut changed = layer.bytes.clone();
    changed[1000] ^= 1;
    for broken in [&layer.bytes[..layer.bytes.len() / 2], changed.as_slice()] {
        std::fs::write(stored(node, &layer.digest), broken)?;
        refused(node.client.pull(&reference).await);
        assert!(node.client.list_images().await?.is_empty());
    }
    std::fs::write(stored(node, &layer.digest), &layer.bytes)?;
    node.client.pull(&reference).await?;
    node.client.remove_image(&reference).await?;
    node.nothing_more_than(&before).await
}

type Fill = fn(&mut Builder<Vec<u8>>) -> anyhow::Result<()>;

async fn a_layer_that_reaches_outside_is_kept_inside(node: &mut Node) -> anyhow::Result<()> {
    // The layer below is here already: of a refused image, good layers stay for the next try.
    node.busybox().await?;
    let before = node.snapshot();
    let mark = Path::new("/etc/escaped");
    let ways: [Fill; 3] = [
        |archive| file(archive, "../../../../../../../../../../etc/escaped", 0o644, b"x"),
        |archive| {
            link(archive, EntryType::Symlink, "way-out", "/etc")?;
            file(archive, "way-out/escaped", 0o644, b"x")
        },
        |archive| file(archive, "/etc/escaped", 0o644, b"x"),
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let image = TestImage::busybox()?.with_layer(way)?;
        let reference = node.pushed(&format!("e2e/escape:{number}"), &image)?;
        // It may be refused or confined; what must not be is a file on the host.
        if node.client.pull(&reference).await.is_ok() {
            node.client.remove_image(&reference).await?;
        }
        for outside in [mark.to_owned(), node.namespaces.inside(mark)] {
            assert!(!outside.exists(), "way {number}: {}", outside.display());
        }
        node.nothing_more_than(&before).await?;
    }
    Ok(())
}

async fn a_registry_that_stalls_is_given_up(node: &mut Node) -> anyhow::Result<()> {
    let listener = node.namespaces.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 5003)))?;
    let before = node.snapshot();
    let started = Instant::now();
    let code = refused(node.client.pull("127.0.0.1:5003/e2e/stalled:1").await);
    assert!([Code::Unavailable, Code::DeadlineExceeded].contains(&code), "{code:?}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    drop(listener);
    node.nothing_more_than(&before).await
}

async fn a_registry_that_is_not_there_is_said_to_be_unavailable(node: &mut Node) -> anyhow::Result<()> {
    let error = node.client.pull("127.0.0.1:5003/e2e/nobody:1").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    // The kubelet makes an event of this word.
    assert!(error.message().contains("RegistryUnavailable"), "{}", error.message());
    Ok(())
}

async fn the_store_says_how_full_it_is(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let info = node
        .client
        .images
        .clone()
        .image_fs_info(ImageFsInfoRequest {})
        .await?
        .into_inner();
    let usage = &info.image_filesystems[0];
    let mountpoint = &usage.fs_id.as_ref().unwrap().mountpoint;
    node.namespaces.run("mountpoint", &["-q", mountpoint])?;
    assert!(node.path("root").starts_with(mountpoint), "{mountpoint}");
    assert!(
        usage.used_bytes.unwrap().value > 500_000 && usage.inodes_used.unwrap().value > 200,
        "{usage:?}"
    );
    assert!(usage.timestamp > 0);

    // It follows what comes and goes, in bytes and in files.
    const MORE: u64 = 3 << 20;
    let large = TestImage::busybox()?.with_file("large", &vec![7; usize::try_from(MORE)?])?;
    let large = node.pulled("e2e/large:1", &large).await?;
    let used = |usage: &FilesystemUsage| {
        let value = |value: &Option<UInt64Value>| value.as_ref().map_or(0, |value| value.value);
        (value(&usage.used_bytes), value(&usage.inodes_used))
    };
    let (bytes, files) = used(usage);
    let more = store_usage(node, |now| used(now).0 >= bytes + MORE).await?;
    assert!(used(&more).1 > files && more.timestamp >= usage.timestamp, "{more:?}");
    node.client.remove_image(&large).await?;
    store_usage(node, |now| {
        used(now).0 < bytes + MORE / 2 && used(now).1 < used(&more).1
    })
    .await?;
    Ok(())
}

/// What the store says of itself, once it is as wanted.
async fn store_usage(node: &Node, wanted: impl Fn(&FilesystemUsage) -> bool) -> anyhow::Result<FilesystemUsage> {
    let started = Instant::now();
    loop {
        let answer = node.client.images.clone().image_fs_info(ImageFsInfoRequest {}).await?;
        let usage = answer.into_inner().image_filesystems.remove(0);
        if wanted(&usage) {
            return Ok(usage);
        }
        anyhow::ensure!(started.elapsed() < Duration::from_secs(30), "still {usage:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn an_image_in_use_stays_and_a_pinned_one_is_marked(node: &mut Node) -> anyhow::Result<()> {
    node.configure("50-pinned.conf", "[crio.image]\npinned_images = [\"*/pinned*\"]\n")
        .await?;
    let pod = node.running_host_pod("p").await?;
    let id = pod.sh("c", "sleep 1000").await?;
    let other = TestImage::busybox()?.with_file("other", b"other")?;
    let pinned = node.pulled("e2e/pinned:1", &other).await?;
    for image in node.client.list_images().await? {
        assert_eq!(image.pinned, image.repo_tags == [pinned.clone()], "{image:?}");
    }
    assert!(node.client.image(&pinned).await?.unwrap().pinned);

    let error = node.client.remove_image(&pod.image).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert_eq!(node.client.exec(&id, &["true"], 10).await?.exit_code, 0);
    assert!(node.client.image(&pod.image).await?.is_some());
    node.client.remove_pod(&pod.id).await?;
    node.client.remove_image(&pod.image).await?;
    assert!(node.client.image(&pod.image).await?.is_none());
    // A pin is for who cleans up; who names the image may remove it.
    node.client.remove_image(&pinned).await?;
    assert!(node.client.list_images().await?.is_empty());
    Ok(())
}

async fn the_same_image_pulled_by_many_is_one(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?.with_file("a", b"1")?.with_file("b", b"2")?;
    let reference = node.pushed("e2e/popular:1", &image)?;
    let ids = futures::future::try_join_all((0..8).map(|_| node.client.pull(&reference))).await?;
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(node.client.list_images().await?.len(), 1);
    Ok(())
}

async fn an_image_is_loaded_from_archives(node: &mut Node) -> anyhow::Result<()> {
    let image = |name: &str| TestImage::busybox()?.with_file("name", name.as_bytes());
    let (layout, archive, docker) = (node.path("layout"), node.path("oci.tar"), node.path("docker.tar"));
    image("layout")?.write_layout(&layout, "example.test/layout:1")?;
    let unpacked = node.path("unpacked");
    image("oci")?.write_layout(&unpacked, "example.test/oci:1")?;
    let mut tar = tar::Builder::new(std::fs::File::create(&archive)?);
    tar.append_dir_all(".", &unpacked)?;
    tar.finish()?;
    image("docker")?.write_docker_archive(&docker, "example.test/docker:1")?;
    for path in [&layout, &archive, &docker] {
        node.manager(&["image", "load", &path.display().to_string()])?;
    }
    std::fs::write(&docker, b"this is no archive")?;
    assert!(node.manager(&["image", "load", &docker.display().to_string()]).is_err());
    let pod = node.running_host_pod("p").await?;
    for name in ["layout", "oci", "docker"] {
        pod.ran(&container(name, &format!("example.test/{name}:1"), &["cat", "/name"]))
            .await?;
        assert_eq!(node.said("p", name, "stdout")?, name);
    }
    Ok(())
}
