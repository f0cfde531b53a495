//! What of the host is seen in a container, and the other way round; images as volumes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cri::v1::*;
use e2e::RunningPod;

use crate::case::{Case, lacks, refused};
use crate::images::plain;

crate::specs!(
    vol_01, vol_02, mprop_01, mprop_02, mprop_03, ro_01, ro_02, ro_03, ro_04, ro_05, imgvol_01, imgvol_02, imgvol_03,
    imgvol_04, imgvol_05,
);

fn mount(host: &Path, container: &str) -> Mount {
    Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        ..Default::default()
    }
}

async fn seen_at_its_own_path(case: &Case<'_>, path: &Path) -> anyhow::Result<()> {
    let pod = case.default_pod().await?;
    let path = path.display().to_string();
    let config = ContainerConfig {
        linux: None,
        mounts: vec![Mount {
            selinux_relabel: true,
            ..mount(Path::new(&path), &path)
        }],
        ..case.pause()
    };
    let id = case.started(&pod, &config).await?;
    let found = case.output(&id, &["ls", "-A", &path]).await?;
    ensure!(found.contains("file"), "{found:?}");
    Ok(())
}

fn directory_with_a_file(case: &Case<'_>, name: &str) -> anyhow::Result<PathBuf> {
    let directory = case.directory(name)?;
    std::fs::write(directory.join("file"), "")?;
    Ok(directory)
}

async fn vol_01(case: &Case<'_>) -> anyhow::Result<()> {
    seen_at_its_own_path(case, &directory_with_a_file(case, "volume")?).await
}

/// The source is a symbolic link on the host, and its path is no link in the container.
async fn vol_02(case: &Case<'_>) -> anyhow::Result<()> {
    let directory = directory_with_a_file(case, "volume")?;
    let link = directory.with_extension("link");
    std::os::unix::fs::symlink(&directory, &link)?;
    seen_at_its_own_path(case, &link).await
}

async fn privileged_pod(case: &Case<'_>) -> anyhow::Result<RunningPod> {
    let privileged = LinuxSandboxSecurityContext {
        privileged: true,
        ..Default::default()
    };
    case.run(case.secured(case.pod(), privileged)).await
}

/// Mounts made on either side, and whether the other side sees them.
async fn propagates(
    case: &Case<'_>,
    propagation: MountPropagation,
    on_host: &str,
    into: bool,
    out: bool,
) -> anyhow::Result<()> {
    let (base, source) = (case.directory("mnt")?, directory_with_a_file(case, "source")?);
    let (below, of_container) = (base.join("host"), base.join("container"));
    std::fs::create_dir_all(&below)?;
    let text = |path: &Path| path.display().to_string();
    let run = |program: &str, words: &[&str]| case.node.namespaces.run(program, words);
    run("mount", &["--bind", &text(&base), &text(&base)])?;
    run("mount", &[on_host, &text(&base)])?;
    let result = async {
        let pod = privileged_pod(case).await?;
        let privileged = LinuxContainerSecurityContext {
            privileged: true,
            ..Default::default()
        };
        let mut config = case.secure(&["sh", "-c", "top"], privileged);
        config.mounts = vec![Mount {
            propagation: propagation.into(),
            ..mount(&base, &text(&base))
        }];
        let id = case.create(&pod, &config).await?;
        let request = ContainerStatusRequest {
            container_id: id.clone(),
            verbose: true,
        };
        let status = case
            .client
            .runtime
            .clone()
            .container_status(request)
            .await?
            .into_inner()
            .status;
        let mounts = status.context("a status without a status")?.mounts;
        ensure!(mounts == config.mounts, "{mounts:?}");
        case.start(&id).await?;
        run("mount", &["--bind", &text(&source), &text(&below)])?;
        let seen = case.output(&id, &["ls", "-A", &text(&below)]).await?;
        ensure!(seen.contains("file") == into, "from the host: {seen:?}");
        case.output(&id, &["mkdir", &text(&of_container)]).await?;
        case.output(&id, &["mount", "--bind", "/etc", &text(&of_container)])
            .await?;
        let seen = run("ls", &["-A", &text(&of_container)])?;
        ensure!(seen.contains("passwd") == out, "from the container: {seen:?}");
        case.client.remove(&id).await?;
        Ok(())
    }
    .await;
    run("umount", &["--recursive", "--lazy", &text(&base)])?;
    result
}

