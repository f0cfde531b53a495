//! The images that the specs name, made on the spot and served under those names by the node's own registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use e2e::image::{Blob, MANIFEST, directory, file, link};
use e2e::node::REGISTRY_PORT;
use e2e::{Node, TestImage};
use serde_json::json;
use tar::{Builder, EntryType};

pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
pub const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
pub const HTTPD: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";
pub const NO_NEW_PRIVILEGES: &str = "registry.k8s.io/e2e-test-images/nonewprivs:1.3";
pub const HOST_NGINX: &str = "gcr.io/k8s-staging-cri-tools/hostnet-nginx-amd64:latest";
pub const PREDEFINED_GROUP: &str = "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest";
/// The same image in two registries.
pub const PAUSE: [&str; 2] = ["registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"];
/// One image under three names.
pub const TAGS: [&str; 3] = [
    "gcr.io/k8s-staging-cri-tools/test-image-tags:1",
    "gcr.io/k8s-staging-cri-tools/test-image-tags:2",
    "gcr.io/k8s-staging-cri-tools/test-image-tags:3",
];
/// Image, USER, and what is to be said of it: a number or a name.
pub const USERS: [(&str, &str, Option<i64>, &str); 4] = [
    (
        "gcr.io/k8s-staging-cri-tools/test-image-user-uid:latest",
        "1002",
        Some(1002),
        "",
    ),
    (
        "gcr.io/k8s-staging-cri-tools/test-image-user-username:latest",
        "www-data",
        None,
        "www-data",
    ),
    (
        "gcr.io/k8s-staging-cri-tools/test-image-user-uid-group:latest",
        "1003:1004",
        Some(1003),
        "",
    ),
    (
        "gcr.io/k8s-staging-cri-tools/test-image-user-username-group:latest",
        "www-data:1004",
        None,
        "www-data",
    ),
];
/// Where images differ in one file, and are told by name alone.
const PLAIN: [&str; 6] = [
    "latest:latest",
    "tag:test",
    "tag:all",
    "1:latest",
    "2:latest",
    "3:latest",
];
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DIGEST_REPOSITORY: &str = "gcr.io/k8s-staging-cri-tools/test-image-digest";

/// An image of the suite that has one file of its own; `name` as in `tag:test`.
pub fn plain(name: &str) -> String {
    format!("gcr.io/k8s-staging-cri-tools/test-image-{name}")
}

/// Pushes all images and has the daemon look for their registries at the node's own.
///
/// Gives the reference by digest of an index over an image.
pub async fn serve(node: &mut Node) -> anyhow::Result<String> {
    let mirrors = ["registry.k8s.io", "gcr.io", "k8s.gcr.io"].map(|host| {
        let stored = host.trim_start_matches("k8s.");
        let stored = if host == "k8s.gcr.io" {
            "registry.k8s.io"
        } else {
            stored
        };
        format!(
            "[[registry]]\nprefix = \"{host}\"\nlocation = \"127.0.0.1:{REGISTRY_PORT}/{stored}\"\ninsecure = true\n"
        )
    });
    std::fs::write(node.path("registries.conf"), mirrors.concat())?;
    node.restart().await?;
    let busybox = busybox()?;
    let pushed = [
        (BUSYBOX, busybox.clone()),
        (NGINX, server(&busybox, "nginx", 80)?),
        (
            HTTPD,
            server(&busybox, "httpd", 80)?.declaring("StopSignal", json!("SIGWINCH")),
        ),
        (HOST_NGINX, server(&busybox, "nginx", 12003)?),
        (NO_NEW_PRIVILEGES, no_new_privileges(&busybox)?),
        (PREDEFINED_GROUP, predefined_group(&busybox)?),
        (PAUSE[0], pause()?),
    ];
    for (name, image) in pushed {
        node.pushed(name, &image)?;
    }
    for name in PLAIN {
        node.pushed(&plain(name), &busybox.clone().with_file(name, b"")?)?;
    }
    for (name, user, ..) in USERS {
        node.pushed(name, &busybox.clone().declaring("User", json!(user)))?;
    }
    let tags = busybox.clone().with_file("tags", b"")?;
    for name in TAGS {
        node.pushed(name, &tags)?;
    }
    index(node, &busybox.with_file("digest", b"")?)
}

/// An index over one image, as most images of the world are.
fn index(node: &mut Node, image: &TestImage) -> anyhow::Result<String> {
    node.pushed(&format!("{DIGEST_REPOSITORY}:part"), image)?;
    let manifest = image.manifest_blob();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{
        "mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.bytes.len(),
        "platform": { "architecture": "amd64", "os": "linux" },
    }] });
    let index = Blob::new(index.to_string().into_bytes());
    node.pushed_manifest(DIGEST_REPOSITORY, "index", INDEX, &index)?;
    Ok(format!("{DIGEST_REPOSITORY}@{}", index.digest))
}

