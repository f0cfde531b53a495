//! Hostile and odd archives, unpacked on a real file system: what is inside is right, what is outside is untouched.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crio_manager::drivers::image::unpack::{Limits, UnpackError, Unpacked, unpack};
use tar::{EntryType, Header};

/// A directory to unpack into, beside a host file and directory that must stay as they are.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        fs::write(directory.path().join("canary"), "host").unwrap();
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn canary(&self) -> PathBuf {
        self.directory.path().join("canary")
    }

    fn unpack(&self, archive: &Archive) -> Result<Unpacked, UnpackError> {
        unpack(&archive.finished()[..], &self.root(), &Limits::default())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let names: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "nothing appeared outside: {names:?}");
        let canary = fs::symlink_metadata(self.canary()).unwrap();
        assert!(canary.is_file() && canary.nlink() == 1 && canary.mode() & 0o7777 == 0o644 && canary.uid() == 0);
        assert_eq!(fs::read_to_string(self.canary()).unwrap(), "host");
    }
}

/// Builds an archive without any of the checks that well-meaning tools make.
#[derive(Clone, Default)]
struct Archive {
    bytes: Vec<u8>,
}

fn header(path: &[u8], kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

impl Archive {
    fn raw(&mut self, mut header: Header, data: &[u8]) -> &mut Self {
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    fn file(&mut self, path: &str, data: &str) -> &mut Self {
        self.raw(header(path.as_bytes(), EntryType::Regular, 0o644), data.as_bytes())
    }

    fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.raw(header(path.as_bytes(), EntryType::Directory, mode), b"")
    }

    fn link(&mut self, kind: EntryType, path: &str, target: &str) -> &mut Self {
        let mut header = header(path.as_bytes(), kind, 0o777);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(header, b"")
    }

    fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.link(EntryType::Symlink, path, target)
    }

    fn hardlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.link(EntryType::Link, path, target)
    }

    fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(header(b"pax", EntryType::XHeader, 0), &data)
    }

    fn finished(&self) -> Vec<u8> {
        [&self.bytes[..], &[0; 1024]].concat()
    }
}

