//! Pulls that are refused or given up: images that the policy does not let in, transfers that fall silent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cri::v1::PullImageRequest;
use e2e::image::{Blob, MANIFEST};
use e2e::{Node, TestImage, run_on};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

run_on!(runc:
    an_image_without_the_signature_that_is_demanded_is_refused_in_the_kubelets_word,
    a_transfer_has_time_as_long_as_it_makes_progress_and_no_longer,
);

/// A public key, whose private one nobody has.
fn public_key(node: &Node) -> anyhow::Result<String> {
    let path = node.path("key.pub").display().to_string();
    let script = format!("openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -out {path}");
    node.namespaces.run("sh", &["-c", &script])?;
    Ok(path)
}

async fn an_image_without_the_signature_that_is_demanded_is_refused_in_the_kubelets_word(
    node: &mut Node,
) -> anyhow::Result<()> {
    let unsigned = node.pushed("e2e/unsigned:1", &TestImage::busybox()?)?;
    let banned = node.pushed("e2e/banned:1", &TestImage::busybox()?)?;
    let (policy, policies) = (node.path("policy.json"), node.path("policies"));
    std::fs::create_dir_all(&policies)?;
    let demanded = json!([{
        "type": "sigstoreSigned", "keyPath": public_key(node)?, "signedIdentity": { "type": "matchRepository" },
    }]);
    let of_node = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { "127.0.0.1:5000/e2e/unsigned": demanded } },
    });
    std::fs::write(&policy, of_node.to_string())?;
    let lenient = json!({ "default": [{ "type": "insecureAcceptAnything" }] });
    std::fs::write(policies.join("playground.json"), lenient.to_string())?;
    let toml = format!(
        "[crio.image]\nsignature_policy = \"{}\"\nsignature_policy_dir = \"{}\"\n",
        policy.display(),
        policies.display()
    );
    node.configure("50-policy.conf", &toml).await?;

    let before = node.snapshot();
    for (reference, why) in [(&unsigned, "it has no signature"), (&banned, "is rejected")] {
        let error = node.client.pull(reference).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        // The kubelet makes a reason of the word before the colon.
        assert!(error.message().starts_with("SignatureValidationFailed: "), "{error}");
        assert!(error.message().contains(why), "{why}: {error}");
        assert!(node.client.image(reference).await?.is_none());
    }
    node.nothing_more_than(&before).await?;

    // Pods of a namespace that has a policy of its own are under that one alone.
    let pull_for = async |namespace: &str| {
        let mut pod = node.host_network_pod("puller");
        pod.metadata.get_or_insert_default().namespace = namespace.to_owned();
        let request = PullImageRequest {
            image: Some(e2e::client::image_spec(&unsigned)),
            sandbox_config: Some(pod),
            ..Default::default()
        };
        node.client.images.clone().pull_image(request).await
    };
    let error = pull_for("elsewhere").await.unwrap_err();
    assert!(error.message().starts_with("SignatureValidationFailed: "), "{error}");
    pull_for("playground").await?;
    node.client.remove_image(&unsigned).await?;
    Ok(())
}

/// A registry whose layers come byte by byte, and stop coming.
struct Drip {
    manifest: Blob,
    config: Blob,
    layer: Blob,
    bytes: usize,
    pause: Duration,
    /// Nothing more comes afterwards, whoever asks.
    dripped: AtomicBool,
}

impl Drip {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((connection, _)) = listener.accept().await {
            let this = self.clone();
            tokio::spawn(async move { this.answer(connection).await });
        }
    }

    async fn answer(&self, connection: TcpStream) -> std::io::Result<()> {
        let (reading, mut writing) = connection.into_split();
        let mut lines = BufReader::new(reading).lines();
        while let Some(asked) = lines.next_line().await? {
            while lines.next_line().await?.is_some_and(|header| !header.is_empty()) {}
            let head = |kind: &str, length: usize| {
                format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
            };
            let whole = |kind: &str, blob: &Blob| [head(kind, blob.bytes.len()).as_bytes(), &blob.bytes].concat();
            if asked.contains("/manifests/") {
                writing.write_all(&whole(MANIFEST, &self.manifest)).await?;
            } else if asked.contains(&self.config.digest) {
                writing
                    .write_all(&whole("application/octet-stream", &self.config))
                    .await?;
            } else if asked.contains("/blobs/") {
                writing
                    .write_all(head("application/octet-stream", self.layer.bytes.len()).as_bytes())
                    .await?;
                for _ in 0..if self.dripped.swap(true, Ordering::Relaxed) {
                    0
                } else {
                    self.bytes
                } {
                    tokio::time::sleep(self.pause).await;
                    writing.write_all(b"x").await?;
                }
                // Until the other side has enough of it.
                while lines.next_line().await?.is_some() {}
            } else {
                writing.write_all(head("text/plain", 0).as_bytes()).await?;
            }
        }
        Ok(())
    }
}

async fn a_transfer_has_time_as_long_as_it_makes_progress_and_no_longer(node: &mut Node) -> anyhow::Result<()> {
    const LIMIT: Duration = Duration::from_secs(2);
    const BYTES: usize = 4;
    const PAUSE: Duration = Duration::from_millis(1500);
    let toml = format!("[crio.image]\npull_progress_timeout = \"{}s\"\n", LIMIT.as_secs());
    node.configure("50-silent.conf", &toml).await?;
    let image = TestImage::scratch().with_layer(|layer| {
        // As large as it is said to be, and not to be made smaller.
        let noise: Vec<u8> = (0u32..1 << 18)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        e2e::image::file(layer, "noise", 0o644, &noise)
    })?;
    let drip = Arc::new(Drip {
        manifest: image.manifest_blob(),
        config: image.config_blob(),
        layer: image.layer_blobs().remove(0),
        bytes: BYTES,
        pause: PAUSE,
        dripped: AtomicBool::new(false),
    });
    let listener = node.namespaces.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 5003)))?;
    listener.set_nonblocking(true)?;
    let before = node.snapshot();
    let serving = tokio::spawn(drip.serve(TcpListener::from_std(listener)?));
    let started = Instant::now();
    let error = node.client.pull("127.0.0.1:5003/e2e/silent:1").await.unwrap_err();
    let took = started.elapsed();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(
        error.message().contains("no progress for 2s") && error.message().contains("127.0.0.1:5003"),
        "{error}"
    );
    let dripping = PAUSE * u32::try_from(BYTES)?;
    assert!(
        took >= dripping + LIMIT,
        "{took:?}: as long as bytes come it is no stall"
    );
    assert!(took < dripping + LIMIT * 15, "{took:?}");
    serving.abort();
    assert!(node.client.list_images().await?.is_empty());
    node.nothing_more_than(&before).await
}
