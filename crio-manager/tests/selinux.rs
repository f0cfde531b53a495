//! Labels on real files: the attribute `security.selinux` is one that root may set without SELinux too.
#![allow(clippy::unwrap_used, clippy::panic)]

use crio_manager::drivers::host::Host;
use crio_manager::drivers::seams::{ErrorKind, HostFiles};
use crio_manager::model::selinux::Label;
use rustix::fs::{FileType, Mode};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

/// Of the thing itself, not of what a link leads to.
fn label_of(path: &Path) -> Option<String> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut value).ok()?;
    Some(String::from_utf8(value.get(..length)?.to_vec()).unwrap())
}

async fn relabel(path: &Path) -> Result<(), (ErrorKind, String)> {
    let label = Label::parse(LABEL).unwrap();
    let labelled = tokio::time::timeout(Duration::from_secs(60), Host.relabel(path, &label)).await;
    labelled.unwrap().map_err(|error| (error.kind, error.message))
}

#[tokio::test]
async fn a_volume_is_labelled_with_all_that_is_in_it_and_nothing_else() {
    let base = tempfile::tempdir().unwrap();
    let (volume, outside) = (base.path().join("volume"), base.path().join("outside"));
    fs::create_dir_all(volume.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "").unwrap();
    fs::write(volume.join("a/b/file"), "").unwrap();
    symlink(&outside, volume.join("directory-link")).unwrap();
    symlink(outside.join("secret"), volume.join("a/file-link")).unwrap();
    symlink("nowhere", volume.join("dangling")).unwrap();
    // Whoever opened it would wait for its other end.
    let fifo = volume.join("a/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();

    relabel(&volume).await.unwrap();
    let inside = [
        "",
        "a",
        "a/b",
        "a/b/file",
        "directory-link",
        "a/file-link",
        "dangling",
        "a/fifo",
    ];
    for path in inside.map(|path| volume.join(path)) {
        assert_eq!(label_of(&path).as_deref(), Some(LABEL), "{}", path.display());
    }
    for path in [base.path(), &outside, &outside.join("secret")] {
        assert_eq!(label_of(path), None, "{}", path.display());
    }

    let changed = |path: &Path| {
        fs::symlink_metadata(path)
            .map(|of| (of.ctime(), of.ctime_nsec()))
            .unwrap()
    };
    let before = changed(&fifo);
    relabel(&volume).await.unwrap();
    assert_eq!(changed(&fifo), before, "what has the label is left alone");
    relabel(&volume.join("a/b/file")).await.unwrap();
}

#[tokio::test]
async fn the_label_of_a_volume_is_that_of_its_top() {
    let base = tempfile::tempdir().unwrap();
    let (volume, label) = (base.path().join("volume"), Label::parse(LABEL).unwrap());
    fs::create_dir(&volume).unwrap();
    assert!(!Host.has_label(&volume, &label).await.unwrap(), "it has none");
    relabel(&volume).await.unwrap();
    fs::write(volume.join("later"), "").unwrap();
    assert!(Host.has_label(&volume, &label).await.unwrap());
    let other = Label::parse("system_u:object_r:container_file_t:s0:c1,c3").unwrap();
    assert!(!Host.has_label(&volume, &other).await.unwrap());
    let link = base.path().join("link");
    symlink(&volume, &link).unwrap();
    assert!(
        !Host.has_label(&link, &label).await.unwrap(),
        "the link itself has none"
    );
    let missing = Host.has_label(&base.path().join("missing"), &label).await.unwrap_err();
    assert!(missing.message.contains("missing"), "{missing}");
}

#[tokio::test]
async fn what_the_node_needs_is_never_labelled() {
    let before = label_of(Path::new("/etc"));
    for path in [
        "/",
        "/etc",
        "/usr",
        "/usr/share/doc",
        "/home",
        "/var/lib",
        "/proc/self",
        "/sys/kernel",
    ] {
        let (kind, message) = relabel(Path::new(path)).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Invalid);
        assert!(
            message.starts_with(path) && message.contains("never relabelled"),
            "{message}"
        );
    }
    assert_eq!(label_of(Path::new("/etc")), before);
}

#[tokio::test]
async fn a_volume_that_is_not_there_or_has_no_end_is_an_error_that_names_it() {
    let base = tempfile::tempdir().unwrap();
    let missing = base.path().join("missing");
    let (_, message) = relabel(&missing).await.unwrap_err();
    assert!(message.contains(missing.to_str().unwrap()), "{message}");

    let mut deep = base.path().join("deep");
    let volume = deep.clone();
    for _ in 0..200 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    let (kind, message) = relabel(&volume).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(message.contains("deeper than 128"), "{message}");
}
