//! Images: pulling and removing. Looking is for the driver, from memory.

use super::Lifecycle;
use super::error::{Error, InStep};
use crate::drivers::image::PullRequest;
use std::path::Path;

impl Lifecycle {
    /// Pulls an image; its id.
    pub async fn pull_image(&self, request: PullRequest) -> Result<String, Error> {
        Ok(self.drivers().image.pull(request).await.in_step("pull")?)
    }

    /// Brings in the images of an archive or layout on this node: id and names of each.
    pub async fn load_images(&self, path: &Path) -> Result<Vec<(String, Vec<String>)>, Error> {
        Ok(self.drivers().image.load(path).await.in_step("load")?)
    }

    /// Removes an image with all its names; `Ok` when there is none. Refused while a container is made of it.
    pub async fn remove_image(&self, image: String) -> Result<(), Error> {
        let this = self.clone();
        let in_use = Box::new(move |id: &str| {
            let (_, containers) = this.registry().snapshot();
            containers.iter().any(|cell| cell.made_of.image_id == id)
        });
        Ok(self
            .drivers()
            .image
            .remove(&image, in_use)
            .await
            .in_step("remove image")?)
    }
}
