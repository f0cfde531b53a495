//! Pulls as an administrator's files want them: mirrors, credentials, signatures.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crio_manager::drivers::image::{Credentials, Error, ImageStore, PullFiles, PullRequest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use support::{DockerRegistry, Form, OCI_MANIFEST, TestImage, config_in, sha256, tar_of};

fn image(content: &str) -> TestImage {
    TestImage::new(&[(tar_of(&[("app", content)]), Form::Gzip)])
}

/// A store with these files, whose registries on loopback are insecure.
async fn store_with(root: &Path, files: PullFiles) -> ImageStore {
    let mut config = config_in(root, &["127.0.0.0/8"]);
    config.pull_files = files;
    ImageStore::open(config).await.unwrap()
}

/// A port on which nobody listens, as long as it is held.
fn dead_end() -> (std::net::TcpListener, String) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_to_its_mirrors_and_a_change_of_the_file_needs_no_restart() {
    let directory = tempfile::tempdir().unwrap();
    let Some(registry) = DockerRegistry::start(&directory.path().join("storage"), "") else {
        return;
    };
    let here = image("1");
    here.push(&registry.address, "copy/app", "v1").await;
    let conf = directory.path().join("registries.conf");
    let files = PullFiles {
        registries: Some(conf.clone()),
        refuse_ambiguous_names: true,
        ..PullFiles::default()
    };
    let store = store_with(&directory.path().join("store"), files).await;
    let name = "images.invalid/team/app:v1";
    let error = store.pull(PullRequest::of(name)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");

    let (listener, closed) = dead_end();
    drop(listener);
    let text = format!(
        "unqualified-search-registries = ['a.invalid', 'b.invalid']\n\
         [aliases]\n'tool' = 'images.invalid/team/app'\n\
         [[registry]]\nprefix = 'images.invalid/team'\nlocation = 'images.invalid/elsewhere'\n\
         [[registry.mirror]]\nlocation = '{closed}/copy'\n\
         [[registry.mirror]]\nlocation = '{}/copy'\ninsecure = true\n\
         [[registry]]\nlocation = 'bad.invalid'\nblocked = true\n",
        registry.address
    );
    fs::write(&conf, text).unwrap();
    let id = store.pull(PullRequest::of(name)).await.unwrap();
    assert_eq!(id.to_string(), here.config);
    let found = store.resolve(name).unwrap();
    assert_eq!(
        found.tags,
        [name],
        "its name is what was asked for, not where it came from"
    );
    assert_eq!(found.digests, [format!("images.invalid/team/app@{}", here.digest())]);

    assert_eq!(store.pull(PullRequest::of("tool:v1")).await.unwrap(), id);
    assert_eq!(store.resolve("tool:v1").unwrap().id, id);
    let error = store.pull(PullRequest::of("unknown")).await.unwrap_err();
    assert!(error.to_string().contains("more than one registry"), "{error}");
    let error = store.pull(PullRequest::of("bad.invalid/x")).await.unwrap_err();
    assert!(matches!(error, Error::Blocked(_)), "{error}");

    fs::write(&conf, "[[registry]]\nprefix = 1").unwrap();
    let error = store.pull(PullRequest::of(name)).await.unwrap_err().to_string();
    assert!(error.contains("registries.conf") && error.contains("prefix"), "{error}");
    assert_eq!(
        store.resolve("tool:v1").unwrap().id,
        id,
        "what is here is found as before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_files_when_the_request_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let storage = directory.path().join("storage");
    let here = image("1");
    {
        let Some(open) = DockerRegistry::start(&storage, "") else {
            return;
        };
        here.push(&open.address, "app", "latest").await;
    }
    let Ok(made) = Command::new("htpasswd").args(["-nbB", "me", "right"]).output() else {
        eprintln!("SKIPPED: needs htpasswd (package apache2-utils)");
        return;
    };
    let htpasswd = directory.path().join("htpasswd");
    fs::write(&htpasswd, made.stdout).unwrap();
    let locked = format!(
        "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
        htpasswd.display()
    );
    let registry = DockerRegistry::start(&storage, &locked).unwrap();
    let auth = directory.path().join("auth.json");
    let of_namespaces = directory.path().join("namespaces");
    fs::create_dir(&of_namespaces).unwrap();
    let files = PullFiles {
        auth: Some(auth.clone()),
        namespaced_auth_dir: Some(of_namespaces.clone()),
        ..PullFiles::default()
    };
    let store = store_with(&directory.path().join("store"), files).await;
    let name = format!("{}/app", registry.address);
    let logins = |secret: &str| {
        let auth = BASE64_STANDARD.encode(format!("me:{secret}"));
        serde_json::json!({"auths": {&registry.address: {"auth": auth}}}).to_string()
    };
    let refused = |outcome: Result<_, Error>| matches!(outcome, Err(Error::Unauthorized { .. }));
    assert!(refused(store.pull(PullRequest::of(&name)).await), "no file yet");
    fs::write(&auth, logins("wrong")).unwrap();
    assert!(refused(store.pull(PullRequest::of(&name)).await));

    let for_one_pull = of_namespaces.join(format!(
        "team-{}.json",
        sha256(name.as_bytes()).trim_start_matches("sha256:")
    ));
    fs::write(&for_one_pull, logins("right")).unwrap();
    assert!(
        refused(store.pull(PullRequest::of(&name)).await),
        "they are for pods of the namespace"
    );
    let for_the_team = PullRequest {
        namespace: Some("team".to_owned()),
        ..PullRequest::of(&name)
    };
    store.pull(for_the_team.clone()).await.unwrap();
    assert!(!for_one_pull.exists(), "used once");
    assert!(refused(store.pull(for_the_team).await));

    fs::write(&auth, logins("right")).unwrap();
    store.pull(PullRequest::of(&name)).await.unwrap();
    let wrong = Credentials::from_fields("me", "wrong", "", "", "").unwrap();
    assert!(
        refused(store.pull(PullRequest::of(&name).with(wrong)).await),
        "the request's own come first"
    );
}

struct Signer {
    pair: EcdsaKeyPair,
    public: PathBuf,
}

impl Signer {
    fn new(public: PathBuf) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let mut der = BASE64_STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
        der.extend(pair.public_key().as_ref());
        let text = BASE64_STANDARD.encode(der);
        fs::write(
            &public,
            format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"),
        )
        .unwrap();
        Self { pair, public }
    }

    /// Pushes a signature beside the image, as cosign does.
    async fn sign(&self, registry: &str, path: &str, signed: &TestImage) {
        let claim = serde_json::json!({"critical": {
            "identity": {"docker-reference": format!("{registry}/{path}")},
            "image": {"docker-manifest-digest": signed.digest()},
            "type": "cosign container image signature",
        }, "optional": null});
        let payload = serde_json::to_vec(&claim).unwrap();
        let signature = self.pair.sign(&SystemRandom::new(), &payload).unwrap();
        let config = b"{}".to_vec();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": sha256(&payload), "size": payload.len(),
                "annotations": {"dev.cosignproject.cosign/signature": BASE64_STANDARD.encode(signature)},
            }],
        });
        let as_image = TestImage {
            config: sha256(&config),
            layers: vec![sha256(&payload)],
            blobs: BTreeMap::from([(sha256(&config), config), (sha256(&payload), payload)]),
            manifest: serde_json::to_vec(&manifest).unwrap(),
            media_type: OCI_MANIFEST,
        };
        let tag = format!("{}.sig", signed.digest().replace(':', "-"));
        as_image.push(registry, path, &tag).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_let_in_only_with_the_signature_that_the_policy_demands() {
    let directory = tempfile::tempdir().unwrap();
    let Some(registry) = DockerRegistry::start(&directory.path().join("storage"), "") else {
        return;
    };
    let (signer, stranger) = (
        Signer::new(directory.path().join("key.pub")),
        Signer::new(directory.path().join("other.pub")),
    );
    let images = ["good", "unsigned", "forged"].map(|name| (name, image(name)));
    for (name, image) in &images {
        image.push(&registry.address, name, "v1").await;
    }
    signer.sign(&registry.address, "good", &images[0].1).await;
    stranger.sign(&registry.address, "forged", &images[2].1).await;

    let policy = directory.path().join("policy.json");
    let policies = directory.path().join("policies");
    fs::create_dir(&policies).unwrap();
    let signed = serde_json::json!([{
        "type": "sigstoreSigned", "keyPath": signer.public, "signedIdentity": {"type": "matchRepository"},
    }]);
    let text =
        serde_json::json!({"default": [{"type": "reject"}], "transports": {"docker": {&registry.address: signed}}});
    fs::write(&policy, text.to_string()).unwrap();
    let open = serde_json::json!({"default": [{"type": "insecureAcceptAnything"}]});
    fs::write(policies.join("playground.json"), open.to_string()).unwrap();
    let files = PullFiles {
        policy: Some(policy.clone()),
        namespaced_policy_dir: Some(policies),
        ..PullFiles::default()
    };
    let root = directory.path().join("store");
    let store = store_with(&root, files).await;
    let pull = |name: &str, namespace: Option<&str>| {
        store.pull(PullRequest {
            namespace: namespace.map(str::to_owned),
            ..PullRequest::of(format!("{}/{name}:v1", registry.address))
        })
    };
    for (name, reason) in [("unsigned", "it has no signature"), ("forged", "by none of the keys")] {
        let error = pull(name, Some("default")).await.unwrap_err();
        assert!(matches!(error, Error::Untrusted { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let error = store.pull(PullRequest::of("other.invalid/app")).await.unwrap_err();
    assert!(error.to_string().contains("is rejected"), "not even asked for: {error}");
    assert!(store.list(None).unwrap().is_empty() && support::layer_count(&root) == 0);

    let good = pull("good", Some("default")).await.unwrap();
    assert_eq!(good.to_string(), images[0].1.config);
    pull("unsigned", Some("playground"))
        .await
        .expect("its namespace has a policy of its own");

    fs::remove_file(&policy).unwrap();
    let error = pull("good", None).await.unwrap_err();
    assert!(
        error.to_string().contains("no such policy"),
        "a lost policy lets nothing in: {error}"
    );
}

/// A key that gpg makes, in a home of its own.
struct GpgSigner {
    home: PathBuf,
    name: &'static str,
}

impl GpgSigner {
    /// `None`, with the reason on standard error, where there is no gpg.
    fn new(home: PathBuf, name: &'static str) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Command::new("gpg").arg("--version").output().is_err() {
            eprintln!("SKIPPED: gpg is not installed");
            return None;
        }
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let signer = Self { home, name };
        signer.gpg(&["--quick-generate-key", name, "ed25519", "sign", "never"], b"");
        Some(signer)
    }

    fn gpg(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        use std::io::Write;
        use std::process::Stdio;
        let mut gpg = Command::new("gpg")
            .arg("--homedir")
            .arg(&self.home)
            .args(["--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        gpg.stdin.take().unwrap().write_all(input).unwrap();
        let output = gpg.wait_with_output().unwrap();
        assert!(output.status.success(), "gpg {arguments:?}");
        output.stdout
    }

    /// The public key, armored.
    fn public(&self, path: PathBuf) -> PathBuf {
        fs::write(&path, self.gpg(&["--armor", "--export", self.name], b"")).unwrap();
        path
    }

    /// Puts a signature where it is looked for.
    fn sign(&self, lookaside: &Path, registry: &str, path: &str, named: &str, signed: &TestImage) {
        let claim = serde_json::json!({"critical": {
            "identity": {"docker-reference": format!("{registry}/{named}")},
            "image": {"docker-manifest-digest": signed.digest()},
            "type": "atomic container signature",
        }, "optional": {}});
        let directory = lookaside.join(format!("{path}@{}", signed.digest().replace(':', "=")));
        fs::create_dir_all(&directory).unwrap();
        let message = self.gpg(&["--local-user", self.name, "--sign"], claim.to_string().as_bytes());
        fs::write(directory.join("signature-1"), message).unwrap();
    }
}

impl Drop for GpgSigner {
    /// gpg leaves an agent behind.
    fn drop(&mut self) {
        let _ = Command::new("gpgconf")
            .arg("--homedir")
            .arg(&self.home)
            .args(["--kill", "all"])
            .output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_let_in_with_a_simple_signature_by_one_of_the_keys() {
    let directory = tempfile::tempdir().unwrap();
    let Some(registry) = DockerRegistry::start(&directory.path().join("storage"), "") else {
        return;
    };
    let (Some(signer), Some(stranger)) = (
        GpgSigner::new(directory.path().join("gpg"), "signer@example.com"),
        GpgSigner::new(directory.path().join("other"), "stranger@example.com"),
    ) else {
        return;
    };
    let names = ["good", "unsigned", "forged", "renamed", "changed"];
    let images = names.map(|name| (name, image(name)));
    for (name, image) in &images {
        image.push(&registry.address, name, "v1").await;
    }
    let lookaside = directory.path().join("lookaside");
    let address = &registry.address;
    let sign = |signer: &GpgSigner, path: &str, named: &str, at: usize| {
        signer.sign(&lookaside, address, path, named, &images[at].1);
    };
    sign(&signer, "good", "good:v1", 0);
    sign(&stranger, "forged", "forged:v1", 2);
    sign(&signer, "renamed", "good:v1", 3);
    sign(&signer, "changed", "changed:v1", 4);
    let signature = lookaside
        .join(format!("changed@{}", images[4].1.digest().replace(':', "=")))
        .join("signature-1");
    let mut bytes = fs::read(&signature).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&signature, bytes).unwrap();

    let registries = directory.path().join("registries.d");
    fs::create_dir(&registries).unwrap();
    let text = format!("docker:\n  {address}:\n    lookaside: file://{}\n", lookaside.display());
    fs::write(registries.join("test.yaml"), text).unwrap();
    let policy = directory.path().join("policy.json");
    let signed = serde_json::json!([{
        "type": "signedBy", "keyType": "GPGKeys", "keyPaths": [signer.public(directory.path().join("key.asc"))],
    }]);
    let text = serde_json::json!({"default": [{"type": "reject"}], "transports": {"docker": {address: signed}}});
    fs::write(&policy, text.to_string()).unwrap();
    let files = PullFiles {
        policy: Some(policy),
        lookaside_dir: Some(registries),
        ..PullFiles::default()
    };
    let store = store_with(&directory.path().join("store"), files).await;
    let pull = |name: &str| store.pull(PullRequest::of(format!("{address}/{name}:v1")));
    for (name, reason) in [
        ("unsigned", "it has no signature"),
        ("forged", "by none of the keys"),
        ("renamed", "for the name"),
        ("changed", "a signature"),
    ] {
        let error = pull(name).await.unwrap_err();
        assert!(matches!(error, Error::Untrusted { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{name}: {error}");
    }
    assert_eq!(pull("good").await.unwrap().to_string(), images[0].1.config);
}

/// A web server over TLS, by python3, with a certificate of an authority of the test's own.
struct SecureFiles {
    server: std::process::Child,
    address: String,
    authority: PathBuf,
}

impl SecureFiles {
    fn serve(directory: &Path, made: &Path) -> Option<Self> {
        use std::io::BufRead;
        const SERVER: &str = "\
import functools, http.server, ssl, sys
files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), files)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2] + '/server.crt', sys.argv[2] + '/server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()";
        fs::create_dir_all(made).unwrap();
        fs::write(
            made.join("ext"),
            "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
        )
        .unwrap();
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for arguments in [
            format!("req -x509 {new_key} -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt"),
            format!("req {new_key} -subj /CN=lookaside -keyout server.key -out server.csr"),
            "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext -out server.crt"
                .to_owned(),
        ] {
            let output = Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(made)
                .output();
            if !output.is_ok_and(|output| output.status.success()) {
                eprintln!("SKIPPED: needs openssl");
                return None;
            }
        }
        let server = Command::new("python3")
            .args(["-c", SERVER])
            .args([directory, made])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(mut server) = server else {
            eprintln!("SKIPPED: needs python3");
            return None;
        };
        let mut port = String::new();
        let said = server.stdout.take().unwrap();
        std::io::BufReader::new(said).read_line(&mut port).unwrap();
        Some(Self {
            server,
            address: format!("127.0.0.1:{}", port.trim()),
            authority: made.join("ca.crt"),
        })
    }
}

impl Drop for SecureFiles {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_fetched_over_https_from_whom_the_authority_vouches_for() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let Some(registry) = DockerRegistry::start(&at("storage"), "") else {
        return;
    };
    let Some(signer) = GpgSigner::new(at("gpg"), "signer@example.com") else {
        return;
    };
    let (lookaside, address) = (at("lookaside"), &registry.address);
    fs::create_dir(&lookaside).unwrap();
    let Some(files) = SecureFiles::serve(&lookaside, &at("made")) else {
        return;
    };
    let (good, unsigned) = (image("good"), image("unsigned"));
    good.push(address, "good", "v1").await;
    unsigned.push(address, "unsigned", "v1").await;
    signer.sign(&lookaside, address, "good", "good:v1", &good);

    fs::create_dir(at("registries.d")).unwrap();
    let text = format!("docker:\n  {address}:\n    lookaside: https://{}\n", files.address);
    fs::write(at("registries.d/test.yaml"), text).unwrap();
    let signed = serde_json::json!([{
        "type": "signedBy", "keyType": "GPGKeys", "keyPaths": [signer.public(at("key.asc"))],
    }]);
    let text = serde_json::json!({"default": [{"type": "reject"}], "transports": {"docker": {address: signed}}});
    fs::write(at("policy.json"), text.to_string()).unwrap();
    let store = async |name: &str, certs_dir: Option<PathBuf>| {
        let mut config = config_in(&at(name), &["127.0.0.0/8"]);
        config.certs_dir = certs_dir;
        config.pull_files = PullFiles {
            policy: Some(at("policy.json")),
            lookaside_dir: Some(at("registries.d")),
            ..PullFiles::default()
        };
        ImageStore::open(config).await.unwrap()
    };
    let pull = async |store: &ImageStore, name: &str| store.pull(PullRequest::of(format!("{address}/{name}:v1"))).await;

    // An insecure registry makes no insecure signatures: the server's authority has to be known.
    let error = pull(&store("unknown", None).await, "good").await.unwrap_err();
    assert!(matches!(error, Error::Transfer { .. } | Error::Tls { .. }), "{error}");
    assert!(error.to_string().contains(&files.address), "{error}");

    let certs = at("certs.d");
    fs::create_dir_all(certs.join(&files.address)).unwrap();
    fs::copy(&files.authority, certs.join(&files.address).join("ca.crt")).unwrap();
    let known = store("known", Some(certs)).await;
    assert_eq!(pull(&known, "good").await.unwrap().to_string(), good.config);
    let error = pull(&known, "unsigned").await.unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("it has no signature"), "{error}");

    // Nobody there is no signature either.
    drop(files);
    pull(&known, "unsigned").await.unwrap_err();
    assert_eq!(known.list(None).unwrap().len(), 1);
}
