//! Images: pulling and removing. Looking is for the driver, from memory.

use super::Lifecycle;
use super::error::{Error, Step};
use super::under_way::{PATIENCE, PULL_PATIENCE, UnderWay};
use crate::drivers::image::PullRequest;
use crate::drivers::seams::DriverResult;
use std::path::Path;
use std::time::Duration;

impl Lifecycle {
    /// Pulls an image; its id.
    pub async fn pull_image(&self, request: PullRequest) -> Result<String, Error> {
        self.one_step("pull", PULL_PATIENCE, self.drivers().image.pull(request))
            .await
    }

    /// Brings in the images of an archive or layout on this node: id and names of each.
    pub async fn load_images(&self, path: &Path) -> Result<Vec<(String, Vec<String>)>, Error> {
        self.one_step("load", PULL_PATIENCE, self.drivers().image.load(path))
            .await
    }

    /// Removes an image with all its names; `Ok` when there is none. Refused while a container is made of it or has it as a volume.
    pub async fn remove_image(&self, image: String) -> Result<(), Error> {
        let this = self.clone();
        let in_use = Box::new(move |id: &str| {
            let (_, containers) = this.registry().snapshot();
            let mut made_of = containers.iter().map(|cell| &cell.made_of);
            made_of.any(|facts| facts.image_id == id || facts.volume_images.values().any(|volume| volume == id))
        });
        self.one_step("remove image", PATIENCE, self.drivers().image.remove(&image, in_use))
            .await
    }

    /// A verb of one step. The image store has its own tasks: what it does goes on when the wait is over.
    async fn one_step<T>(
        &self,
        name: &'static str,
        limit: Duration,
        call: impl Future<Output = DriverResult<T>> + Send,
    ) -> Result<T, Error> {
        let under_way = UnderWay::new(name);
        let _entered = self.room.verbs.enter(&under_way);
        let outcome = under_way.clone().during(async { Ok(call.step(name).await?) });
        under_way.within(Some(limit), outcome).await
    }
}
