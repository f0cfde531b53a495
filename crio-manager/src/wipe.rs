//! `crio-manager wipe`: removes what a daemon left on this node, while none runs.

use std::time::Duration;

use anyhow::Context as _;

use crate::config::Config;
use crate::drivers::seams::{ImageSummary, Loaded};
use crate::lifecycle::Lifecycle;
use crate::node;
use crate::progress;
use crate::service::manager;

/// How long what blocks in the kernel is waited for at the end.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// What goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Pods and containers, running ones too.
    Pods,
    /// And all images, pinned ones too.
    PodsAndImages,
}

/// Removes it, or only looks; a line for each thing that was there.
///
/// Errors: a daemon listens, or holds the directories; something could not be removed: it is named, and the next wipe goes
/// on there.
pub fn wipe(config: Config, scope: Scope, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the async runtime")?;
    let wiped = runtime.block_on(run(config, scope, dry_run));
    runtime.shutdown_timeout(LEAVE_LIMIT);
    wiped
}

async fn run(mut config: Config, scope: Scope, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let socket = config.api.listen.display();
    if manager::channel(&config.api.listen).await?.is_some() {
        anyhow::bail!("a daemon listens on {socket}: stop it first, `systemctl stop crio-manager.socket crio-manager`");
    }
    node::resolve_roots(&mut config)?;
    node::lock_images(&config)?;
    node::lock_records(&config)?;
    let (drivers, store) = node::drivers(&config, None, &Default::default()).await?;
    let lifecycle = Lifecycle::new(drivers, node::spec_defaults(&config)?);
    let drivers = lifecycle.drivers();
    let images = match scope {
        Scope::Pods => Vec::new(),
        Scope::PodsAndImages => drivers.image.list().context("images")?,
    };
    let found = lines(&drivers.store.load().await.context("records")?, &images);
    if !dry_run {
        let shown = progress::spinner("removing pods and containers".to_owned());
        lifecycle.wipe().await?;
        drop(shown);
        let shown = progress::bar(images.len(), "removing images".to_owned());
        for image in images {
            // No container is left that could need it.
            let removed = drivers.image.remove(&image.id, Box::new(|_| false)).await;
            removed.with_context(|| format!("image {}", image.id))?;
            shown.advance();
        }
    }
    store.shutdown().await;
    Ok(found)
}

fn lines(loaded: &Loaded, images: &[ImageSummary]) -> Vec<String> {
    let pods = loaded.sandboxes.iter().map(|record| {
        let of = &record.plan.metadata;
        format!("pod {} {}/{}", record.plan.id, of.namespace, of.name)
    });
    let containers = loaded.containers.iter().map(|record| {
        let of = &record.plan;
        format!(
            "container {} {}/{}/{}",
            of.id, of.pod.namespace, of.pod.name, of.metadata.name
        )
    });
    let lost_pods = loaded
        .lost_sandboxes
        .iter()
        .map(|id| format!("pod {id}, its record is unreadable"));
    let lost = loaded
        .lost_containers
        .iter()
        .map(|id| format!("container {id}, its record is unreadable"));
    let images = images
        .iter()
        .map(|image| format!("image {} {}", image.id, image.tags.join(" ")));
    let all = pods.chain(containers).chain(lost_pods).chain(lost).chain(images);
    all.map(|line| line.trim_end().to_owned()).collect()
}