async fn mprop_01(case: &Case<'_>) -> anyhow::Result<()> {
    propagates(
        case,
        MountPropagation::PropagationPrivate,
        "--make-rprivate",
        false,
        false,
    )
    .await
}

async fn mprop_02(case: &Case<'_>) -> anyhow::Result<()> {
    propagates(
        case,
        MountPropagation::PropagationBidirectional,
        "--make-rshared",
        true,
        true,
    )
    .await
}

async fn mprop_03(case: &Case<'_>) -> anyhow::Result<()> {
    propagates(
        case,
        MountPropagation::PropagationHostToContainer,
        "--make-rshared",
        true,
        false,
    )
    .await
}

/// A directory with another filesystem below it, mounted by `tried`; gives what became of writing to that one.
async fn read_only(
    case: &Case<'_>,
    change: impl FnOnce(&mut Mount),
) -> anyhow::Result<Result<(i32, String), tonic::Status>> {
    let base = case.directory("volume")?;
    let below = case.directory("volume/tmpfs")?.display().to_string();
    case.node.namespaces.run("mount", &["-t", "tmpfs", "tmpfs", &below])?;
    let result = async {
        let pod = privileged_pod(case).await?;
        let mut mount = Mount {
            readonly: true,
            selinux_relabel: true,
            ..mount(&base, "/mnt")
        };
        change(&mut mount);
        let config = ContainerConfig {
            linux: None,
            mounts: vec![mount],
            ..case.pause()
        };
        let id = match case.try_create(&pod, &config).await? {
            Ok(id) => id,
            Err(refusal) => return Ok(Err(refusal)),
        };
        ensure!(case.client.status(&id).await?.mounts.len() == 1);
        case.start(&id).await?;
        let (code, _, stderr) = case.exec(&id, &["touch", "/mnt/tmpfs/foo"]).await?;
        case.client.remove(&id).await?;
        Ok(Ok((code, stderr)))
    }
    .await;
    case.node.namespaces.run("umount", &["--lazy", &below])?;
    result
}

/// Read-only is not what lies below.
async fn ro_01(case: &Case<'_>) -> anyhow::Result<()> {
    let (code, stderr) = read_only(case, |_| ()).await??;
    ensure!(code == 0, "{stderr}");
    Ok(())
}

async fn needs_recursion(case: &Case<'_>) -> anyhow::Result<()> {
    if case.features().await?.0.recursive_read_only_mounts {
        return Ok(());
    }
    lacks("recursive read-only mounts in the handler's features")
}

/// Unless that is asked for.
async fn ro_02(case: &Case<'_>) -> anyhow::Result<()> {
    needs_recursion(case).await?;
    let (code, stderr) = read_only(case, |mount| mount.recursive_read_only = true).await??;
    ensure!(
        code != 0 && stderr.contains("Read-only file system"),
        "{code}: {stderr}"
    );
    Ok(())
}

async fn no_recursion_with(case: &Case<'_>, change: impl FnOnce(&mut Mount)) -> anyhow::Result<()> {
    needs_recursion(case).await?;
    let tried = read_only(case, |mount| {
        mount.recursive_read_only = true;
        change(mount);
    });
    refused(tried.await?, "the mount")?;
    Ok(())
}

async fn ro_03(case: &Case<'_>) -> anyhow::Result<()> {
    no_recursion_with(case, |mount| {
        mount.propagation = MountPropagation::PropagationHostToContainer.into()
    })
    .await
}