/// Debian's busybox with shared libraries, each applet a hard link: what hides one hides no other.
fn busybox() -> anyhow::Result<TestImage> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/busybox-shared/bin/busybox");
    let list = Command::new(&program)
        .arg("--list")
        .output()
        .context("run `make setup`")?;
    let libraries = libraries(&program)?;
    let image = TestImage::scratch()
        .declaring("Cmd", json!(["sh"]))
        .with_layer(|archive| {
            for (path, mode) in DIRECTORIES {
                directory(archive, path, mode)?;
            }
            put(archive, &libraries)?;
            file(archive, "bin/busybox", 0o755, &std::fs::read(&program)?)?;
            for applet in String::from_utf8_lossy(&list.stdout)
                .lines()
                .filter(|name| *name != "busybox")
            {
                link(archive, EntryType::Link, &format!("bin/{applet}"), "bin/busybox")?;
            }
            // Two tools that Debian leaves out.
            file(archive, "bin/pgrep", 0o755, PGREP.as_bytes())?;
            file(archive, "bin/ipcs", 0o755, b"#!/bin/sh\ncat /proc/sysvipc/shm\n")?;
            file(archive, "etc/passwd", 0o644, PASSWD.as_bytes())?;
            file(
                archive,
                "etc/group",
                0o644,
                b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
            )
        })?;
    Ok(image)
}

const DIRECTORIES: [(&str, u32); 12] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("lib", 0o755),
    ("lib64", 0o755),
    ("lib/x86_64-linux-gnu", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
];
const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
/// Prints the numbers of the processes of this name; fails when there is none.
const PGREP: &str = r#"#!/bin/sh
found=1
for process in /proc/[0-9]*; do
    read name 2>/dev/null <$process/comm || continue
    [ "$name" = "$1" ] && echo ${process#/proc/} && found=0
done
exit $found
"#;

/// A web server that is called `nginx: master process` or the like, as its process and in its log, and leaves its number
/// in a file; it ends by SIGTERM.
fn server(busybox: &TestImage, name: &str, port: u16) -> anyhow::Result<TestImage> {
    let script = format!(
        "#!/bin/sh\necho {name} serves port {port} >&2\necho $$ >/var/run/{name}.pid\ntrap 'exit 0' TERM WINCH\n\
         busybox httpd -f -p {port} -h /var/www &\nwait\n"
    );
    let image = busybox.clone().with_layer(|archive| {
        directory(archive, "var/run", 0o755)?;
        directory(archive, "var/www", 0o755)?;
        file(archive, "var/www/index.html", 0o644, b"hello\n")?;
        file(archive, &format!("bin/{name}"), 0o755, script.as_bytes())
    })?;
    let words = [format!("/bin/{name}"), format!("{name}: master process")];
    Ok(image.declaring("Entrypoint", json!(words)).declaring("Cmd", json!([])))
}

/// Prints its effective user with the help of a program that is root for everybody.
fn no_new_privileges(busybox: &TestImage) -> anyhow::Result<TestImage> {
    let program = PathBuf::from("/usr/bin/id");
    let libraries = libraries(&program)?;
    let image = busybox.clone().with_layer(|archive| {
        put(archive, &libraries)?;
        file(archive, "bin/effective", 0o4755, &std::fs::read(&program)?)
    })?;
    let words = ["sh", "-c", "echo \"Effective uid: $(effective -u)\""];
    Ok(image.declaring("Entrypoint", json!(words)).declaring("Cmd", json!([])))
}

fn predefined_group(busybox: &TestImage) -> anyhow::Result<TestImage> {
    let passwd = format!("{PASSWD}default-user:x:1000:1000::/:/bin/sh\n");
    let group = b"root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n";
    let image = busybox.clone().with_layer(|archive| {
        file(archive, "etc/passwd", 0o644, passwd.as_bytes())?;
        file(archive, "etc/group", 0o644, group)
    })?;
    Ok(image.declaring("User", json!("1000")))
}

fn pause() -> anyhow::Result<TestImage> {
    let program = std::fs::read(e2e::node::programs().join("crio-pause"))?;
    let image = TestImage::scratch().with_layer(|archive| file(archive, "pause", 0o755, &program))?;
    Ok(image.declaring("Entrypoint", json!(["/pause"])))
}

/// The shared libraries of one of the machine's programs.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    anyhow::ensure!(output.status.success(), "ldd {}: run `make setup`", program.display());
    let words = String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    Ok(words
        .into_iter()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

fn put(archive: &mut Builder<Vec<u8>>, libraries: &[PathBuf]) -> anyhow::Result<()> {
    for library in libraries {
        let path = library.strip_prefix("/")?.display().to_string();
        file(archive, &path, 0o755, &std::fs::read(library)?)?;
    }
    Ok(())
}
