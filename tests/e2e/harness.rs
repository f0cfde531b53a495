//! The harness itself, without a daemon: namespaces, registry, images, leak finding.

use std::net::{Ipv4Addr, SocketAddr};

use e2e::TestImage;
use e2e::leaks::{self, Kind, Snapshot};
use e2e::namespaces::Namespaces;
use e2e::registry::{Access, Registry, http};

#[test]
fn a_process_inside_is_seen_and_dies_with_the_namespaces() {
    let namespaces = Namespaces::create("mount -t tmpfs tmpfs /run").unwrap();
    assert!(namespaces.mounts().iter().any(|mount| mount == "/run"));
    let mut sleeper = namespaces.command("sleep").arg("4321").spawn().unwrap();
    let seen = || {
        namespaces
            .processes()
            .iter()
            .any(|process| process.command_line == "sleep 4321")
    };
    while !seen() {
        std::thread::yield_now();
    }
    drop(namespaces);
    assert!(!sleeper.wait().unwrap().success());
}

#[test]
fn an_orphan_is_reaped_inside() {
    let namespaces = Namespaces::create(":").unwrap();
    namespaces.run("sh", &["-c", "(sleep 0.01 &)"]).unwrap();
    let zombies = || {
        namespaces
            .run(
                "sh",
                &["-c", "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"],
            )
            .unwrap()
    };
    let started = std::time::Instant::now();
    while namespaces.processes().len() > 2 || zombies().trim() != "0" {
        assert!(started.elapsed().as_secs() < 5, "{:?}", namespaces.processes());
    }
}

#[test]
fn an_image_can_be_pushed_and_is_served() {
    let namespaces = Namespaces::create("ip link set lo up").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(&namespaces, directory.path(), 5000, Access::Open).unwrap();
    let image = TestImage::busybox()
        .unwrap()
        .with_file("etc/greeting", b"hello")
        .unwrap();
    assert_eq!(
        registry.push(&namespaces, "a/b:1", &image).unwrap(),
        "127.0.0.1:5000/a/b:1"
    );
    let stream = namespaces.connect(registry.address).unwrap();
    let answer = http(stream, "127.0.0.1:5000", "GET", "/v2/a/b/tags/list", "", &[]).unwrap();
    assert_eq!(
        (answer.status, answer.body.trim_ascii_end()),
        (200, br#"{"name":"a/b","tags":["1"]}"#.as_slice())
    );
}

#[test]
fn registries_can_ask_for_a_password_or_speak_tls() {
    let namespaces = Namespaces::create("ip link set lo up").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(&namespaces, directory.path(), 5001, Access::Password).unwrap();
    let stream = namespaces.connect(registry.address).unwrap();
    assert_eq!(
        http(stream, "127.0.0.1:5001", "GET", "/v2/", "", &[]).unwrap().status,
        401
    );
    let tls = Registry::start(&namespaces, directory.path(), 5002, Access::Tls).unwrap();
    let authority = directory.path().join("ca.crt");
    let url = format!("https://{}/v2/", tls.address);
    namespaces
        .run("curl", &["-sSf", "--cacert", authority.to_str().unwrap(), &url])
        .unwrap();
}

#[test]
fn the_hosts_network_is_another_one() {
    let namespaces = Namespaces::create("ip link set lo up").unwrap();
    let listener = namespaces.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(namespaces.connect(address).is_ok());
}

#[test]
fn a_snapshot_names_what_is_more() {
    let (mut before, mut after) = (Snapshot::default(), Snapshot::default());
    before.add(Kind::Mount, ["/a".to_owned(), "/b".to_owned()]);
    after.add(Kind::Mount, ["/a".to_owned(), "/a".to_owned()]);
    after.add(Kind::Process, ["sleep 1".to_owned()]);
    assert_eq!(
        after.more_than(&before),
        ["mount /a (1 before, 2 now)", "process sleep 1 (0 before, 1 now)"]
    );
}

#[test]
fn descriptors_are_named_by_kind() {
    let _pipe = std::io::pipe().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let names = leaks::descriptors(i32::try_from(std::process::id()).unwrap());
    assert!(names.contains(&"pipe".to_owned()), "{names:?}");
    assert!(names.contains(&file.path().display().to_string()), "{names:?}");
}
