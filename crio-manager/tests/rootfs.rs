//! Images mounted, unmounted, loaded and kept on a real kernel and file system.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crio_manager::drivers::image::{Error, FileOwner, ImageId, ImageStore};
use crio_manager::model::selinux::View;
use support::{
    Form, TestImage, compress, config_in, in_own_mount_namespace, layer_count, leftovers, sha256, store_in, tar_of,
};

fn container(number: u32) -> String {
    format!("{number:064x}")
}

/// Loads `image` from a layout beside the store.
async fn load(store: &ImageStore, image: &TestImage, name: Option<&str>) -> ImageId {
    let layout = tempfile::tempdir().unwrap();
    image.write_layout(layout.path(), name);
    store.load(layout.path()).await.unwrap().remove(0).id
}

fn mounts_below(path: &Path) -> Vec<String> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let targets = mountinfo.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned());
    targets.filter(|target| Path::new(target).starts_with(path)).collect()
}

fn whiteout_image() -> TestImage {
    let bottom = tar_of(&[
        ("./", ""),
        ("keep", "1"),
        ("gone", "1"),
        ("dir/", ""),
        ("dir/old", "1"),
        ("changed", "1"),
    ]);
    let top = tar_of(&[
        (".wh.gone", ""),
        ("dir/.wh..wh..opq", ""),
        ("dir/new", "2"),
        ("changed", "2"),
    ]);
    TestImage::new(&[(bottom, Form::Gzip), (top, Form::Plain)])
}

#[test]
fn an_image_is_mounted_written_to_and_unmounted() {
    if !in_own_mount_namespace("an_image_is_mounted_written_to_and_unmounted") {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let store = store_in(directory.path(), &[]).await;
        let image = load(&store, &whiteout_image(), None).await;
        let rootfs = store
            .mount_rootfs(&container(1), &image, &View::default())
            .await
            .unwrap();
        assert_eq!(rootfs.path, store.rootfs_path(&container(1)).unwrap());
        let names = |path: &str| {
            let entries = fs::read_dir(rootfs.path.join(path)).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["changed", "dir", "keep"]);
        assert_eq!(names("dir"), ["new"]);
        assert_eq!(fs::read_to_string(rootfs.path.join("changed")).unwrap(), "2");
        assert_eq!(
            fs::metadata(&rootfs.path).unwrap().mode() & 0o7777,
            0o755,
            "the root directory is the image's"
        );

        // Writing is the container's own affair.
        fs::write(rootfs.path.join("keep"), "mine").unwrap();
        let other = store
            .mount_rootfs(&container(2), &image, &View::default())
            .await
            .unwrap();
        assert_eq!(fs::read_to_string(other.path.join("keep")).unwrap(), "1");
        assert_eq!(
            store
                .mount_rootfs(&container(1), &image, &View::default())
                .await
                .unwrap(),
            rootfs,
            "mounting again changes nothing"
        );
        assert_eq!(mounts_below(directory.path()).len(), 2);

        store.ensure_dir(&rootfs, "/srv/dir", 3, 4).await.unwrap();
        assert_eq!(fs::metadata(rootfs.path.join("srv/dir")).unwrap().uid(), 3);
        let owner = FileOwner {
            uid: 0,
            gid: 0,
            mode: 0o600,
        };
        store
            .write_file(&rootfs, "/etc/hostname", b"name".to_vec(), owner)
            .await
            .unwrap();
        assert_eq!(
            store.read_file(&rootfs, "/etc/hostname").await.unwrap().unwrap(),
            b"name"
        );
        assert_eq!(store.read_file(&rootfs, "/gone").await.unwrap(), None);

        for number in [1, 2, 1, 3] {
            store.unmount_rootfs(&container(number)).await.unwrap();
        }
        assert!(mounts_below(directory.path()).is_empty());
        assert_eq!(fs::read_dir(directory.path().join("containers")).unwrap().count(), 0);
        for bad in ["", "..", "../../etc", &"A".repeat(64)] {
            assert!(
                matches!(
                    store.mount_rootfs(bad, &image, &View::default()).await,
                    Err(Error::InvalidContainerId(_))
                ),
                "{bad}"
            );
            assert!(
                matches!(store.unmount_rootfs(bad).await, Err(Error::InvalidContainerId(_))),
                "{bad}"
            );
        }
    });
}

