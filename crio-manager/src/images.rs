//! `crio-manager image list` and `image prune`: what is in the image store, and what of it nobody needs.
//!
//! The store has one owner: a daemon that listens is asked over CRI, else the store itself is opened.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Context as _;
use cri::manager::v1::StatusRequest;
use cri::manager::v1::manager_client::ManagerClient;
use cri::v1;
use cri::v1::image_service_client::ImageServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::config::Config;
use crate::drivers::image::{Error, Image, ImageStore};
use crate::drivers::seams::Records as _;
use crate::drivers::store::RecordFiles;
use crate::model::record::{ContainerFacts, Progress};
use crate::node;
use crate::progress;
use crate::service::manager;

/// Digits of an id that are shown to people; the same as crictl's.
const SHORT_ID: usize = 13;

/// An image, and what keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    /// Tags, or digest references where it has none.
    pub names: Vec<String>,
    pub size_bytes: u64,
    /// The configuration says that it is to stay.
    pub pinned: bool,
    /// A container is made of it, or has it as a volume.
    pub in_use: bool,
}

impl Listed {
    fn new(id: String, names: [Vec<String>; 2], size_bytes: u64, pinned: bool, used: &BTreeSet<String>) -> Self {
        let [tags, digests] = names;
        Self {
            in_use: used.contains(&id),
            names: if tags.is_empty() { digests } else { tags },
            id,
            size_bytes,
            pinned,
        }
    }

    /// Id and names in a line, as `image load` prints them.
    pub fn line(&self) -> String {
        format!("{} {}", self.id, self.names.join(" ")).trim_end().to_owned()
    }
}

/// All images of this node, by name.
pub fn list(config: &Config) -> anyhow::Result<Vec<Listed>> {
    with_store(config, async |store| store.list().await)
}

/// Removes the images that no container needs and that are not pinned; those, also when they only would be.
pub fn prune(config: &Config, dry_run: bool) -> anyhow::Result<Vec<Listed>> {
    with_store(config, async |store| {
        let mut unused = store.list().await?;
        unused.retain(|image| !image.pinned && !image.in_use);
        if dry_run {
            return Ok(unused);
        }
        let shown = progress::bar(unused.len(), "removing images".to_owned());
        let mut removed = Vec::new();
        for image in unused {
            // A container may have been made of it meanwhile: then it stays.
            if store.remove(&image.id).await? {
                removed.push(image);
            }
            shown.advance();
        }
        Ok(removed)
    })
}

/// For people: a line for each, further names of it below.
pub fn text(images: &[Listed]) -> String {
    let name = |image: &Listed| image.names.first().map_or("<none>", String::as_str).to_owned();
    let longest = images
        .iter()
        .flat_map(|image| &image.names)
        .map(|name| name.len())
        .max();
    let width = longest.unwrap_or(0).max("<none>".len());
    let mut text = format!("{:<width$}  {:<SHORT_ID$}  {:>9}  KEPT BY\n", "IMAGE", "ID", "SIZE");
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(SHORT_ID).collect();
        let size = format!("{} MiB", image.size_bytes.div_ceil(1 << 20));
        let kept_by = match (image.in_use, image.pinned) {
            (true, true) => "a container, its pin",
            (true, false) => "a container",
            (false, true) => "its pin",
            (false, false) => "nobody",
        };
        let _ = writeln!(text, "{:<width$}  {id}  {size:>9}  {kept_by}", name(image));
        for further in image.names.iter().skip(1) {
            let _ = writeln!(text, "{further}");
        }
    }
    text
}

/// For tools: sizes in bytes.
pub fn json(images: &[Listed]) -> serde_json::Value {
    let images = images.iter().map(|image| {
        serde_json::json!({
            "id": image.id,
            "names": image.names,
            "sizeBytes": image.size_bytes,
            "pinned": image.pinned,
            "inUse": image.in_use,
        })
    });
    images.collect()
}

fn with_store<T>(config: &Config, work: impl AsyncFnOnce(&mut Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the async runtime")?.block_on(async {
        let mut store = Store::open(config).await?;
        let done = work(&mut store).await;
        if let Store::Here { store, .. } = &store {
            store.shutdown().await;
        }
        done
    })
}

/// Whoever owns the images.
enum Store {
    Daemon {
        images: ImageServiceClient<Channel>,
        manager: Box<ManagerClient<Channel>>,
    },
    Here {
        store: ImageStore,
        /// Ids of images that containers need.
        used: BTreeSet<String>,
    },
}

