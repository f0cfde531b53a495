//! What a container finds beside the files of its image: other images, and volumes that an image declares.

use std::path::Path;
use std::time::Duration;

use cri::v1::{ContainerConfig, ImageSpec, Mount};
use e2e::image::{file, link};
use e2e::{Node, TestImage, container, image_spec, refused, run_on, sh};
use serde_json::json;
use tar::EntryType;
use tonic::Code;

run_on!(runc, crun: an_image_is_a_volume_as_long_as_its_container_is_there);
run_on!(runc:
    volumes_that_an_image_declares_are_made_bound_or_ignored,
    an_artifact_is_a_volume_of_files_and_nothing_else,
    an_artifact_whose_files_lead_elsewhere_is_refused,
    an_image_that_cannot_be_a_volume_is_told_in_the_kubelets_word,
);

fn with_images(mut config: ContainerConfig, volumes: &[(&str, &str, &str)]) -> ContainerConfig {
    config.mounts = volumes
        .iter()
        .map(|(container_path, image, sub_path)| Mount {
            container_path: (*container_path).to_owned(),
            readonly: true,
            selinux_relabel: true,
            image: Some(image_spec(image)),
            image_sub_path: (*sub_path).to_owned(),
            ..Default::default()
        })
        .collect();
    config
}

/// Three layers: what one of them says counts, and nothing of the host is behind its links.
fn data() -> anyhow::Result<TestImage> {
    TestImage::scratch()
        .with_layer(|archive| {
            file(archive, "one", 0o644, b"1")?;
            file(archive, "gone", 0o644, b"1")?;
            file(archive, "srv/data/file", 0o644, b"deep")
        })?
        .with_layer(|archive| {
            file(archive, ".wh.gone", 0o644, b"")?;
            link(archive, EntryType::Symlink, "way", "/srv/data")?;
            link(archive, EntryType::Symlink, "out", "../../../../../../../../etc")
        })?
        .with_file("one", b"2")
}

async fn an_image_is_a_volume_as_long_as_its_container_is_there(node: &mut Node) -> anyhow::Result<()> {
    let volume = node.pulled("e2e/data:1", &data()?).await?;
    let single = node
        .pulled("e2e/single:1", &TestImage::scratch().with_file("only", b"file")?)
        .await?;
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    let volumes = [
        ("/all", volume.as_str(), ""),
        ("/all-again", &volume, ""),
        ("/part", &volume, "./way/"),
        ("/one-file", &single, "only"),
    ];
    let id = pod
        .run(&with_images(container("c", &pod.image, &["sleep", "1000"]), &volumes))
        .await?;
    let image = node.client.image(&volume).await?.unwrap();
    let mounts = node.client.status(&id).await?.mounts;
    let told: Vec<_> = mounts.iter().map(|mount| mount.container_path.as_str()).collect();
    assert_eq!(told, ["/all", "/all-again", "/part", "/one-file"]);
    let asked = ImageSpec {
        image_ref: image.id.clone(),
        ..image_spec(&volume)
    };
    assert_eq!(mounts[2].image, Some(asked));
    assert_eq!(
        (mounts[2].image_sub_path.as_str(), mounts[2].host_path.as_str()),
        ("./way/", "")
    );

    let says = |script: &'static str| {
        let (client, id) = (node.client.clone(), id.clone());
        async move { client.output(&id, &["sh", "-c", script]).await }
    };
    assert_eq!(
        says("ls /all; cat /all/one /all-again/one /part/file /one-file").await?,
        "one\nout\nsrv\nway\n22deepfile"
    );
    assert_eq!(
        says("touch /all/x /part/x 2>/dev/null || echo refused").await?,
        "refused\n"
    );
    let options = says("grep -E ' /(all|part|one-file) ' /proc/self/mounts | cut -d' ' -f4 | cut -d, -f1-3").await?;
    assert_eq!(options, "ro,nosuid,nodev\n".repeat(3));

    assert_eq!(
        refused(node.client.remove_image(&volume).await),
        Code::FailedPrecondition,
        "it is in use"
    );
    node.restart().await?;
    assert_eq!(node.client.status(&id).await?.mounts, mounts);
    assert_eq!(
        refused(node.client.remove_image(&image.id).await),
        Code::FailedPrecondition
    );
    assert_eq!(node.client.output(&id, &["cat", "/all/one"]).await?, "2");

    node.client.remove(&id).await?;
    node.nothing_more_than(&before).await?;
    node.client.remove_image(&volume).await?;
    node.client.remove_image(&single).await?;
    Ok(())
}