async fn ro_04(case: &Case<'_>) -> anyhow::Result<()> {
    no_recursion_with(case, |mount| {
        mount.propagation = MountPropagation::PropagationBidirectional.into()
    })
    .await
}

async fn ro_05(case: &Case<'_>) -> anyhow::Result<()> {
    no_recursion_with(case, |mount| mount.readonly = false).await
}

const VOLUME: &str = "/mnt/image-volume";

/// A container with an image as a volume, and the id of that image; or why there is none.
async fn image_volume(
    case: &Case<'_>,
    change: impl FnOnce(&mut Mount),
) -> anyhow::Result<(Result<String, tonic::Status>, String)> {
    let name = plain("tag:test");
    let pulled = case.client.pull(&name).await?;
    let mut mount = Mount {
        container_path: VOLUME.to_owned(),
        readonly: true,
        image: Some(ImageSpec {
            image: pulled.clone(),
            user_specified_image: name,
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&mut mount);
    let pod = case.default_pod().await?;
    let config = ContainerConfig {
        mounts: vec![mount],
        ..case.pause()
    };
    Ok((case.try_create(&pod, &config).await?, pulled))
}

/// The same, started, where the product has images as volumes.
async fn with_image_volume(case: &Case<'_>, change: impl FnOnce(&mut Mount)) -> anyhow::Result<(String, String)> {
    let (created, pulled) = image_volume(case, change).await?;
    if let Err(status) = &created {
        has_image_volumes(status)?;
    }
    let id = created.context("CreateContainer")?;
    case.start(&id).await?;
    Ok((id, pulled))
}

/// Tells a product that does not have them from one that refuses this one.
fn has_image_volumes(refusal: &tonic::Status) -> anyhow::Result<()> {
    if refusal.code() == tonic::Code::Unimplemented || refusal.message().contains("not supported by this version") {
        return lacks("image volumes in the product");
    }
    Ok(())
}

async fn imgvol_01(case: &Case<'_>) -> anyhow::Result<()> {
    let (id, pulled) = with_image_volume(case, |_| ()).await?;
    let mounts = case.client.status(&id).await?.mounts;
    let mount = mounts
        .into_iter()
        .find(|mount| mount.container_path == VOLUME)
        .context("no such mount")?;
    let image = mount.image.context("a mount of an image without an image")?;
    ensure!(image.image_ref == pulled, "{image:?} is not {pulled}");
    Ok(())
}

/// It can be read and run, and not written.
async fn imgvol_02(case: &Case<'_>) -> anyhow::Result<()> {
    let (id, _) = with_image_volume(case, |_| ()).await?;
    case.output(&id, &["ls", "-A", &format!("{VOLUME}/bin/sh")]).await?;
    let (code, ..) = case.exec(&id, &["touch", &format!("{VOLUME}/test-write")]).await?;
    ensure!(code != 0, "it could be written");
    case.output(&id, &[&format!("{VOLUME}/bin/ls"), VOLUME]).await?;
    Ok(())
}

async fn refused_volume(case: &Case<'_>, change: impl FnOnce(&mut Mount)) -> anyhow::Result<()> {
    has_image_volumes(&refused(image_volume(case, change).await?.0, "the volume")?)
}

async fn imgvol_03(case: &Case<'_>) -> anyhow::Result<()> {
    refused_volume(case, |mount| mount.readonly = false).await
}

async fn imgvol_04(case: &Case<'_>) -> anyhow::Result<()> {
    let (id, _) = with_image_volume(case, |mount| mount.image_sub_path = "etc".to_owned()).await?;
    case.output(&id, &["ls", &format!("{VOLUME}/passwd")]).await?;
    let (code, ..) = case.exec(&id, &["ls", &format!("{VOLUME}/etc/passwd")]).await?;
    ensure!(code != 0, "the whole image is there");
    Ok(())
}

async fn imgvol_05(case: &Case<'_>) -> anyhow::Result<()> {
    refused_volume(case, |mount| mount.image_sub_path = "not-existing".to_owned()).await
}