#[test]
fn images_of_no_one_and_of_many_layers_are_mounted() {
    if !in_own_mount_namespace("images_of_no_one_and_of_many_layers_are_mounted") {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let store = store_in(directory.path(), &[]).await;
        let none = load(&store, &TestImage::new(&[]), None).await;
        let rootfs = store
            .mount_rootfs(&container(1), &none, &View::default())
            .await
            .unwrap();
        assert_eq!(fs::read_dir(&rootfs.path).unwrap().count(), 0);
        fs::write(rootfs.path.join("file"), "x").unwrap();

        // The same layer more than once too: overlayfs would not take it twice.
        let mut layers: Vec<_> = (0..120)
            .map(|n| {
                (
                    tar_of(&[(&format!("f{n}"), ""), ("last", &format!("{n}"))]),
                    Form::Plain,
                )
            })
            .collect();
        layers.push(layers[7].clone());
        let many = load(&store, &TestImage::new(&layers), None).await;
        let rootfs = store
            .mount_rootfs(&container(2), &many, &View::default())
            .await
            .unwrap();
        assert_eq!(fs::read_dir(&rootfs.path).unwrap().count(), 121);
        assert_eq!(fs::read_to_string(rootfs.path.join("last")).unwrap(), "7");
        for number in [1, 2] {
            store.unmount_rootfs(&container(number)).await.unwrap();
        }
        assert!(mounts_below(directory.path()).is_empty());
    });
}

#[test]
fn a_restart_disturbs_no_mount_and_keeps_its_layers() {
    if !in_own_mount_namespace("a_restart_disturbs_no_mount_and_keeps_its_layers") {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let store = store_in(&root, &[]).await;
        let image = load(&store, &whiteout_image(), Some("r.example/app:1")).await;
        let rootfs = store
            .mount_rootfs(&container(1), &image, &View::default())
            .await
            .unwrap();
        store
            .mount_rootfs(&container(2), &image, &View::default())
            .await
            .unwrap();
        // One record is lost; the mount itself tells what it lies on.
        fs::remove_file(root.join("containers").join(container(2)).join("rootfs.json")).unwrap();
        assert!(matches!(
            store.remove("r.example/app:1", |_| true).await,
            Err(Error::InUse(_))
        ));
        store.remove("r.example/app:1", |_| false).await.unwrap();
        assert_eq!(layer_count(&root), 2, "mounted layers stay");
        store.unmount_rootfs(&container(1)).await.unwrap();
        assert_eq!(layer_count(&root), 2, "the other container's too");
        store.shutdown().await;
        drop(store);

        let store = store_in(&root, &[]).await;
        assert_eq!(store.containers(), [container(2)]);
        assert_eq!(layer_count(&root), 2);
        let merged = store.rootfs_path(&container(2)).unwrap();
        assert_eq!(fs::read_to_string(merged.join("changed")).unwrap(), "2");
        store.unmount_rootfs(&container(2)).await.unwrap();
        store.shutdown().await;
        drop(store);
        let store = store_in(&root, &[]).await;
        assert_eq!((layer_count(&root), store.fs_info().used_bytes), (0, 0));
        assert!(!rootfs.path.exists());
    });
}