async fn an_image_that_cannot_be_a_volume_is_told_in_the_kubelets_word(node: &mut Node) -> anyhow::Result<()> {
    let volume = node.pulled("e2e/data:1", &data()?).await?;
    let empty = node.pulled("e2e/empty:1", &TestImage::scratch()).await?;
    let pod = node.running_host_pod("p").await?;
    let before = node.snapshot();
    for (image, sub_path, code, why) in [
        (volume.as_str(), "not-there", Code::InvalidArgument, "it is not there"),
        (&volume, "one/below", Code::InvalidArgument, "it is not there"),
        (&volume, "../data", Code::InvalidArgument, "steps upwards"),
        (&volume, "out/passwd", Code::InvalidArgument, "it is not there"),
        (&empty, "", Code::Internal, "no files"),
        ("127.0.0.1:5000/e2e/nobody:1", "", Code::FailedPrecondition, "nobody"),
    ] {
        let good = ("/first", volume.as_str(), "");
        let config = with_images(sh("c", &pod.image, "true"), &[good, ("/volume", image, sub_path)]);
        let refusal = node.client.create(&pod.id, &config, &pod.config).await.unwrap_err();
        assert_eq!(refusal.code(), code, "{refusal}");
        assert!(refusal.message().starts_with("ImageVolumeMountFailed: "), "{refusal}");
        assert!(refusal.message().contains(why), "{refusal}");
    }
    node.nothing_more_than(&before).await
}

async fn an_artifact_is_a_volume_of_files_and_nothing_else(node: &mut Node) -> anyhow::Result<()> {
    let empty = node.snapshot();
    let files: [(&str, &[u8]); 3] = [
        ("model.bin", b"weights"),
        ("docs/readme", b"read me"),
        ("again", b"weights"),
    ];
    let name = node.pushed_artifact("e2e/artifact:1", &files)?;
    let id = node.client.pull(&name).await?;
    assert_eq!(node.client.pull(&name).await?, id);
    let told = node.client.image(&name).await?.unwrap();
    assert_eq!(
        (told.id.as_str(), told.repo_tags.as_slice()),
        (id.as_str(), &[name.clone()][..])
    );
    assert!(
        told.repo_digests[0].ends_with(id.trim_start_matches("sha256:")),
        "its digest is its id"
    );

    // A restart reads it back.
    node.restart().await?;
    assert_eq!(node.client.image(&name).await?, Some(told));
    let pod = node.running_host_pod("p").await?;
    let volumes = [("/files", name.as_str(), ""), ("/readme", id.as_str(), "docs/readme")];
    let script = "ls /files /files/docs; cat /files/* /readme 2>/dev/null; ls -l /files/again | cut -c1-10";
    pod.ran(&with_images(sh("c", &pod.image, script), &volumes)).await?;
    assert_eq!(
        node.said("p", "c", "stdout")?,
        "/files:\nagain\ndocs\nmodel.bin\n\n/files/docs:\nreadme\nweightsweightsread me-rw-r--r--\n"
    );
    let refusal = pod
        .client
        .create(&pod.id, &sh("of-files", &name, "true"), &pod.config)
        .await;
    let refusal = refusal.unwrap_err();
    assert!(refusal.message().contains("is an artifact"), "{refusal}");
    assert_eq!(refusal.code(), Code::InvalidArgument);

    pod.remove().await?;
    node.client.remove_image(&pod.image).await?;
    node.client.remove_image(&id).await?;
    node.nothing_more_than(&empty).await
}

async fn an_artifact_whose_files_lead_elsewhere_is_refused(node: &mut Node) -> anyhow::Result<()> {
    node.busybox().await?;
    let before = node.snapshot();
    for (number, title) in ["../../../../etc/escaped", "/etc/escaped", "a/../../escaped", ""]
        .into_iter()
        .enumerate()
    {
        let name = node.pushed_artifact(&format!("e2e/escape:{number}"), &[(title, b"x")])?;
        let refusal = node.client.pull(&name).await.unwrap_err();
        assert!(
            refusal.message().contains("is not the name of a file"),
            "{title:?}: {refusal}"
        );
    }
    node.nothing_more_than(&before).await
}

async fn volumes_that_an_image_declares_are_made_bound_or_ignored(node: &mut Node) -> anyhow::Result<()> {
    let image = TestImage::busybox()?
        .with_layer(|archive| link(archive, EntryType::Symlink, "way", "../../../../../../../../etc"))?
        .declaring("Volumes", json!({ "/data": {}, "/way/out": {} }));
    let image = node.pulled("e2e/declaring:1", &image).await?;
    let script = "[ -d /data ] && echo dir; grep -q ' /data ' /proc/self/mounts && echo mount; \
                  touch /data/x 2>/dev/null && echo writable; [ -d /etc/out ] && echo inside; true";
    for (mode, expected) in [
        ("mkdir", "dir\nwritable\ninside\n"),
        ("bind", "dir\nmount\nwritable\ninside\n"),
        ("ignore", ""),
    ] {
        node.configure(
            "60-volumes.conf",
            &format!("[crio.image]\nimage_volumes = \"{mode}\"\n"),
        )
        .await?;
        let pod = node.running_host_pod(mode).await?;
        let before = node.snapshot();
        let id = pod.run(&sh("c", &image, script)).await?;
        node.client.exited(&id, Duration::from_secs(20)).await?;
        assert_eq!(node.said(mode, "c", "stdout")?, expected, "{mode}");
        assert!(!Path::new("/etc/out").exists() && !node.namespaces.inside("/etc/out").exists());
        node.client.remove(&id).await?;
        node.nothing_more_than(&before).await?;
        pod.remove().await?;
    }
    Ok(())
}