fn archive(build: impl FnOnce(&mut Archive)) -> Archive {
    let mut archive = Archive::default();
    build(&mut archive);
    archive
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = [0_u8; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut buffer[..]).ok()?;
    Some(buffer[..length].to_vec())
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

#[test]
fn a_plain_layer_is_unpacked_with_owners_modes_and_times() {
    let host = Host::new();
    let mut owned = header(b"bin/tool", EntryType::Regular, 0o4755);
    owned.set_uid(7);
    owned.set_gid(8);
    let mut device = header(b"dev/one", EntryType::Char, 0o620);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    device.set_uid(5);
    let layer = archive(|a| {
        a.dir("./", 0o751)
            .dir("bin/", 0o755)
            .raw(owned, b"code")
            .symlink("bin/sh", "tool")
            .hardlink("bin/alias", "bin/tool");
        a.dir("dev", 0o755)
            .raw(device, b"")
            .raw(header(b"dev/pipe", EntryType::Fifo, 0o666), b"")
            .file("empty", "");
        a.dir("tmp", 0o1777).file("deep/er/file", "x");
    });
    let written = host.unpack(&layer).unwrap();
    assert_eq!(
        written.inodes, 12,
        "each file and directory once, the hard link not at all"
    );

    let tool = fs::metadata(host.path("bin/tool")).unwrap();
    assert_eq!(
        (tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.nlink()),
        (0o4755, 7, 8, 2),
        "setuid survives chown"
    );
    assert_eq!(tool.mtime(), 1_000_000_000);
    assert_eq!(
        fs::metadata(host.path("bin")).unwrap().mtime(),
        1_000_000_000,
        "set after the files in it"
    );
    assert_eq!(fs::read_link(host.path("bin/sh")).unwrap(), Path::new("tool"));
    assert_eq!(
        fs::symlink_metadata(host.path("bin/sh")).unwrap().mtime(),
        1_000_000_000
    );
    let device = fs::symlink_metadata(host.path("dev/one")).unwrap();
    assert!(device.file_type().is_char_device());
    assert_eq!(
        (device.rdev(), device.mode() & 0o7777, device.uid()),
        (rustix::fs::makedev(1, 3), 0o620, 5)
    );
    let pipe = fs::symlink_metadata(host.path("dev/pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o666, "whatever the umask is");
    assert_eq!(fs::metadata(host.path("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(host.root()).unwrap().mode() & 0o7777, 0o751);
    assert_eq!(
        fs::metadata(host.path("deep/er")).unwrap().mode() & 0o7777,
        0o755,
        "made though not listed"
    );
}

#[test]
fn absolute_paths_are_inside() {
    let host = Host::new();
    let outside = host.canary().display().to_string();
    host.unpack(&archive(|a| {
        _ = a.file(&outside, "inside").file("/etc/x", "x").file("//y", "y")
    }))
    .unwrap();
    assert_eq!(host.text(outside.trim_start_matches('/')), "inside");
    assert_eq!(host.text("etc/x") + &host.text("y"), "xy");
}

#[test]
fn steps_upwards_are_refused() {
    for path in ["../canary", "a/../../canary", "..", "a/..", "./../canary", "/../canary"] {
        let host = Host::new();
        for layer in [
            archive(|a| _ = a.file(path, "bad")),
            archive(|a| _ = a.dir(path, 0o777)),
            archive(|a| _ = a.symlink(path, "x")),
            archive(|a| _ = a.file("f", "x").hardlink(path, "f")),
            archive(|a| _ = a.file("f", "x").hardlink("g", path)),
            archive(|a| _ = a.pax(&[("path", path.as_bytes())]).file("innocent", "bad")),
            archive(|a| {
                _ = a
                    .raw(header(b"long", EntryType::GNULongName, 0), path.as_bytes())
                    .file("innocent", "bad")
            }),
        ] {
            let error = host.unpack(&layer).unwrap_err();
            assert!(matches!(error, UnpackError::InvalidEntry { .. }), "{path}: {error}");
        }
    }
}

#[test]
fn a_link_on_the_way_does_not_lead_out() {
    let host = Host::new();
    let outside = host.directory.path().display().to_string();
    // Upwards: the root is the top.
    host.unpack(&archive(|a| {
        _ = a.symlink("up", "../../../../..").file("up/canary", "inside")
    }))
    .unwrap();
    assert_eq!(host.text("canary"), "inside");
    // To an absolute path: the one inside, which is not there.
    for layer in [
        archive(|a| _ = a.symlink("out", &outside).file("out/canary", "bad")),
        archive(|a| _ = a.symlink("out", &outside).dir("out/new", 0o777)),
        archive(|a| _ = a.symlink("out", &outside).symlink("out/new", "x")),
        archive(|a| _ = a.symlink("out", &outside).hardlink("mine", "out/canary")),
        archive(|a| _ = a.symlink("out", &outside).file("out/.wh.canary", "")),
        archive(|a| _ = a.symlink("a", "b").symlink("b", "a").file("a/x", "")),
        archive(|a| _ = a.symlink("proc", "/proc/self/root").file("proc/x", "")),
    ] {
        let error = host.unpack(&layer).unwrap_err();
        assert!(matches!(error, UnpackError::InvalidEntry { .. }), "{error}");
        fs::remove_dir_all(host.root()).unwrap();
        fs::create_dir(host.root()).unwrap();
    }
    // A link inside stays a way.
    host.unpack(&archive(|a| {
        _ = a.dir("usr/lib", 0o755).symlink("lib", "/usr/lib").file("lib/x", "x")
    }))
    .unwrap();
    assert_eq!(host.text("usr/lib/x"), "x");
}

#[test]
fn a_file_replaces_a_link_and_does_not_go_through_it() {
    let host = Host::new();
    let canary = host.canary().display().to_string();
    host.unpack(&archive(|a| {
        a.symlink("x", &canary).file("x", "mine");
        a.symlink("d", "/").dir("d", 0o700);
        a.symlink("n", &canary).raw(header(b"n", EntryType::Fifo, 0o600), b"");
    }))
    .unwrap();
    assert_eq!(host.text("x"), "mine");
    assert!(fs::symlink_metadata(host.path("d")).unwrap().is_dir());
    assert!(fs::symlink_metadata(host.path("n")).unwrap().file_type().is_fifo());
    assert_ne!(
        fs::metadata(host.root()).unwrap().mode() & 0o7777,
        0o700,
        "the mode did not go through the link"
    );
}

#[test]
fn a_hard_link_to_a_link_changes_nothing_behind_it() {
    let host = Host::new();
    let canary = host.canary().display().to_string();
    let mut link = header(b"h", EntryType::Link, 0o4777);
    link.as_old_mut().linkname[..1].copy_from_slice(b"s");
    link.set_uid(99);
    host.unpack(&archive(|a| {
        _ = a
            .symlink("s", &canary)
            .raw(link, b"")
            .file("t", "")
            .hardlink("t", "t2/../t")
    }))
    .unwrap_err();
    assert!(
        fs::symlink_metadata(host.path("h")).unwrap().is_symlink(),
        "the link itself has two names"
    );
}

#[test]
fn a_hard_link_needs_a_file_of_this_layer() {
    let host = Host::new();
    let canary = host.canary().display().to_string();
    for (layer, why) in [
        (archive(|a| _ = a.hardlink("h", &canary)), "outside"),
        (archive(|a| _ = a.hardlink("h", "missing")), "missing"),
        (archive(|a| _ = a.dir("d", 0o755).hardlink("h", "d")), "directory"),
        (archive(|a| _ = a.file("h", "x").hardlink("h", "h")), "itself"),
        (archive(|a| _ = a.hardlink("h", "/")), "root"),
    ] {
        assert!(
            matches!(host.unpack(&layer), Err(UnpackError::InvalidEntry { .. })),
            "{why}"
        );
    }
    host.unpack(&archive(|a| {
        a.file("one", "1")
            .file("two", "2")
            .hardlink("two", "one")
            .hardlink("two", "one")
            .symlink("d", ".")
            .hardlink("d/one", "one");
    }))
    .unwrap();
    assert_eq!(host.text("two"), "1");
    assert_eq!(fs::metadata(host.path("one")).unwrap().nlink(), 2);
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let host = Host::new();
    host.unpack(&archive(|a| {
        a.file("gone/.wh.file", "");
        a.dir("opaque", 0o755)
            .file("opaque/.wh..wh..opq", "")
            .file("opaque/new", "x");
        a.file(".wh.first", "").dir("first", 0o755).file("first/new", "x"); // hidden below, new here
        a.file("kept/x", "x").file(".wh.kept", ""); // the other way round
        a.file("same", "x").file(".wh.same", "");
        a.file(".wh.way", "").file("way/in/file", "x");
        a.file(".wh..wh.plnk", "")
            .dir(".wh..wh.orph", 0o700)
            .file(".wh..wh.orph/x", "");
    }))
    .unwrap();
    assert!(is_whiteout(&host.path("gone/file")));
    let opaque = |name: &str| xattr(&host.path(name), "trusted.overlay.opaque").as_deref() == Some(b"y");
    assert!(opaque("opaque") && opaque("first") && opaque("kept") && opaque("way"));
    assert_eq!(
        host.text("first/new") + &host.text("kept/x") + &host.text("same") + &host.text("way/in/file"),
        "xxxx"
    );
    let mut names: Vec<_> = fs::read_dir(host.root())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["first", "gone", "kept", "opaque", "same", "way"],
        "no whiteout file is left as such"
    );
}

#[test]
fn a_whiteout_names_a_file_of_its_directory() {
    let host = Host::new();
    for path in [".wh.", ".wh..", ".wh...", "a/.wh..", ".wh.x/y", "a/.wh.b/c"] {
        let error = host.unpack(&archive(|a| _ = a.file(path, ""))).unwrap_err();
        assert!(matches!(error, UnpackError::InvalidEntry { .. }), "{path}: {error}");
    }
    host.unpack(&archive(|a| _ = a.file(".wh..wh..opq", "")))
        .expect("the root may be opaque");
}

#[test]
fn attributes_are_kept_but_not_those_of_overlayfs() {
    let host = Host::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    host.unpack(&archive(|a| {
        a.pax(&[
            ("SCHILY.xattr.user.note", b"a\nb"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.metacopy", b""),
            ("SCHILY.xattr.trusted.other", b"x"),
            ("SCHILY.xattr.security.selinux", b"system_u:object_r:shadow_t:s0"),
        ]);
        let mut owned = header(b"tool", EntryType::Regular, 0o755);
        owned.set_uid(1);
        a.raw(owned, b"x");
        a.pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
            .dir("dir", 0o755);
    }))
    .unwrap();
    let tool = host.path("tool");
    assert_eq!(xattr(&tool, "user.note").as_deref(), Some(&b"a\nb"[..]));
    assert_eq!(
        xattr(&tool, "security.capability").as_deref(),
        Some(&capability[..]),
        "set after the owner"
    );
    for name in [
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.other",
        "security.selinux",
    ] {
        assert_eq!(xattr(&tool, name), None, "{name}");
    }
    assert_eq!(xattr(&host.path("dir"), "trusted.overlay.opaque"), None);
}

#[test]
fn attribute_bombs_are_refused() {
    let host = Host::new();
    let value = vec![b'x'; 60_000];
    let big = archive(|a| {
        _ = a
            .pax(&[("SCHILY.xattr.user.a", &value), ("SCHILY.xattr.user.b", &value)])
            .file("f", "")
    });
    assert!(matches!(host.unpack(&big), Err(UnpackError::InvalidEntry { .. })));
    let names: Vec<String> = (0..1000).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let many = archive(|a| {
        let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        a.pax(&records).file("f", "");
    });
    assert!(matches!(host.unpack(&many), Err(UnpackError::Limit { .. })));
}

#[test]
fn long_names_are_bounded() {
    let host = Host::new();
    let path = |length: usize| vec!["d".repeat(200); length / 201].join("/");
    let by_pax = |path: &str| archive(|a| _ = a.pax(&[("path", path.as_bytes())]).file("f", "x"));
    let by_gnu = |path: &str| {
        archive(|a| {
            _ = a
                .raw(header(b"l", EntryType::GNULongName, 0), format!("{path}\0").as_bytes())
                .file("f", "x")
        })
    };
    host.unpack(&by_pax(&path(1800))).unwrap();
    host.unpack(&by_gnu(&path(1500))).unwrap();
    assert!(host.path(&path(1800)).is_file() || host.path(&path(1500)).is_file());
    for length in [8000, 500_000, 3 << 20] {
        assert!(
            matches!(host.unpack(&by_pax(&path(length))), Err(UnpackError::Limit { .. })),
            "{length}"
        );
        assert!(
            matches!(host.unpack(&by_gnu(&path(length))), Err(UnpackError::Limit { .. })),
            "{length}"
        );
    }
    let component = "c".repeat(300);
    assert!(matches!(
        host.unpack(&by_pax(&component)),
        Err(UnpackError::InvalidEntry { .. })
    ));
    let target = "t".repeat(5000);
    let link = archive(|a| _ = a.pax(&[("linkpath", target.as_bytes())]).symlink("s", "x"));
    assert!(matches!(host.unpack(&link), Err(UnpackError::Limit { .. })));
}

#[test]
fn an_extension_that_claims_to_be_huge_is_not_read() {
    let host = Host::new();
    for kind in [
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        let mut huge = header(b"x", kind, 0);
        huge.set_size(10 << 30);
        huge.set_cksum();
        // As long as it claims to be: only a reader that stops comes back.
        let endless = huge.as_bytes().chain(std::io::repeat(b'x'));
        let error = unpack(endless, &host.root(), &Limits::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Limit { .. }), "{error}");
    }
    let chain = archive(|a| {
        for _ in 0..100 {
            a.pax(&[("mtime", b"1")]);
        }
    });
    assert!(matches!(host.unpack(&chain), Err(UnpackError::Limit { .. })));
}

#[test]
fn sparse_files_are_refused() {
    let host = Host::new();
    let gnu = archive(|a| _ = a.raw(header(b"s", EntryType::GNUSparse, 0o644), b"x"));
    assert!(matches!(host.unpack(&gnu), Err(UnpackError::Unsupported { .. })));
    for key in ["GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.numblocks"] {
        let pax = archive(|a| _ = a.pax(&[(key, b"1")]).file("s", "x"));
        assert!(
            matches!(host.unpack(&pax), Err(UnpackError::Unsupported { .. })),
            "{key}"
        );
    }
}

#[test]
fn a_name_that_comes_twice_is_the_last_one() {
    let host = Host::new();
    host.unpack(&archive(|a| {
        a.file("x", "first, and longer").file("x", "second");
        a.file("d/deep/file", "x").file("d", "a file now");
        a.file("f", "x").dir("f", 0o755).file("f/in", "y");
        a.dir("e", 0o700).file("e/kept", "z").dir("e", 0o711);
    }))
    .unwrap();
    assert_eq!(
        host.text("x") + &host.text("d") + &host.text("f/in") + &host.text("e/kept"),
        "seconda file nowyz"
    );
    assert_eq!(fs::metadata(host.path("e")).unwrap().mode() & 0o7777, 0o711);
    assert!(matches!(
        host.unpack(&archive(|a| _ = a.file("x/y", ""))),
        Err(UnpackError::InvalidEntry { .. })
    ));
}

#[test]
fn the_size_of_the_extension_is_the_size() {
    let host = Host::new();
    // The header says nothing, the extension 600 bytes: a reader that believes the header would see another archive in them.
    let hidden = archive(|a| _ = a.file("smuggled", "x"));
    let mut data = hidden.bytes.clone();
    data.resize(1024, 0);
    let layer = archive(|a| {
        a.pax(&[("size", b"1024")]);
        let mut outer = header(b"outer", EntryType::Regular, 0o644);
        outer.set_cksum();
        a.bytes.extend_from_slice(outer.as_bytes());
        a.bytes.extend_from_slice(&data);
    });
    host.unpack(&layer).unwrap();
    assert_eq!(fs::metadata(host.path("outer")).unwrap().len(), 1024);
    assert!(!host.path("smuggled").exists());
}

#[test]
fn owners_are_numbers_that_fit() {
    let host = Host::new();
    for id in ["4294967295", "4294967296", "99999999999999999999", "-1", "0x0", ""] {
        let layer = archive(|a| _ = a.pax(&[("uid", id.as_bytes())]).file("f", ""));
        assert!(host.unpack(&layer).is_err(), "{id:?}");
    }
    host.unpack(&archive(|a| {
        _ = a.pax(&[("uid", b"4294967294"), ("gid", b"3000000000")]).file("f", "")
    }))
    .unwrap();
    let file = fs::metadata(host.path("f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (4_294_967_294, 3_000_000_000));
}

#[test]
fn a_truncated_archive_is_an_error() {
    let host = Host::new();
    let whole = archive(|a| _ = a.file("a", &"x".repeat(2000)).file("b", "y")).finished();
    for length in [1, 100, 511, 513, 1000, 2000, 3000] {
        let error = unpack(&whole[..length], &host.root(), &Limits::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Truncated), "{length}: {error}");
    }
    assert!(matches!(
        unpack(&[b'x'; 1024][..], &host.root(), &Limits::default()),
        Err(UnpackError::NotATar { .. })
    ));
    unpack(&[][..], &host.root(), &Limits::default()).expect("a layer may be empty");
}

#[test]
fn entries_are_counted_and_bounded() {
    let host = Host::new();
    let limits = Limits {
        entries: 1000,
        ..Limits::default()
    };
    let layer = |count: usize| {
        archive(|a| {
            for n in 0..count {
                a.file(&format!("d/{n}"), "");
            }
        })
    };
    assert_eq!(
        unpack(&layer(1000).finished()[..], &host.root(), &limits)
            .unwrap()
            .inodes,
        1002
    );
    let error = unpack(&layer(1001).finished()[..], &host.root(), &limits).unwrap_err();
    assert!(
        matches!(
            error,
            UnpackError::Limit {
                what: "entries",
                limit: 1000
            }
        ),
        "{error}"
    );
    assert!(Limits::default().entries <= 1_000_000);
}

#[test]
fn a_rename_while_unpacking_leads_nowhere_outside() {
    let host = Host::new();
    let outside = host.directory.path().to_owned();
    let layer = archive(|a| {
        for n in 0..300 {
            a.file(&format!("d/e/{n}"), "x").file(&format!("d/{n}"), "x");
        }
    });
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let directory = host.path("d");
    let flipper = std::thread::spawn(move || {
        let (aside, link) = (directory.with_file_name("aside"), directory.with_file_name("link"));
        let _ = symlink(&outside, &link);
        while told.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let _ = fs::rename(&directory, &aside);
            let _ = fs::rename(&link, &directory);
            let _ = fs::rename(&directory, &link);
            let _ = fs::rename(&aside, &directory);
        }
    });
    for _ in 0..20 {
        let _ = host.unpack(&layer); // may fail; must not write outside, which the host checks at its end
    }
    tell.send(()).unwrap();
    flipper.join().unwrap();
}