#[test]
fn an_image_that_is_a_volume_stays_until_its_container_goes() {
    if !in_own_mount_namespace("an_image_that_is_a_volume_stays_until_its_container_goes") {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let store = store_in(&root, &[]).await;
        let base = TestImage::new(&[(tar_of(&[("base", "")]), Form::Plain)]);
        let base = load(&store, &base, Some("r.example/base:1")).await;
        let image = load(&store, &whiteout_image(), Some("r.example/app:1")).await;
        assert!(matches!(
            store.mount_volume(&container(1), 0, &image, "", &View::default()).await,
            Err(Error::NoRootfs(_))
        ));
        store
            .mount_rootfs(&container(1), &base, &View::default())
            .await
            .unwrap();
        let all = store
            .mount_volume(&container(1), 0, &image, "", &View::default())
            .await
            .unwrap();
        let part = store
            .mount_volume(&container(1), 7, &image, "/dir", &View::default())
            .await
            .unwrap();
        assert_eq!(
            store
                .mount_volume(&container(1), 0, &image, "", &View::default())
                .await
                .unwrap(),
            all
        );
        assert_eq!(mounts_below(&root).len(), 3);
        assert!(!all.join("gone").exists() && part.join("new").is_file());
        assert!(fs::write(all.join("keep"), "").is_err(), "it is read-only");

        store.remove("r.example/app:1", |_| false).await.unwrap();
        assert!(matches!(
            store.mount_volume(&container(1), 1, &image, "", &View::default()).await,
            Err(Error::NoSuchImage(_))
        ));
        assert_eq!(layer_count(&root), 3, "what is mounted stays");
        store.shutdown().await;
        drop(store);
        let store = store_in(&root, &[]).await;
        assert_eq!((layer_count(&root), mounts_below(&root).len()), (3, 3));
        assert_eq!(fs::read_to_string(all.join("changed")).unwrap(), "2");
        store
            .mount_rootfs(&container(1), &base, &View::default())
            .await
            .unwrap();
        store.shutdown().await;
        drop(store);

        // A record that is lost costs nothing: the mounts tell what they lie on.
        fs::remove_file(root.join("containers").join(container(1)).join("rootfs.json")).unwrap();
        let store = store_in(&root, &[]).await;
        assert_eq!(layer_count(&root), 3);
        store.unmount_rootfs(&container(1)).await.unwrap();
        assert!(mounts_below(&root).is_empty());
        store.shutdown().await;
        drop(store);
        let _store = store_in(&root, &[]).await;
        assert_eq!(layer_count(&root), 1, "that of the base");
        assert_eq!(leftovers(&root), Vec::<PathBuf>::new());
    });
}

