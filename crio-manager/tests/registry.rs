//! Pulls from a real registry, and from one that does everything wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crio_manager::drivers::image::{Credentials, Error, ImageStore, PullRequest};
use support::{
    Answer, DOCKER_MANIFEST, DockerRegistry, Form, OCI_INDEX, ScriptedRegistry, TestImage, config_in, layer_count,
    leftovers, ok, push_manifest, sha256, status, store_in, tar_of,
};

fn two_layers() -> TestImage {
    let base = tar_of(&[
        ("bin/", ""),
        ("bin/sh", "shell"),
        ("etc/", ""),
        ("etc/passwd", "root:x:0:0"),
    ]);
    TestImage::new(&[(base, Form::Gzip), (tar_of(&[("app", "code")]), Form::Zstd)])
}

fn password(name: &str, password: &str) -> Option<Credentials> {
    Credentials::from_fields(name, password, "", "", "").unwrap()
}

fn content(root: &Path, tar: &[u8]) -> std::path::PathBuf {
    root.join("layers")
        .join(sha256(tar).trim_start_matches("sha256:"))
        .join("diff")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_every_form_is_pulled_from_a_real_registry() {
    let directory = tempfile::tempdir().unwrap();
    let Some(registry) = DockerRegistry::start(&directory.path().join("storage"), "") else {
        return;
    };
    let root = directory.path().join("store");
    let store = store_in(&root, &[&registry.address]).await;
    let tars = [
        tar_of(&[("a", "1")]),
        tar_of(&[("b", "2")]),
        tar_of(&[("c", "3")]),
        tar_of(&[("d", "4")]),
    ];
    let forms = [Form::Plain, Form::Gzip, Form::Zstd, Form::Gzip];
    let layers: Vec<_> = tars.iter().cloned().zip(forms).collect();
    let oci = TestImage::new(&layers);
    let docker = TestImage::with(&layers[..2], DOCKER_MANIFEST, serde_json::json!({}));
    oci.push(&registry.address, "team/oci", "v1").await;
    docker.push(&registry.address, "docker", "latest").await;

    let name = format!("{}/team/oci:v1", registry.address);
    let id = store.pull(PullRequest::of(&name)).await.unwrap();
    assert_eq!(id.to_string(), oci.config, "the id is the configuration's digest");
    for (tar, (file, text)) in tars.iter().zip([("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]) {
        assert_eq!(fs::read_to_string(content(&root, tar).join(file)).unwrap(), text);
    }
    assert_eq!(store.pull(PullRequest::of(&name)).await.unwrap(), id);

    let by_digest = format!("{}/team/oci@{}", registry.address, oci.digest());
    assert_eq!(store.pull(PullRequest::of(&by_digest)).await.unwrap(), id);
    let image = store.resolve(&name).unwrap();
    assert_eq!(image.tags, std::slice::from_ref(&name));
    assert_eq!(image.digests, std::slice::from_ref(&by_digest));
    assert_eq!(image.config.as_untrusted().user, "1000:users");
    for way in [
        &name,
        &by_digest,
        &id.to_string(),
        &id.hex().to_owned(),
        &id.hex()[..12].to_owned(),
        &id.to_string()[..19].to_owned(),
    ] {
        assert_eq!(store.status(way).unwrap().unwrap().id, id, "{way}");
    }

    assert_eq!(
        store
            .pull(PullRequest::of(format!("{}/docker", registry.address)))
            .await
            .unwrap()
            .to_string(),
        docker.config
    );
    assert_eq!(store.list(None).unwrap().len(), 2);
    assert_eq!(layer_count(&root), 4, "shared layers are here once");
    let info = store.fs_info();
    assert!(info.used_inodes == 8 && info.used_bytes >= 4 * 4096, "{info:?}");

    let missing = store
        .pull(PullRequest::of(format!("{}/none:v1", registry.address)))
        .await
        .unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    assert!(store.status("docker.io/library/none").unwrap().is_none());

    store.remove(&id.to_string(), |_| false).await.unwrap();
    assert_eq!(
        (store.list(None).unwrap().len(), layer_count(&root)),
        (1, 2),
        "the other image keeps its layers"
    );
    store
        .remove(&id.to_string(), |_| false)
        .await
        .expect("removing what is gone is fine");
    assert_eq!(leftovers(&root), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_gives_the_image_of_this_processor() {
    let directory = tempfile::tempdir().unwrap();
    let Some(registry) = DockerRegistry::start(&directory.path().join("storage"), "") else {
        return;
    };
    let store = store_in(&directory.path().join("store"), &[&registry.address]).await;
    let architectures = ["amd64", "arm64", "s390x", "riscv64"];
    let images = architectures.map(|name| TestImage::new(&[(tar_of(&[("arch", name)]), Form::Gzip)]));
    let mut entries = Vec::new();
    for (name, image) in architectures.iter().zip(&images) {
        image.push(&registry.address, "app", &image.digest()).await;
        entries.push(serde_json::json!({
            "mediaType": image.media_type, "digest": image.digest(), "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": name},
        }));
    }
    let list = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let list = serde_json::to_vec(&list).unwrap();
    push_manifest(&registry.address, "app", "v1", OCI_INDEX, list.clone()).await;
    let here = match std::env::consts::ARCH {
        "x86_64" => 0,
        "aarch64" => 1,
        "s390x" => 2,
        _ => 3,
    };
    let id = store
        .pull(PullRequest::of(format!("{}/app:v1", registry.address)))
        .await
        .unwrap();
    assert_eq!(id.to_string(), images[here].config);
    let by_list = format!("{}/app@{}", registry.address, sha256(&list));
    assert_eq!(store.resolve(&by_list).unwrap().digests, [by_list]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_and_password_are_asked_for_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let storage = directory.path().join("storage");
    let image = two_layers();
    {
        let Some(open) = DockerRegistry::start(&storage, "") else {
            return;
        };
        image.push(&open.address, "app", "latest").await;
    }
    let htpasswd = directory.path().join("htpasswd");
    let made = Command::new("htpasswd").args(["-nbB", "me", "right"]).output();
    let Ok(made) = made else {
        eprintln!("SKIPPED: needs htpasswd (package apache2-utils)");
        return;
    };
    fs::write(&htpasswd, made.stdout).unwrap();
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
        htpasswd.display()
    );
    let registry = DockerRegistry::start(&storage, &auth).unwrap();
    let root = directory.path().join("store");
    let store = store_in(&root, &["127.0.0.0/8"]).await;
    let name = format!("{}/app", registry.address);
    for wrong in [
        None,
        password("me", "wrong"),
        Some(Credentials::RegistryToken("x".to_owned())),
        Some(Credentials::IdentityToken("x".to_owned())),
    ] {
        let error = store.pull(PullRequest::of(&name).with(wrong)).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
        assert!(!error.to_string().contains("wrong"));
    }
    assert!(store.list(None).unwrap().is_empty());
    let auth = Credentials::from_fields("", "", "bWU6cmlnaHQ=", "", "").unwrap();
    assert_eq!(
        store.pull(PullRequest::of(&name).with(auth)).await.unwrap().to_string(),
        image.config
    );
    assert!(
        store.pull(PullRequest::of(&name)).await.is_err(),
        "what one may, another may not, even if it is here"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_believed_by_its_authority_only() {
    let directory = tempfile::tempdir().unwrap();
    let storage = directory.path().join("storage");
    let image = two_layers();
    {
        let Some(open) = DockerRegistry::start(&storage, "") else {
            return;
        };
        image.push(&open.address, "app", "latest").await;
    }
    let at = |name: &str| directory.path().join(name).display().to_string();
    let openssl = |arguments: &str| {
        let arguments: Vec<String> = arguments
            .split(' ')
            .map(|word| word.replace("@", &format!("{}/", directory.path().display())))
            .collect();
        Command::new("openssl")
            .args(arguments)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    fs::write(at("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    let is_made = openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca -keyout @ca.key -out @ca.crt",
    ) && openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=registry -keyout @server.key -out @server.csr",
    ) && openssl(
        "x509 -req -days 2 -in @server.csr -CA @ca.crt -CAkey @ca.key -CAcreateserial -extfile @ext -out @server.crt",
    );
    if !is_made {
        eprintln!("SKIPPED: needs openssl");
        return;
    }
    let tls = format!(
        "http:\n  tls:\n    certificate: {}\n    key: {}\n",
        at("server.crt"),
        at("server.key")
    );
    let registry = DockerRegistry::start(&storage, &tls).unwrap();
    let name = format!("{}/app", registry.address);

    let unknown = store_in(&directory.path().join("unknown"), &[]).await;
    let error = unknown.pull(PullRequest::of(&name)).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");

    let certs = directory.path().join("certs.d");
    fs::create_dir_all(certs.join(&registry.address)).unwrap();
    fs::copy(at("ca.crt"), certs.join(&registry.address).join("ca.crt")).unwrap();
    let mut config = config_in(&directory.path().join("known"), &[]);
    config.certs_dir = Some(certs);
    let known = ImageStore::open(config).await.unwrap();
    assert_eq!(
        known.pull(PullRequest::of(&name)).await.unwrap().to_string(),
        image.config
    );

    let insecure = store_in(&directory.path().join("insecure"), &[&registry.address]).await;
    insecure
        .pull(PullRequest::of(&name))
        .await
        .expect("an insecure registry may have TLS that nobody vouches for");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_needs_a_listed_registry() {
    let directory = tempfile::tempdir().unwrap();
    let registry = ScriptedRegistry::of(&two_layers(), |_, _, _| None);
    let store = store_in(directory.path(), &["127.0.0.1:1"]).await;
    let error = store
        .pull(PullRequest::of(format!("{}/app", registry.address)))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Tls { .. } | Error::Unreachable { .. }),
        "{error}"
    );
    assert!(registry.asked().is_empty(), "nothing was said in the clear");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    for insecure in [vec![], vec![free.as_str()]] {
        let store = store_in(directory.path(), &insecure).await;
        let error = store.pull(PullRequest::of(format!("{free}/app"))).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        store.shutdown().await;
        drop(store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_breaks_off_is_resumed_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let image = two_layers();
    let layer = image.layers[0].clone();
    let broken = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&broken);
    let registry = ScriptedRegistry::of(&image, move |asked, digest, content| {
        if digest != layer {
            return None;
        }
        let body = content.to_vec();
        match (times.fetch_add(1, Ordering::SeqCst), asked.headers.get("range")) {
            (0, None) => Some(Answer::Broken { body, sent: 40 }),
            (1, Some(range)) if range == "bytes=40-" => Some(Answer::Broken { body, sent: 0 }), // ignores the range, breaks
            (2, None) => Some(Answer::Broken { body, sent: 50 }),
            (3, Some(range)) if range == "bytes=50-" => Some(Answer::Whole {
                status: 206,
                headers: vec![(
                    "content-range".to_owned(),
                    format!("bytes 50-{}/{}", body.len() - 1, body.len()),
                )],
                body: body[50..].to_vec(),
            }),
            (attempt, range) => panic!("attempt {attempt} with {range:?}"),
        }
    });
    let store = store_in(directory.path(), &[&registry.address]).await;
    store
        .pull(PullRequest::of(format!("{}/app", registry.address)))
        .await
        .unwrap();
    assert_eq!(broken.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bad_registry_sends_is_refused_and_leaves_nothing() {
    type Script = fn(&str, &[u8], &TestImage) -> Option<Answer>;
    type Expected = fn(&Error) -> bool;
    let cases: [(&str, Script, Expected); 6] = [
        (
            "always cut off",
            |digest, content, image| {
                (digest == image.layers[0]).then(|| Answer::Broken {
                    body: content.to_vec(),
                    sent: 10,
                })
            },
            |error| matches!(error, Error::Transfer { .. } | Error::Refused { .. }),
        ),
        (
            "other bytes",
            |digest, content, image| (digest == image.layers[1]).then(|| ok(vec![b'x'; content.len()])),
            |error| matches!(error, Error::DigestMismatch { .. }),
        ),
        (
            "too many bytes",
            |digest, content, image| (digest == image.layers[1]).then(|| ok(content.repeat(2))),
            |error| matches!(error, Error::SizeMismatch { .. }),
        ),
        (
            "another configuration",
            |digest, content, image| {
                (digest == image.config).then(|| ok(content.iter().map(|byte| byte ^ 1).collect()))
            },
            |error| matches!(error, Error::DigestMismatch { .. }),
        ),
        (
            "no such layer",
            |digest, _, image| (digest == image.layers[0]).then(|| status(404, &[])),
            |error| matches!(error, Error::NotFound { .. }),
        ),
        (
            "forbidden layer",
            |digest, _, image| (digest == image.layers[0]).then(|| status(403, &[])),
            |error| matches!(error, Error::Unauthorized { .. }),
        ),
    ];
    for (name, script, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let image = two_layers();
        let served = image.clone();
        let registry = ScriptedRegistry::of(&image, move |_, digest, content| script(digest, content, &served));
        let store = store_in(directory.path(), &[&registry.address]).await;
        let error = store
            .pull(PullRequest::of(format!("{}/app", registry.address)))
            .await
            .unwrap_err();
        assert!(expected(&error), "{name}: {error}");
        store.shutdown().await;
        assert!(store.list(None).unwrap().is_empty());
        assert!(leftovers(directory.path()).is_empty(), "{name}");
        drop(store);
        store_in(directory.path(), &[]).await;
        assert_eq!(
            layer_count(directory.path()),
            0,
            "{name}: layers of no image go at the next start"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_the_configuration_says_are_refused() {
    let tar = tar_of(&[("file", "x")]);
    let whole = TestImage::new(&[(tar.clone(), Form::Gzip)]);
    // The blob is what the manifest says, the tar in it is not what the configuration says.
    let config = String::from_utf8(whole.blobs[&whole.config].clone())
        .unwrap()
        .replace(&sha256(&tar), &sha256(b"other"));
    let mut lying = whole.clone();
    lying
        .blobs
        .insert(sha256(config.as_bytes()), config.clone().into_bytes());
    lying.manifest = String::from_utf8(whole.manifest.clone())
        .unwrap()
        .replace(&whole.config, &sha256(config.as_bytes()))
        .into_bytes();
    // Blobs that break off inside, though their digest is right.
    let cut = |form| {
        let mut image = TestImage::new(&[(tar.clone(), form)]);
        let blob = image.blobs.remove(&image.layers[0]).unwrap();
        let cut = blob[..blob.len() / 2].to_vec();
        let text = String::from_utf8(image.manifest.clone()).unwrap();
        let text = text
            .replace(&image.layers[0], &sha256(&cut))
            .replace(&format!("\"size\":{}", blob.len()), &format!("\"size\":{}", cut.len()));
        image.manifest = text.into_bytes();
        image.blobs.insert(sha256(&cut), cut);
        image
    };
    for (image, is_truncation) in [(lying, false), (cut(Form::Gzip), true), (cut(Form::Zstd), true)] {
        let directory = tempfile::tempdir().unwrap();
        let registry = ScriptedRegistry::of(&image, |_, _, _| None);
        let store = store_in(directory.path(), &[&registry.address]).await;
        let error = store
            .pull(PullRequest::of(format!("{}/app", registry.address)))
            .await
            .unwrap_err();
        match is_truncation {
            true => assert!(error.to_string().contains("ends too early"), "{error}"),
            false => assert!(matches!(error, Error::DigestMismatch { .. }), "{error}"),
        }
        assert_eq!(layer_count(directory.path()), 0);
        assert!(leftovers(directory.path()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_bounded() {
    let bomb = vec![0_u8; 8 << 20];
    for form in [Form::Gzip, Form::Zstd] {
        let image = TestImage::new(&[(bomb.clone(), form)]);
        let directory = tempfile::tempdir().unwrap();
        let registry = ScriptedRegistry::of(&image, |_, _, _| None);
        let mut config = config_in(directory.path(), &[&registry.address]);
        config.limits.tar_bytes = 1 << 20;
        let store = ImageStore::open(config).await.unwrap();
        let error = store
            .pull(PullRequest::of(format!("{}/app", registry.address)))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("more than 1048576 bytes"),
            "{form:?}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_bounded_before_they_are_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let registry = ScriptedRegistry::start(|_| Answer::Broken {
        body: vec![b' '; 5 << 20],
        sent: 0,
    });
    let store = store_in(directory.path(), &[&registry.address]).await;
    let error = store
        .pull(PullRequest::of(format!("{}/app", registry.address)))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stalls_is_given_up_and_named() {
    for at_the_manifest in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let image = two_layers();
        let (served, layer) = (image.clone(), image.layers[0].clone());
        let registry = match at_the_manifest {
            true => ScriptedRegistry::start(move |_| Answer::Stalled {
                body: served.manifest.clone(),
                sent: 5,
            }),
            false => ScriptedRegistry::of(&image, move |_, digest, content| {
                (digest == layer).then(|| Answer::Stalled {
                    body: content.to_vec(),
                    sent: 0,
                })
            }),
        };
        let mut config = config_in(directory.path(), &[&registry.address]);
        config.progress_timeout = Duration::from_millis(300);
        let store = ImageStore::open(config).await.unwrap();
        let error = store
            .pull(PullRequest::of(format!("{}/app", registry.address)))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Stalled { registry: stalled, .. } if *stalled == registry.address),
            "{error}"
        );
        assert!(error.to_string().contains("no progress for 300ms"), "{error}");
        assert!(leftovers(directory.path()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_for_all_layers() {
    let directory = tempfile::tempdir().unwrap();
    let image = two_layers();
    let served = image.clone();
    let registry = ScriptedRegistry::start(move |asked| {
        let host = asked.headers["host"].clone();
        if asked.path.starts_with("/token") {
            let by_password = asked
                .headers
                .get("authorization")
                .is_some_and(|value| value == "Basic bWU6cHc=");
            let by_identity = asked.method == "POST" && asked.body.contains("refresh_token=identity");
            let scope = "scope=repository%3Ateam%2Fapp%3Apull";
            let in_scope = asked.path.contains(scope) || asked.body.contains(scope);
            return match (by_password || by_identity) && in_scope {
                true => ok(br#"{"token":"letmein"}"#.to_vec()),
                false => status(401, &[]),
            };
        }
        if asked
            .headers
            .get("authorization")
            .is_none_or(|value| value != "Bearer letmein")
        {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"whatever\"");
            return status(401, &[("www-authenticate", &challenge)]);
        }
        if asked.path.contains("/manifests/") {
            return ok(served.manifest.clone());
        }
        let digest = asked.path.split_once("/blobs/").unwrap().1;
        // A blob elsewhere: the token is for the registry alone.
        ok(served.blobs[digest].clone())
    });
    let name = format!("{}/team/app", registry.address);
    let store = store_in(directory.path(), &[&registry.address]).await;
    for wrong in [
        None,
        password("me", "wrong"),
        Some(Credentials::RegistryToken("old".to_owned())),
    ] {
        assert!(matches!(
            store.pull(PullRequest::of(&name).with(wrong)).await,
            Err(Error::Unauthorized { .. })
        ));
    }
    let before = registry.asked().len();
    store
        .pull(PullRequest::of(&name).with(password("me", "pw")))
        .await
        .unwrap();
    let tokens = registry.asked()[before..]
        .iter()
        .filter(|asked| asked.path.starts_with("/token"))
        .count();
    assert_eq!(tokens, 1);
    for right in [
        Credentials::IdentityToken("identity".to_owned()),
        Credentials::RegistryToken("letmein".to_owned()),
    ] {
        store.pull(PullRequest::of(&name).with(Some(right))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_token_service_is_an_error() {
    for token in [r#"{"token":"a\r\nb: c"}"#, r#"{"token":""}"#, "{}", "[", "null"] {
        let directory = tempfile::tempdir().unwrap();
        let registry = ScriptedRegistry::start(move |asked| match asked.path.starts_with("/token") {
            true => ok(token.as_bytes().to_vec()),
            false => {
                let challenge = format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]);
                status(401, &[("www-authenticate", &challenge)])
            }
        });
        let store = store_in(directory.path(), &[&registry.address]).await;
        let error = store
            .pull(PullRequest::of(format!("{}/app", registry.address)))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Unauthorized { .. } | Error::InvalidCredentials(_)),
            "{token}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let directory = tempfile::tempdir().unwrap();
    let image = two_layers();
    let blobs = image.blobs.clone();
    let elsewhere = ScriptedRegistry::start(move |asked| match asked.headers.contains_key("authorization") {
        true => status(400, &[]),
        false => ok(blobs[asked.path.trim_start_matches('/')].clone()),
    });
    let address = elsewhere.address.clone();
    let registry = ScriptedRegistry::of(&image, move |asked, digest, _| {
        assert_eq!(asked.headers["authorization"], "Bearer secret");
        Some(status(307, &[("location", &format!("http://{address}/{digest}"))]))
    });
    let store = store_in(directory.path(), &[&registry.address]).await;
    let credentials = Some(Credentials::RegistryToken("secret".to_owned()));
    store
        .pull(PullRequest::of(format!("{}/app", registry.address)).with(credentials))
        .await
        .unwrap();
    assert_eq!(elsewhere.asked().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_one_image_share_a_transfer_that_outlives_its_first_caller() {
    let directory = tempfile::tempdir().unwrap();
    let image = two_layers();
    let layer = image.layers[0].clone();
    let registry = ScriptedRegistry::of(&image, move |_, digest, content| {
        (digest == layer).then(|| Answer::Held(Box::new(ok(content.to_vec()))))
    });
    let store = store_in(directory.path(), &[&registry.address]).await;
    let name = format!("{}/app", registry.address);
    let first = tokio::spawn({
        let (store, name) = (store.clone(), name.clone());
        async move { store.pull(PullRequest::of(&name)).await }
    });
    tokio::task::block_in_place(|| registry.wait_until_asked(&image.layers[0]));
    let followers: Vec<_> = (0..8)
        .map(|_| {
            let (store, name) = (store.clone(), name.clone());
            Box::pin(async move { store.pull(PullRequest::of(&name)).await })
        })
        .collect();
    let mut followers = futures::future::join_all(followers);
    assert!(futures::poll!(&mut followers).is_pending(), "all of them have joined");
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(
        store.status(&name).unwrap().is_none(),
        "a pull under way is no image, and asking does not wait for it"
    );
    registry.let_go();
    for result in followers.await {
        assert_eq!(result.unwrap().to_string(), image.config);
    }
    let manifests = registry
        .asked()
        .iter()
        .filter(|asked| asked.path.contains("/manifests/"))
        .count();
    assert_eq!(manifests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_leaves_the_old_image_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let old = two_layers();
    let new = TestImage::new(&[(tar_of(&[("app", "newer")]), Form::Gzip)]);
    let (first, second) = (old.clone(), new.clone());
    let is_moved = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let moved = Arc::clone(&is_moved);
    let registry = ScriptedRegistry::start(move |asked| {
        let image = if moved.load(Ordering::SeqCst) { &second } else { &first };
        match asked.path.split_once("/blobs/") {
            Some((_, digest)) => ok(image.blobs[digest].clone()),
            None => ok(image.manifest.clone()),
        }
    });
    let store = store_in(directory.path(), &[&registry.address]).await;
    let name = format!("{}/app:v1", registry.address);
    let old_id = store.pull(PullRequest::of(&name)).await.unwrap();
    is_moved.store(true, Ordering::SeqCst);
    let new_id = store.pull(PullRequest::of(&name)).await.unwrap();
    assert_eq!((old_id.to_string(), new_id.to_string()), (old.config, new.config));
    assert_eq!(store.resolve(&name).unwrap().id, new_id);
    let left = store.resolve(old_id.hex()).unwrap();
    assert!(left.tags.is_empty() && left.digests.len() == 1, "{left:?}");

    store.shutdown().await;
    drop((store, left));
    let reopened = store_in(directory.path(), &[]).await;
    assert_eq!(reopened.resolve(&name).unwrap().id, new_id, "a restart changes nothing");
    assert!(reopened.resolve(old_id.hex()).unwrap().tags.is_empty());
}
