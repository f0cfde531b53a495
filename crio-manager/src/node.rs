//! Builds the drivers from the configuration and hands them to the rooms.

use std::path::Path;

use anyhow::Context as _;

use crate::config::Config;
use crate::drivers::image::{ImageStore, ImageStoreConfig, LoadedImage};

/// Below the configured root, which other programs with that setting share: what is in here is ours alone.
const IMAGE_STORE: &str = "crio-manager";
/// Certificate authorities per registry, where all container tools look.
const REGISTRY_CERTS: &str = "/etc/containers/certs.d";

/// Serves until SIGTERM.
pub fn serve(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("serving is not there yet in this build")
}

/// Brings the images of an archive or layout into the image store. The store has one owner: fails while the daemon runs.
pub fn load_image(config: &Config, file: &Path) -> anyhow::Result<Vec<LoadedImage>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let store = ImageStore::open(image_store_config(config))
            .await
            .context("open the image store")?;
        let loaded = store
            .load(file)
            .await
            .with_context(|| format!("load {}", file.display()));
        store.shutdown().await;
        loaded
    })
}

/// The image store's part of the configuration.
pub fn image_store_config(config: &Config) -> ImageStoreConfig {
    ImageStoreConfig {
        insecure_registries: config.image.insecure_registries.clone(),
        certs_dir: Some(REGISTRY_CERTS.into()),
        progress_timeout: config.image.pull_progress_timeout,
        pinned_images: config.image.pinned_images.clone(),
        ..ImageStoreConfig::new(config.crio.root.join(IMAGE_STORE))
    }
}