#[test]
fn an_unmount_accepts_what_is_half_made_and_never_leaves_its_mount() {
    if !in_own_mount_namespace("an_unmount_accepts_what_is_half_made_and_never_leaves_its_mount") {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let store = store_in(directory.path(), &[]).await;
        let of = |number: u32| directory.path().join("containers").join(container(number));
        // Half-made: no record, no mount.
        fs::create_dir_all(of(1).join("upper/a/b")).unwrap();
        fs::create_dir_all(of(2)).unwrap();
        for number in [1, 2] {
            store.unmount_rootfs(&container(number)).await.unwrap();
            assert!(!of(number).exists());
        }
        // Somebody mounted something into it: what is mounted there stays whole.
        let precious = directory.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("data"), "x").unwrap();
        fs::create_dir_all(of(3).join("upper/volume")).unwrap();
        rustix::mount::mount_bind(&precious, of(3).join("upper/volume")).unwrap();
        let error = store.unmount_rootfs(&container(3)).await.unwrap_err();
        assert!(matches!(error, Error::StillMounted(_)), "{error}");
        assert!(precious.join("data").exists());
        rustix::mount::unmount(of(3).join("upper/volume"), rustix::mount::UnmountFlags::empty()).unwrap();
        store.unmount_rootfs(&container(3)).await.unwrap();
        // A link in the writable layer is removed, not followed; a busy root file system is detached.
        let image = load(&store, &whiteout_image(), None).await;
        let rootfs = store
            .mount_rootfs(&container(4), &image, &View::default())
            .await
            .unwrap();
        std::os::unix::fs::symlink(&precious, rootfs.path.join("link")).unwrap();
        let _busy = fs::File::open(rootfs.path.join("keep")).unwrap();
        store.unmount_rootfs(&container(4)).await.unwrap();
        assert!(precious.join("data").exists() && !of(4).exists());
        assert!(mounts_below(directory.path()).is_empty());
    });
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    if !in_own_mount_namespace("a_mount_that_fails_leaves_nothing") {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let store = store_in(directory.path(), &[]).await;
        let missing = ImageId::of_config(b"{}");
        assert!(matches!(
            store.mount_rootfs(&container(1), &missing, &View::default()).await,
            Err(Error::NoSuchImage(_))
        ));
        let built = whiteout_image();
        let image = load(&store, &built, None).await;
        let layer = sha256(&tar_of(&[
            (".wh.gone", ""),
            ("dir/.wh..wh..opq", ""),
            ("dir/new", "2"),
            ("changed", "2"),
        ]));
        let content = directory
            .path()
            .join("layers")
            .join(layer.trim_start_matches("sha256:"))
            .join("diff");
        fs::rename(&content, content.with_file_name("away")).unwrap();
        store
            .mount_rootfs(&container(1), &image, &View::default())
            .await
            .unwrap_err();
        assert_eq!(fs::read_dir(directory.path().join("containers")).unwrap().count(), 0);
        assert!(store.containers().is_empty());
        fs::rename(content.with_file_name("away"), &content).unwrap();
        store
            .mount_rootfs(&container(1), &image, &View::default())
            .await
            .unwrap();
        let other = load(&store, &TestImage::new(&[]), None).await;
        let error = store
            .mount_rootfs(&container(1), &other, &View::default())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::MountedFromOther { .. }), "{error}");
        store.unmount_rootfs(&container(1)).await.unwrap();
    });
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    if !in_own_mount_namespace("a_full_disk_is_said_and_leaves_nothing") {
        return;
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let size = c"size=2m";
        rustix::mount::mount("none", root, "tmpfs", rustix::mount::MountFlags::empty(), size).unwrap();
        let store = store_in(root, &[]).await;
        assert_eq!(store.fs_info().mountpoint, root.canonicalize().unwrap());
        let small = load(
            &store,
            &TestImage::new(&[(tar_of(&[("f", "x")]), Form::Gzip)]),
            Some("r.example/small:1"),
        )
        .await;
        let large = TestImage::new(&[(tar_of(&[("f", &"x".repeat(4 << 20))]), Form::Gzip)]);
        let layout = tempfile::tempdir().unwrap();
        large.write_layout(layout.path(), Some("r.example/large:1"));
        let error = store.load(layout.path()).await.unwrap_err();
        assert!(matches!(error, Error::DiskFull(_)), "{error}");
        assert_eq!((layer_count(root), leftovers(root).len()), (1, 0));
        assert_eq!(store.resolve("r.example/small:1").unwrap().id, small);
        store
            .remove("r.example/small:1", |_| false)
            .await
            .expect("room can be made on a full disk");
        store.shutdown().await;
        drop(store);
        rustix::mount::unmount(root, rustix::mount::UnmountFlags::empty()).unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_come_and_go_at_once_never_lose_a_layer() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = store_in(&root, &[]).await;
    // Every two of them share layers.
    let layer = |n: usize| (tar_of(&[("f", &format!("{n}"))]), Form::Gzip);
    let tasks = (0..4).map(|n| {
        let layout = directory.path().join(format!("layout{n}"));
        let image = TestImage::new(&[layer(n), layer((n + 1) % 4), layer((n + 2) % 4)]);
        image.write_layout(&layout, Some(&format!("r.example/app{n}:1")));
        let (store, root) = (store.clone(), root.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                let id = store.load(&layout).await.unwrap().remove(0).id;
                let image = store.resolve(id.hex()).unwrap();
                for layer in &image.layers {
                    assert!(root.join("layers").join(layer.hex()).join("diff/f").exists());
                }
                store.remove(id.hex(), |_| false).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(
        (layer_count(&root), store.fs_info().used_bytes, leftovers(&root).len()),
        (0, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_is_removed_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = store_in(root, &[]).await;
    let image = load(&store, &whiteout_image(), Some("r.example/app:1")).await;
    let size = store.fs_info();
    store.shutdown().await;
    drop(store);

    fs::create_dir_all(root.join("tmp/9/diff/deep/er")).unwrap();
    fs::create_dir_all(root.join("layers").join("0".repeat(64)).join("diff")).unwrap(); // no record: never finished
    fs::write(root.join("images").join(format!("{}.tmp", "0".repeat(64))), "half").unwrap();
    fs::write(root.join("images").join(format!("{}.json", "1".repeat(64))), "{}").unwrap();
    let store = store_in(root, &[]).await;
    assert_eq!(store.resolve("r.example/app:1").unwrap().id, image);
    assert_eq!((layer_count(root), leftovers(root).len()), (2, 0));
    assert_eq!(
        fs::read_dir(root.join("quarantine")).unwrap().count(),
        1,
        "what cannot be read is set aside"
    );
    let now = store.fs_info();
    assert_eq!((now.used_bytes, now.used_inodes), (size.used_bytes, size.used_inodes));
    assert!(now.mountpoint.is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_has_lost_a_layer_is_set_aside_and_comes_back_with_the_next_load() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = store_in(root, &[]).await;
    let lost = load(&store, &whiteout_image(), Some("r.example/lost:1")).await;
    let other = TestImage::new(&[(tar_of(&[("f", "x")]), Form::Gzip)]);
    let whole = load(&store, &other, Some("r.example/whole:1")).await;
    let layer = store.resolve("r.example/lost:1").unwrap().layers[0].clone();
    store.shutdown().await;
    drop(store);
    fs::remove_dir_all(root.join("layers").join(layer.hex())).unwrap();

    let store = store_in(root, &[]).await;
    assert!(
        store.status("r.example/lost:1").unwrap().is_none(),
        "it is not promised any more"
    );
    assert_eq!(
        store.resolve("r.example/whole:1").unwrap().id,
        whole,
        "the others are as they were"
    );
    assert_eq!(load(&store, &whiteout_image(), Some("r.example/lost:1")).await, lost);
    let mounted = store
        .mount_rootfs(&container(1), &lost, &View::default())
        .await
        .unwrap();
    assert!(mounted.path.is_dir());
    store.unmount_rootfs(&container(1)).await.unwrap();
    store.shutdown().await;
    assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_set_aside_and_touches_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let store = store_in(root, &[]).await;
    let damaged = load(&store, &whiteout_image(), Some("r.example/damaged:1")).await;
    let whole = load(
        &store,
        &TestImage::new(&[(tar_of(&[("f", "x")]), Form::Gzip)]),
        Some("r.example/whole:1"),
    )
    .await;
    store.shutdown().await;
    drop(store);
    let path = root.join("images").join(format!("{}.json", damaged.hex()));
    let text = fs::read_to_string(&path).unwrap();
    for bad in [
        text.replace("damaged:1", "whole:1"),
        text[..100].to_owned(),
        String::new(),
    ] {
        fs::write(&path, bad).unwrap();
        let store = store_in(root, &[]).await;
        assert!(store.status("r.example/damaged:1").unwrap().is_none());
        assert_eq!(store.resolve("r.example/whole:1").unwrap().id, whole);
        assert_eq!(layer_count(root), 1, "layers of no image are removed");
        store.shutdown().await;
    }
    assert!(root.join("quarantine").join(path.file_name().unwrap()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_archive_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let image = whiteout_image();
    let layout = directory.path().join("layout");
    image.write_layout(&layout, Some("r.example/app:1"));
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", &layout).unwrap();
    let oci_archive = builder.into_inner().unwrap();
    let docker_archive = docker_archive(&image, &["r.example/app:1", "app:2"]);
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let sources: Vec<(PathBuf, &[&str])> = vec![
        (layout, &["r.example/app:1"]),
        (write("oci.tar", &oci_archive), &["r.example/app:1"]),
        (
            write("oci.tar.gz", &compress(&oci_archive, Form::Gzip)),
            &["r.example/app:1"],
        ),
        (
            write("docker.tar", &docker_archive),
            &["r.example/app:1", "docker.io/library/app:2"],
        ),
        (
            write("docker.tar.gz", &compress(&docker_archive, Form::Gzip)),
            &["r.example/app:1", "docker.io/library/app:2"],
        ),
        (
            write("docker.tar.zst", &compress(&docker_archive, Form::Zstd)),
            &["r.example/app:1", "docker.io/library/app:2"],
        ),
    ];
    for (source, tags) in sources {
        let root = tempfile::tempdir().unwrap();
        let store = store_in(root.path(), &[]).await;
        let loaded = store.load(&source).await.unwrap();
        assert_eq!(loaded.len(), 1, "{source:?}");
        assert_eq!(
            (loaded[0].id.to_string(), loaded[0].tags.as_slice()),
            (
                image.config.clone(),
                &tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>()[..]
            )
        );
        assert_eq!(store.resolve(tags[0]).unwrap().id, loaded[0].id);
        assert_eq!(layer_count(root.path()), 2);
        assert!(leftovers(root.path()).is_empty());
    }
}

/// What `docker save` wrote for years: a second place of a layer is a link to the first.
fn docker_archive(image: &TestImage, tags: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut names = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        let name = format!("{number}/layer.tar");
        let mut header = tar::Header::new_gnu();
        header.set_size(image.blobs[layer].len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, format!("real{number}/layer.tar"), &image.blobs[layer][..])
            .unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder
            .append_link(&mut link, &name, format!("../real{number}/layer.tar"))
            .unwrap();
        names.push(name);
    }
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).to_string();
    for (name, content) in [
        ("config.json", &image.blobs[&image.config][..]),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_lie_are_refused_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let image = whiteout_image();
    let damaged = |name: &str, change: &dyn Fn(&Path)| {
        let layout = directory.path().join(name);
        image.write_layout(&layout, Some("r.example/app:1"));
        change(&layout);
        layout
    };
    let blob = |digest: &str| PathBuf::from("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let outside = directory.path().join("outside");
    fs::write(&outside, &image.blobs[&image.layers[0]]).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let sources = [
        damaged("layer", &|layout| {
            fs::write(layout.join(blob(&image.layers[0])), "other").unwrap()
        }),
        damaged("config", &|layout| {
            fs::write(layout.join(blob(&image.config)), "{}").unwrap()
        }),
        damaged("manifest", &|layout| {
            fs::write(layout.join(blob(&image.digest())), "{}").unwrap()
        }),
        damaged("missing", &|layout| {
            fs::remove_file(layout.join(blob(&image.layers[1]))).unwrap()
        }),
        damaged("index", &|layout| {
            fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap()
        }),
        damaged("link", &|layout| {
            fs::remove_file(layout.join(blob(&image.layers[0]))).unwrap();
            std::os::unix::fs::symlink(&outside, layout.join(blob(&image.layers[0]))).unwrap();
        }),
        damaged("huge", &|layout| {
            fs::File::create(layout.join("index.json"))
                .unwrap()
                .set_len(10 << 30)
                .unwrap();
        }),
        file("empty", b""),
        file("noise", &[b'x'; 4096]),
        file(
            "cut.gz",
            &compress(&docker_archive(&image, &["a:1"]), Form::Gzip)[..200],
        ),
        file(
            "way-out",
            &tar_of(&[("manifest.json", r#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]),
        ),
        PathBuf::from("/dev/zero"),
        directory.path().join("none"),
    ];
    for source in sources {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let store = store_in(root, &[]).await;
        let error = store.load(&source).await.expect_err(&source.display().to_string());
        assert!(store.list(None).unwrap().is_empty(), "{error}");
        assert!(leftovers(root).is_empty(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_ids_find_their_image() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config_in(directory.path(), &[]);
    config.pinned_images = vec!["*/pinned:*".to_owned(), "r.example/exact:1".to_owned()];
    let store = ImageStore::open(config).await.unwrap();
    let make = |text: &str| TestImage::new(&[(tar_of(&[("f", text)]), Form::Gzip)]);
    let exact = load(&store, &make("a"), Some("r.example/exact:1")).await;
    let other = load(&store, &make("b"), Some("r.example/other:1")).await;
    assert!(store.resolve("r.example/exact:1").unwrap().pinned && !store.resolve(other.hex()).unwrap().pinned);
    // A name that could be the beginning of an id is that name first.
    let prefix = &other.hex()[..6];
    let named = load(&store, &make("c"), Some(&format!("docker.io/library/{prefix}:latest"))).await;
    assert_eq!(store.resolve(prefix).unwrap().id, named);
    assert_eq!(store.resolve(&other.hex()[..7]).unwrap().id, other);
    assert_eq!(store.list(Some(exact.hex())).unwrap().len(), 1);
    assert!(store.list(Some("r.example/none")).unwrap().is_empty());
    assert!(matches!(store.status(""), Err(Error::InvalidReference { .. })));
    assert!(matches!(
        store.status("Upper/Case"),
        Err(Error::InvalidReference { .. })
    ));
    assert!(store.status(&"f".repeat(64)).unwrap().is_none());
    // One image with two names: by either of them, both go.
    load(&store, &make("a"), Some("r.example/alias:1")).await;
    assert_eq!(
        store.resolve(exact.hex()).unwrap().tags,
        ["r.example/exact:1", "r.example/alias:1"]
    );
    store.remove("r.example/alias:1", |_| false).await.unwrap();
    assert!(store.status("r.example/exact:1").unwrap().is_none());
    assert_eq!(store.list(None).unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_look_into_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/store");
    let store = store_in(&root, &[]).await;
    let image = load(&store, &whiteout_image(), Some("r.example/app:1")).await;
    store
        .mount_rootfs(&container(1), &image, &View::default())
        .await
        .unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&root), 0o711);
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let right = match path.file_name() {
            // The users of a pod pass it on their way to what is theirs.
            Some(name) if name == "containers" => 0o711,
            _ if path.is_dir() => 0o700,
            _ => 0o600,
        };
        assert_eq!(mode(&path), right, "{path:?}");
    }
    assert_eq!(mode(&root.join("containers").join(container(1))), 0o700);
    store.unmount_rootfs(&container(1)).await.unwrap();
    for entry in fs::read_dir(root.join("images")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}
