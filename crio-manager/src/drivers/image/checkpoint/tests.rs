use super::*;
use crate::drivers::image::Limits;
use crate::drivers::seams::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, Instant};

struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in ["upper", "layer/dir", "rootfs/dir", "out"] {
            fs::create_dir_all(scene.at(name)).unwrap();
        }
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn export(&self, location: &Path, until: Instant) -> DriverResult<()> {
        let place = make_place(&self.at("place"))?;
        fs::write(place.images.join("inventory.img"), b"processes").unwrap();
        fs::write(place.work.join("dump.log"), b"words").unwrap();
        let config = br#"{"id":"1","rootfsImageRef":"abc","rootfsImageName":"","rootfsImage":"x:1"}"#;
        let spec = br#"{"mounts":[{"type":"bind","destination":"/data"},{"type":"proc","destination":"/proc"}]}"#;
        let export = CheckpointExport {
            documents: vec![(CONFIG_DUMP, config.to_vec()), (SPEC_DUMP, spec.to_vec())],
            binds: vec![
                (self.at("layer"), "/data".to_owned()),
                ("/proc".into(), "/proc".to_owned()),
            ],
            location: location.to_owned(),
            until,
        };
        export::write(&self.at("place"), &self.at("upper"), &[self.at("layer")], export)
    }

    fn import(&self, archive: &Path) -> DriverResult<()> {
        let place = make_place(&self.at("imported"))?;
        import::unpack(
            archive,
            &self.at("imported"),
            &place,
            &self.at("rootfs"),
            &Limits::default(),
        )
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

#[test]
fn what_a_container_has_written_and_removed_comes_back() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let upper = scene.at("upper");
    let whiteout = |path: &Path| {
        let none = rustix::fs::makedev(0, 0);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), none).unwrap();
    };
    fs::write(upper.join("written"), b"text").unwrap();
    fs::hard_link(upper.join("written"), upper.join("again")).unwrap();
    symlink("../../etc/passwd", upper.join("link")).unwrap();
    rustix::fs::setxattr(
        upper.join("written"),
        "user.kept",
        b"value",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let long = "long".repeat(50);
    fs::create_dir(upper.join(&long)).unwrap();
    fs::write(upper.join(&long).join(&long), b"deep").unwrap();
    whiteout(&upper.join("removed"));
    // A directory of the image, removed and made anew: what it had is hidden.
    fs::write(scene.at("layer/dir/old"), b"old").unwrap();
    fs::create_dir(upper.join("dir")).unwrap();
    fs::write(upper.join("dir/new"), b"new").unwrap();
    let opaque = rustix::fs::setxattr(
        upper.join("dir"),
        "trusted.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    );
    opaque.unwrap();

    let archive = scene.at("out/c.tar");
    scene.export(&archive, later()).unwrap();
    assert_eq!(fs::metadata(&archive).unwrap().mode() & 0o777, 0o600);
    assert_eq!(
        fs::read_dir(scene.at("out")).unwrap().count(),
        1,
        "nothing aside is left"
    );
    let head = import::head(&archive, &Limits::default()).unwrap();
    assert_eq!(head.images, ["abc", "x:1"]);
    assert_eq!(head.mounts, ["/data"]);

    fs::write(scene.at("rootfs/removed"), b"x").unwrap();
    fs::write(scene.at("rootfs/dir/old"), b"old").unwrap();
    fs::write(scene.at("rootfs/kept"), b"kept").unwrap();
    scene.import(&archive).unwrap();
    let rootfs = scene.at("rootfs");
    assert_eq!(
        fs::read(scene.at("imported/images/inventory.img")).unwrap(),
        b"processes"
    );
    assert_eq!(fs::read(rootfs.join("written")).unwrap(), b"text");
    let inode = |name: &str| fs::metadata(rootfs.join(name)).unwrap().ino();
    assert_eq!(inode("written"), inode("again"));
    assert_eq!(
        fs::read_link(rootfs.join("link")).unwrap(),
        Path::new("../../etc/passwd")
    );
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(rootfs.join("again"), "user.kept", &mut value).unwrap();
    assert_eq!(&value[..length], b"value");
    assert_eq!(fs::read(rootfs.join(&long).join(&long)).unwrap(), b"deep");
    assert!(!rootfs.join("removed").exists() && !rootfs.join("dir/old").exists());
    assert_eq!(fs::read(rootfs.join("dir/new")).unwrap(), b"new");
    assert_eq!(fs::read(rootfs.join("kept")).unwrap(), b"kept");
}

#[test]
fn an_archive_that_is_late_is_not_put_in_place() {
    let scene = Scene::new();
    let archive = scene.at("out/c.tar");
    let error = scene.export(&archive, Instant::now()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert_eq!(fs::read_dir(scene.at("out")).unwrap().count(), 0);
    let error = scene.export(&scene.at("none/c.tar"), later()).unwrap_err();
    assert!(error.message.contains("none/c.tar"), "{error}");
}

/// Type, name, content or link.
type Member<'m> = (tar::EntryType, &'m str, &'m [u8]);

fn archive_of(at: &Path, entries: &[Member]) {
    let mut tar = tar::Builder::new(fs::File::create(at).unwrap());
    for (kind, name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if *kind == tar::EntryType::Regular {
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        } else {
            header.set_size(0);
            header.set_link_name_literal(content).unwrap();
            header.set_cksum();
            tar.append(&header, std::io::empty()).unwrap();
        }
    }
    tar.finish().unwrap();
}

#[test]
fn a_hostile_archive_writes_nothing_outside() {
    use tar::EntryType::{Regular, Symlink};
    const INVENTORY: Member = (Regular, "checkpoint/inventory.img", b"x");
    let scene = Scene::new();
    let archive = scene.at("bad.tar");
    let before = fs::read_dir(scene.directory.path()).unwrap().count();
    let diff = scene.at("diff.tar");
    archive_of(&diff, &[(Regular, "../escaped", b"x")]);
    let escaping = fs::read(&diff).unwrap();
    archive_of(
        &diff,
        &[(Symlink, "out", b"/"), (Regular, "out/escaped-checkpoint-test", b"x")],
    );
    let through_link = fs::read(&diff).unwrap();
    let cases: [(&str, Vec<Member>); 6] = [
        ("directories", vec![INVENTORY, (Regular, "checkpoint/a/b", b"x")]),
        ("twice", vec![INVENTORY, INVENTORY]),
        (
            "inventory.img",
            vec![(Symlink, "checkpoint/inventory.img", b"/etc/passwd")],
        ),
        ("inventory.img", vec![(Regular, "../escaped", b"x")]),
        (
            "deleted.files",
            vec![INVENTORY, (Regular, "deleted.files", br#"["/../escaped"]"#)],
        ),
        ("'..'", vec![INVENTORY, (Regular, "rootfs-diff.tar", &escaping)]),
    ];
    for (why, entries) in cases {
        archive_of(&archive, &entries);
        let error = scene.import(&archive).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert!(error.message.contains(why), "{why}: {error}");
    }
    if is_root() {
        archive_of(&archive, &[INVENTORY, (Regular, "rootfs-diff.tar", &through_link)]);
        scene.import(&archive).unwrap();
        assert!(
            scene.at("rootfs/escaped-checkpoint-test").exists(),
            "the root is that of the container"
        );
    }
    assert!(!Path::new("/escaped-checkpoint-test").exists());
    // bad.tar, diff.tar, imported
    assert_eq!(fs::read_dir(scene.directory.path()).unwrap().count(), before + 3);
}

#[test]
fn what_is_no_checkpoint_is_told_as_such() {
    use tar::EntryType::Regular;
    let scene = Scene::new();
    let archive = scene.at("bad.tar");
    let said = || import::head(&archive, &Limits::default()).unwrap_err();
    assert_eq!(said().kind, ErrorKind::NotFound);
    for content in [&b""[..], b"no tar at all", &[0; 4096]] {
        fs::write(&archive, content).unwrap();
        assert_eq!(said().kind, ErrorKind::Invalid, "{}", said());
    }
    archive_of(&archive, &[(Regular, "config.dump", b"{}")]);
    assert!(said().message.contains("no spec.dump"), "{}", said());
    archive_of(
        &archive,
        &[(Regular, "config.dump", b"{"), (Regular, "spec.dump", b"{}")],
    );
    assert!(said().message.contains("config.dump: "), "{}", said());
    fs::remove_file(&archive).unwrap();
    fs::create_dir(&archive).unwrap();
    assert!(said().message.contains("not a regular file"), "{}", said());
}

/// Fills a layer: names with contents.
fn layer(scene: &Scene, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let directory = scene.at(name);
    for (file, content) in files {
        let path = directory.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

const CONFIG: &[u8] = br#"{"rootfsImageRef":"abc","rootfsImageName":"","rootfsImage":"x:1"}"#;
const SPEC: &[u8] = br#"{"mounts":[{"type":"bind","destination":"/data"}]}"#;

#[test]
fn the_layers_of_an_image_are_a_checkpoint_as_good_as_an_archive() {
    use tar::EntryType::Regular;
    let scene = Scene::new();
    archive_of(&scene.at("diff.tar"), &[(Regular, "written", b"text")]);
    let diff = fs::read(scene.at("diff.tar")).unwrap();
    let lower = layer(
        &scene,
        "lower",
        &[
            (CONFIG_DUMP, b"older"),
            (SPEC_DUMP, SPEC),
            (DELETED_FILES, br#"["removed"]"#),
            (ROOTFS_DIFF, &diff),
            ("checkpoint/inventory.img", b"older"),
            ("checkpoint/core-1.img", b"core"),
        ],
    );
    let upper = layer(
        &scene,
        "upper-layer",
        &[(CONFIG_DUMP, CONFIG), ("checkpoint/inventory.img", b"processes")],
    );
    let layers = Layers::open("image", &[upper, lower]).unwrap();
    let head = layers.head().unwrap();
    assert_eq!(
        (head.images, head.mounts),
        (vec!["abc".into(), "x:1".into()], vec!["/data".into()])
    );

    let rootfs = scene.at("rootfs");
    fs::write(rootfs.join("removed"), b"x").unwrap();
    let place = make_place(&scene.at("imported")).unwrap();
    layers.unpack(&place, &rootfs, &Limits::default()).unwrap();
    let image = |name: &str| fs::read(place.images.join(name)).unwrap();
    assert_eq!(
        (image("inventory.img"), image("core-1.img")),
        (b"processes".to_vec(), b"core".to_vec())
    );
    assert_eq!(fs::read(rootfs.join("written")).unwrap(), b"text");
    assert!(!rootfs.join("removed").exists());
}

#[test]
fn a_hostile_image_of_a_checkpoint_reads_and_writes_nothing_outside() {
    let scene = Scene::new();
    let secret = scene.at("secret");
    fs::write(&secret, CONFIG).unwrap();
    let linked = layer(&scene, "linked", &[(SPEC_DUMP, SPEC)]);
    symlink(&secret, linked.join(CONFIG_DUMP)).unwrap();
    symlink("/", linked.join(PROCESSES)).unwrap();
    let lower = layer(&scene, "lower", &[(CONFIG_DUMP, CONFIG)]);
    let layers = Layers::open("linked", &[linked, lower]).unwrap();
    let error = layers.head().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(
        error
            .message
            .contains("linked: not a checkpoint: it has no config.dump"),
        "{error}"
    );
    let place = make_place(&scene.at("imported")).unwrap();
    let error = layers
        .unpack(&place, &scene.at("rootfs"), &Limits::default())
        .unwrap_err();
    assert!(error.message.contains("inventory.img"), "{error}");

    let escaping = layer(
        &scene,
        "escaping",
        &[
            (DELETED_FILES, br#"["../secret"]"#),
            ("checkpoint/inventory.img", b"x"),
            ("checkpoint/a/b", b"x"),
        ],
    );
    let place = make_place(&scene.at("imported")).unwrap();
    let layers = Layers::open("escaping", &[escaping]).unwrap();
    let error = layers
        .unpack(&place, &scene.at("rootfs"), &Limits::default())
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(error.message.contains(DELETED_FILES), "{error}");
    let there: Vec<_> = fs::read_dir(&place.images)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(there, ["inventory.img"], "no directories among them");
    assert!(secret.exists());
}