impl Store {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(channel) = manager::channel(&config.api.listen).await? {
            let limit = config.api.grpc_max_send_msg_size;
            return Ok(Store::Daemon {
                images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(limit),
                manager: Box::new(ManagerClient::new(channel).max_decoding_message_size(limit)),
            });
        }
        node::lock_images(config)?;
        let store = ImageStore::open(node::image_store_config(config)).await;
        Ok(Store::Here {
            store: store.context("open the image store")?,
            used: used_by_records(config).await?,
        })
    }

    async fn list(&mut self) -> anyhow::Result<Vec<Listed>> {
        let mut listed: Vec<Listed> = match self {
            Store::Daemon { images, manager } => {
                let status = manager.status(StatusRequest {}).await.map_err(said)?;
                let used = status.into_inner().images_in_use.into_iter().collect();
                let found = images
                    .list_images(v1::ListImagesRequest::default())
                    .await
                    .map_err(said)?;
                let listed = |image: v1::Image| {
                    Listed::new(
                        image.id,
                        [image.repo_tags, image.repo_digests],
                        image.size,
                        image.pinned,
                        &used,
                    )
                };
                found.into_inner().images.into_iter().map(listed).collect()
            }
            Store::Here { store, used, .. } => {
                let listed = |image: &Image| {
                    let names = [image.tags.clone(), image.digests.clone()];
                    Listed::new(image.id.to_string(), names, image.size_bytes, image.pinned, used)
                };
                store.list(None)?.iter().map(|image| listed(image)).collect()
            }
        };
        listed.sort_by(|a, b| (&a.names, &a.id).cmp(&(&b.names, &b.id)));
        Ok(listed)
    }

    /// `false`: a container needs it.
    async fn remove(&mut self, id: &str) -> anyhow::Result<bool> {
        match self {
            Store::Daemon { images, .. } => {
                let image = v1::ImageSpec {
                    image: id.to_owned(),
                    ..v1::ImageSpec::default()
                };
                let request = v1::RemoveImageRequest { image: Some(image) };
                match images.remove_image(request).await {
                    Ok(_) => Ok(true),
                    Err(status) if status.code() == Code::FailedPrecondition => Ok(false),
                    Err(status) => Err(said(status)),
                }
            }
            Store::Here { store, used, .. } => {
                let used = used.clone();
                match store.remove(id, move |id| used.contains(&id.to_string())).await {
                    Ok(()) => Ok(true),
                    Err(Error::InUse(_)) => Ok(false),
                    Err(error) => Err(error).with_context(|| format!("remove {id}")),
                }
            }
        }
    }
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the daemon says: {}", status.message())
}

/// The images of the containers that the next daemon will find. One whose record is unreadable will be removed by it.
async fn used_by_records(config: &Config) -> anyhow::Result<BTreeSet<String>> {
    let records = RecordFiles::open(config.manager.state_dir.join("records")).context("records")?;
    let containers = records.load().await.context("records")?.containers;
    let made = containers.into_iter().filter_map(|record| match record.progress {
        Progress::Made(facts) => Some(facts),
        Progress::Making => None,
    });
    let images = |facts: ContainerFacts| facts.images().map(str::to_owned).collect::<Vec<_>>();
    Ok(made.flat_map(images).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str], in_use: bool, pinned: bool) -> Listed {
        let used = in_use.then(|| format!("sha256:{}", "a".repeat(64)));
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let id = format!("sha256:{}", "a".repeat(64));
        Listed::new(
            id,
            [names, Vec::new()],
            (5 << 20) + 1,
            pinned,
            &used.into_iter().collect(),
        )
    }

    #[test]
    fn people_read_names_sizes_and_what_keeps_an_image() {
        let images = [
            image(&["example.test/a:1", "example.test/b:2"], true, false),
            image(&[], false, false),
        ];
        assert_eq!(
            text(&images),
            "IMAGE             ID                  SIZE  KEPT BY\n\
             example.test/a:1  aaaaaaaaaaaaa      6 MiB  a container\n\
             example.test/b:2\n\
             <none>            aaaaaaaaaaaaa      6 MiB  nobody\n"
        );
    }

    #[test]
    fn tools_read_whole_ids_and_bytes() {
        let json = json(&[image(&["example.test/a:1"], false, true)]);
        assert_eq!(json[0]["id"], format!("sha256:{}", "a".repeat(64)));
        assert_eq!(json[0]["sizeBytes"], (5 << 20) + 1);
        assert_eq!((&json[0]["pinned"], &json[0]["inUse"]), (&true.into(), &false.into()));
    }
}
