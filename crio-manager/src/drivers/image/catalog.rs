//! What there is, in memory: which names mean which image, and which layers are needed.

use super::config::{ImageConfig, Untrusted};
use super::digest::{self, DiffId, Digest, ImageId};
use super::layers::LayerSize;
use super::reference::{self, ImageRef};
use super::store::ImageRecord;
use super::{Error, Image, Node, Result, State};
use std::collections::BTreeSet;
use std::sync::Arc;

impl State {
    /// Rebuilds what follows from the names of all images. A tag that two images have, as after a crash, belongs to the one
    /// tagged later.
    pub(super) fn settle_names(&mut self, pinned_patterns: &[String]) {
        self.names.clear();
        let mut by_age: Vec<Arc<Image>> = self.images.values().cloned().collect();
        by_age.sort_by_key(|image| image.tagged_at_ns);
        for image in by_age {
            for name in image.tags.iter().chain(&image.digests) {
                let loser = self.names.insert(name.clone(), image.id.clone());
                if let Some(loser) = loser.and_then(|id| self.images.get_mut(&id)) {
                    Arc::make_mut(loser).tags.retain(|tag| tag != name);
                }
            }
        }
        for image in self.images.values_mut() {
            let pinned = is_pinned(&image.tags, pinned_patterns);
            if image.pinned != pinned {
                Arc::make_mut(image).pinned = pinned;
            }
        }
    }

    pub(super) fn unused_layers(&self) -> Vec<DiffId> {
        let of_images = self.images.values().flat_map(|image| &image.layers);
        let of_containers = self.rootfs.values().flat_map(|rootfs| rootfs.all_layers());
        let used: BTreeSet<&DiffId> = of_images.chain(of_containers).chain(self.leases.keys()).collect();
        self.layers
            .keys()
            .filter(|layer| !used.contains(layer))
            .cloned()
            .collect()
    }

    pub(super) fn forget_if_unused(&mut self, layer: &DiffId) -> Option<LayerSize> {
        let is_used = self.leases.contains_key(layer)
            || self.images.values().any(|image| image.layers.contains(layer))
            || self
                .rootfs
                .values()
                .any(|rootfs| rootfs.all_layers().any(|other| other == layer));
        if is_used { None } else { self.layers.remove(layer) }
    }
}

impl Node {
    /// Names before ids: a name that looks like the beginning of an id is still that name.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<Image>>> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = digest::is_lower_hex(hex);
        let state = self.state();
        if is_hex && let Ok(id) = Digest::parse(&format!("sha256:{hex}")).and_then(ImageId::try_from) {
            return Ok(state.images.get(&id).cloned());
        }
        let references = self.sources.registries().candidates(name);
        for reference in references.iter().flatten() {
            let found = reference
                .digested_name()
                .or_else(|| reference.tagged_name())
                .and_then(|n| state.names.get(&n));
            if let Some(image) = found.and_then(|id| state.images.get(id)) {
                return Ok(Some(Arc::clone(image)));
            }
        }
        if is_hex && hex.len() >= reference::MIN_ID_PREFIX {
            let mut matching = state.images.values().filter(|image| image.id.hex().starts_with(hex));
            return match (matching.next(), matching.next()) {
                (Some(_), Some(_)) => Err(Error::AmbiguousId {
                    prefix: name.to_owned(),
                }),
                (found, _) => Ok(found.cloned()),
            };
        }
        references.map(|_| None)
    }

    /// Keeps `layers` from being removed until the lease is dropped.
    pub(super) fn lease(self: &Arc<Self>, layers: &[DiffId]) -> Lease {
        let mut state = self.state();
        for layer in layers {
            *state.leases.entry(layer.clone()).or_default() += 1;
        }
        Lease {
            node: Arc::clone(self),
            layers: layers.to_vec(),
        }
    }
}

/// A claim on layers; see [`Node::lease`].
pub(super) struct Lease {
    node: Arc<Node>,
    layers: Vec<DiffId>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.node.state();
        for layer in &self.layers {
            if let Some(count) = state.leases.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(layer);
                }
            }
        }
    }
}

impl Image {
    pub(super) fn new(record: ImageRecord, config: ImageConfig) -> Self {
        Self {
            id: record.id,
            kind: record.kind,
            tags: record.tags,
            digests: record.digests,
            size_bytes: record.size_bytes,
            pinned: false, // until its names are settled
            layers: record.layers,
            config: Arc::new(Untrusted::new(config)),
            config_text: record.config.into(),
            tagged_at_ns: record.tagged_at_ns,
        }
    }

    pub(super) fn record(&self) -> ImageRecord {
        ImageRecord {
            id: self.id.clone(),
            kind: self.kind,
            config: self.config_text.to_string(),
            layers: self.layers.clone(),
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            size_bytes: self.size_bytes,
            tagged_at_ns: self.tagged_at_ns,
        }
    }
}

fn is_pinned(tags: &[String], patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| {
        let matches = |tag: &String| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(_), Some(_)) => tag.contains(pattern.trim_matches('*')),
            (None, Some(prefix)) => tag.starts_with(prefix),
            _ => tag == pattern || ImageRef::parse(pattern).is_ok_and(|name| name.to_string() == *tag),
        };
        tags.iter().any(matches)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_names_are_exact_or_begin_or_contain() {
        let tags = ["docker.io/library/pause:3.10".to_owned()];
        for (pattern, pins) in [
            ("docker.io/library/pause:3.10", true),
            ("pause:3.10", true),
            ("docker.io/library/pause:*", true),
            ("*pause*", true),
            ("pause:3.1", false),
            ("pause*", false),
            ("*other*", false),
        ] {
            assert_eq!(is_pinned(&tags, &[pattern.to_owned()]), pins, "{pattern}");
        }
    }
}
